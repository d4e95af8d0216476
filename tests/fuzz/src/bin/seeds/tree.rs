//! Small trees on the disk, the same whenever they are made.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps};

use crate::Result;

/// A small root with every kind of file, a directory of several blocks, and a content that is there twice.
pub fn full(root: &Path) -> Result {
    for folder in ["etc", "var", "sysroot", "dev", "run", "usr/lib/many"] {
        fs::create_dir_all(root.join(folder))?;
    }
    symlink("usr/lib", root.join("lib"))?;
    rustix::fs::mknodat(CWD, root.join("run/fifo"), FileType::Fifo, Mode::from_raw_mode(0o644), 0)?;
    fs::write(root.join("etc/inline"), "small\n")?;
    let library = root.join("usr/lib");
    fs::write(library.join("object"), (1..=100).map(|number| format!("{number}\n")).collect::<String>())?;
    fs::copy(library.join("object"), library.join("copy"))?;
    fs::hard_link(library.join("object"), library.join("hardlink"))?;
    fs::write(library.join("empty"), "")?;
    for number in 1..=100 {
        fs::write(library.join(format!("many/{number:03}-with-a-name-that-fills-a-block-sooner")), "")?;
    }
    set_times(root)
}

/// A root with nothing but the mount points.
pub fn bare(root: &Path) -> Result {
    for folder in ["etc", "var", "sysroot", "usr"] {
        fs::create_dir_all(root.join(folder))?;
    }
    set_times(root)
}

/// One time for everything.
fn set_times(path: &Path) -> Result {
    let metadata = fs::symlink_metadata(path)?;
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            set_times(&entry?.path())?;
        }
    }
    let time = Timespec { tv_sec: 1_700_000_000, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}
