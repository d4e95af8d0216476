//! `sealroot probe`: what this kernel and the filesystem of a repository can do for a sealed root.
//!
//! By trying it, on filesystem contexts that are mounted nowhere.

use std::fmt;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use miniserde::Serialize;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsOpenFlags, fsconfig_create, fsconfig_set_fd, fsconfig_set_string, fsopen};
use sealroot::kernel::Kernel;
use sealroot::kernel::forms::MountTable;
use sealroot::kernel::mounts;
use sealroot::verity::ask_kernel::{self, filesystem_without_verity, too_small_blocks};

use crate::arguments::{BOOTED_REPOSITORY, ProbeArguments};
use crate::output::{Answer, Failure, Finding, Page, Paint, printable};

/// What can be done here.
#[derive(Debug, Serialize)]
pub struct Probe {
    kernel: String,
    features: Vec<Feature>,
}

/// One thing that a kernel or a filesystem may be able to do.
#[derive(Debug, Serialize)]
struct Feature {
    feature: String,
    /// The release of Linux that has it first.
    since: &'static str,
    found: bool,
    needed: bool,
    /// What happens without it, or why it is not there.
    without: String,
}

pub fn run(arguments: &ProbeArguments) -> Result<Probe, Failure> {
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    let path = arguments.repository.as_deref().unwrap_or_else(|| {
        let booted = Path::new(BOOTED_REPOSITORY);
        if booted.exists() { booted } else { Path::new("/") }
    });
    let name = printable(path.as_os_str().as_encoded_bytes());
    let open = |flags: OFlags| {
        rustix::fs::open(path, flags | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|reason| Failure::Reason(format!("'{name}': {reason}")))
    };
    let (directory, location) = (open(OFlags::RDONLY)?, open(OFlags::PATH)?);
    let mut features = vec![fs_verity(&name, File::from(directory.try_clone()?))];
    let overlay = |option: &str| {
        let context = context("overlay")?;
        Ok::<_, Failure>(supported(fsconfig_set_string(context.as_fd(), option, "require"))?)
    };
    features.push(Feature {
        feature: "overlayfs: verity=require".into(),
        since: "6.6",
        found: overlay("verity")?,
        needed: true,
        without: "every boot is refused".into(),
    });
    // In one string, the form that every release has, where a path could have a colon in it.
    let layer = format!("/proc/self/fd/{}", directory.as_raw_fd());
    let layer = supported(fsconfig_set_string(context("overlay")?.as_fd(), "lowerdir", layer))?;
    features.push(Feature {
        feature: "overlayfs: layers on this filesystem".into(),
        since: "6.5",
        found: layer,
        needed: true,
        without: "every boot is refused: it has the feature 'casefold', which goes with Linux 6.17 or newer".into(),
    });
    let erofs = context("erofs")?;
    let (found, without) = match erofs_from_a_file(&erofs, &directory) {
        Ok(found) => (found, "a loop device".into()),
        Err(reason) => (false, format!("not known, no file to try at '{name}' ({reason})")),
    };
    features.push(Feature { feature: "EROFS from a file".into(), since: "6.12", found, needed: false, without });
    let by_path = fsconfig_set_string(context("overlay")?.as_fd(), "lowerdir+", path);
    let by_descriptor = |fd: &OwnedFd| Ok::<_, Failure>(fsconfig_set_fd(context("overlay")?.as_fd(), "lowerdir+", fd));
    for (feature, since, result, without) in [
        ("overlayfs: layers one by one", "6.7", by_path, "one string of layers"),
        ("overlayfs: layers by descriptor", "6.13", by_descriptor(&directory)?, "paths through /proc/self/fd"),
        ("overlayfs: detached mounts as layers", "6.15", by_descriptor(&location)?, "mounts in a private directory"),
    ] {
        let found = supported(result)?;
        features.push(Feature { feature: feature.into(), since, found, needed: false, without: without.into() });
    }
    let known = Kernel::new();
    mounts::mount_of(&location, &known)?;
    features.push(Feature {
        feature: "statmount with source and options".into(),
        since: "6.13",
        found: known.mount_table() == MountTable::Statmount,
        needed: false,
        without: "/proc/self/mountinfo".into(),
    });
    Ok(Probe { kernel, features })
}

/// A filesystem context; its module is loaded where that can be.
fn context(filesystem: &str) -> Result<OwnedFd, Failure> {
    fsopen(filesystem, FsOpenFlags::FSOPEN_CLOEXEC).map_err(|reason| match reason {
        Errno::NODEV => format!("filesystem '{filesystem}': expected it in the kernel or as a module: {reason}").into(),
        Errno::PERM => Failure::Reason(format!("expected to run as root: {reason}")),
        _ => format!("filesystem '{filesystem}': {reason}").into(),
    })
}

/// Whether the kernel took an option.
fn supported(result: Result<(), Errno>) -> Result<bool, Errno> {
    match result {
        Ok(()) => Ok(true),
        // One that it does not know, or in a form that it does not know.
        Err(Errno::INVAL | Errno::BADF | Errno::OPNOTSUPP) => Ok(false),
        Err(reason) => Err(reason),
    }
}

/// By a file that is no EROFS: a kernel that would mount one finds that out, another wants a block device. It must lie
/// where the page cache can be filled from, which a tmpfs is not.
fn erofs_from_a_file(context: &OwnedFd, directory: &OwnedFd) -> Result<bool, Errno> {
    let file = file_to_try(directory)?;
    fsconfig_set_string(context.as_fd(), "source", format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    Ok(!matches!(fsconfig_create(context.as_fd()), Err(Errno::NOTBLK)))
}

/// A file that a repository has, else one without a name: nothing is left of it. The kernel opens it again, and would
/// wait for the writer of a FIFO.
fn file_to_try(directory: &OwnedFd) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    if let Ok(file) = rustix::fs::openat(directory, "meta.json", flags, Mode::empty())
        && FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) == FileType::RegularFile
    {
        return Ok(file);
    }
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, ".", flags, Mode::RUSR)?;
    rustix::fs::ftruncate(&file, 4096)?;
    Ok(file)
}

/// fs-verity on the filesystem of a directory, which is something without it where there is fs-verity.
fn fs_verity(name: &str, directory: File) -> Feature {
    let is_known = matches!(ask_kernel::measure(&directory), Ok(_) | Err(Errno::NODATA));
    let blocks = too_small_blocks(&directory);
    let found = is_known && blocks.is_none();
    let without = match (is_known, blocks) {
        (true, None) => String::new(),
        (true, Some(blocks)) => format!("there is none, {blocks}"),
        (false, _) => filesystem_without_verity(&directory),
    };
    Feature { feature: format!("fs-verity at '{name}'"), since: "5.4", found, needed: true, without }
}

impl Finding for Probe {
    fn answer(&self) -> Answer {
        Answer::if_so(self.features.iter().all(|feature| feature.found || !feature.needed))
    }

    fn write_text(&self, text: &mut Page, paint: Paint) -> fmt::Result {
        writeln!(text, "Linux {}", self.kernel)?;
        for Feature { feature, since, found, needed, without } in &self.features {
            let (found, note) = match (found, needed) {
                (true, _) => (paint.good("yes"), String::new()),
                (false, true) => (paint.bad("no "), format!("needed: {without}")),
                (false, false) => ("no ".into(), format!("instead: {without}")),
            };
            writeln!(text, "{}", format!("{found}  {feature:37} (Linux {since})  {note}").trim_end())?;
        }
        Ok(())
    }
}
