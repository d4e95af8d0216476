//! Files that are none, and files that never end, in the place of those that the command expects. Each subcommand gives
//! an error or an answer, in bounded time and memory.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::mkfifo;

use crate::lab::{self, Lab, write};
use crate::limited;

/// What there is instead of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hostile {
    Directory,
    /// An open waits for ever, unless it asks not to.
    Fifo,
    Socket,
    /// `/dev/zero` by another name: a read never ends.
    EndlessDevice,
    /// A disk that nothing drives.
    AbsentDevice,
    /// A link to itself.
    LinkLoop,
    /// A link to this.
    Link(&'static str),
    /// So many zeros, which take no place on the disk.
    Huge(u64),
    /// The first bytes of an image.
    Truncated(usize),
}

/// Longer than anyone can read.
const TIB: u64 = 1 << 40;

/// Everything that is no regular file, or none that can be read to its end.
pub const NO_FILES: [Hostile; 9] = [
    Hostile::Directory,
    Hostile::Fifo,
    Hostile::Socket,
    Hostile::EndlessDevice,
    Hostile::AbsentDevice,
    Hostile::LinkLoop,
    Hostile::Link("/nowhere"),
    Hostile::Link("/dev/zero"),
    // Of an address where nothing is.
    Hostile::Link("/proc/self/mem"),
];

/// Regular files, some of which hold nothing until they are read, or wait at their end.
const FILES: [Hostile; 6] = [
    Hostile::Link("/proc/kmsg"),
    Hostile::Link("/proc/self/maps"),
    Hostile::Truncated(0),
    Hostile::Truncated(1),
    Hostile::Truncated(4096),
    Hostile::Truncated(5000),
];

impl Hostile {
    /// Puts it at a path where nothing is.
    pub fn put(self, path: &Path, image: &[u8]) {
        let node = |kind, device| mknod(path, kind, Mode::from_bits_truncate(0o600), device).unwrap();
        match self {
            Self::Directory => fs::create_dir(path).unwrap(),
            Self::Fifo => mkfifo(path, Mode::from_bits_truncate(0o600)).unwrap(),
            Self::Socket => {
                // An address has room for about a hundred bytes. The file stays when the socket is closed.
                let short = path.with_file_name("socket");
                drop(UnixListener::bind(&short).unwrap());
                fs::rename(short, path).unwrap();
            }
            Self::EndlessDevice => node(SFlag::S_IFCHR, makedev(1, 5)),
            Self::AbsentDevice => node(SFlag::S_IFBLK, makedev(240, 7)),
            Self::LinkLoop => symlink(path.file_name().unwrap(), path).unwrap(),
            Self::Link(target) => symlink(target, path).unwrap(),
            Self::Huge(size) => File::create(path).unwrap().set_len(size).unwrap(),
            Self::Truncated(length) => write(path, &image[..length]),
        }
    }

    /// Takes it away again.
    pub fn remove(self, path: &Path) {
        if self == Self::Directory { fs::remove_dir(path) } else { fs::remove_file(path) }.unwrap();
    }
}

const HOSTILE: &str = "/run/lab/hostile";

/// Puts something hostile at a path, and takes it away when the test is done with it.
fn with_file(hostile: Hostile, image: &[u8], test: impl FnOnce()) {
    let path = Path::new(HOSTILE);
    hostile.put(path, image);
    test();
    hostile.remove(path);
}

/// All ways of naming one file or directory to the command.
fn every_argument(digest: &str) -> Vec<Vec<&str>> {
    vec![
        vec!["digest", HOSTILE],
        vec!["digest", "--algorithm", "sha512", HOSTILE],
        vec!["enable", HOSTILE],
        vec!["enable", "--repo", HOSTILE],
        vec!["inspect", HOSTILE],
        vec!["inspect", "--list", HOSTILE],
        vec!["inspect", HOSTILE, "/usr"],
        vec!["inspect", "--repo", HOSTILE, digest],
        vec!["karg", HOSTILE],
        vec!["karg", "--algorithm", "sha256", HOSTILE],
        vec!["karg", "--repo", HOSTILE, digest],
        vec!["probe", "--repo", HOSTILE],
        vec!["uki", HOSTILE],
        vec!["uki", "--strict", "--repo", HOSTILE, HOSTILE],
        vec!["verify", "--repo", HOSTILE, "--all"],
        vec!["verify", "--repo", HOSTILE, digest],
    ]
}

/// Those that read whatever a file holds to its end.
fn reads_to_the_end(arguments: &[&str]) -> bool {
    matches!(arguments, ["digest" | "enable", .., file] if *file == HOSTILE && !arguments.contains(&"--repo"))
}

fn image(lab: &Lab) -> Vec<u8> {
    fs::read(lab.image_path()).unwrap()
}

#[test]
fn no_files() {
    lab::with("sha512", |lab| {
        for hostile in NO_FILES {
            with_file(hostile, &[], || {
                for arguments in every_argument(lab.digest()) {
                    let status = limited::sealroot(&arguments);
                    // A directory without anything in it is no repository, but `probe` asks about its filesystem.
                    assert_ne!(status, 0, "{hostile:?}: sealroot {arguments:?}");
                }
            });
        }
    });
}

#[test]
fn files_that_are_no_images() {
    lab::with("sha512", |lab| {
        let image = image(lab);
        for hostile in FILES {
            with_file(hostile, &image, || {
                for arguments in every_argument(lab.digest()) {
                    let status = limited::sealroot(&arguments);
                    // Of what begins as an image does, this is the karg, whatever else is in it.
                    let is_karg = arguments.starts_with(&["karg", "--algorithm"]);
                    let may_be_answered = is_karg || reads_to_the_end(&arguments);
                    assert!(status != 0 || may_be_answered, "{hostile:?}: sealroot {arguments:?}");
                }
            });
        }
    });
}

/// Only what must read all of a file reads more of it than its start.
#[test]
fn a_file_that_is_huge() {
    lab::with("sha512", |lab| {
        // The second one says that it is empty, and holds some bytes for each page that a process can have.
        for hostile in [Hostile::Huge(TIB), Hostile::Link("/proc/self/pagemap")] {
            with_file(hostile, &[], || {
                for arguments in every_argument(lab.digest()).iter().filter(|arguments| !reads_to_the_end(arguments)) {
                    assert_ne!(limited::sealroot(arguments), 0, "{hostile:?}: sealroot {arguments:?}");
                }
            });
        }
        // These take as long as there is to read, but no more memory.
        with_file(Hostile::Huge(256 << 20), &[], || {
            assert_eq!(limited::sealroot(&["digest", HOSTILE]), 0);
            assert_eq!(limited::sealroot(&["enable", HOSTILE]), 1);
        });
    });
}

/// An image that becomes another, shorter and longer while it is read. A mapped file that loses its end would be a signal.
#[test]
fn a_file_that_changes() {
    lab::with("sha512", |lab| {
        let image = image(lab);
        write(Path::new(HOSTILE), &image);
        let is_done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let file = File::options().write(true).open(HOSTILE).unwrap();
                while !is_done.load(Ordering::Relaxed) {
                    for length in [image.len() / 2, 5000, 1024, 0] {
                        file.set_len(length as u64).unwrap();
                    }
                    file.write_all_at(&image, 0).unwrap();
                    file.write_all_at(&[0xff; 4096], (image.len() as u64 / 3) & !4095).unwrap();
                    file.write_all_at(&image, 0).unwrap();
                }
            });
            let result = thread::scope(|scope| {
                scope
                    .spawn(|| {
                        for arguments in every_argument(lab.digest()) {
                            for _ in 0..3 {
                                limited::sealroot(&arguments);
                            }
                        }
                    })
                    .join()
            });
            is_done.store(true, Ordering::Relaxed);
            result.unwrap();
        });
    });
}

/// `status` asks about the running system, whose parts are files too.
#[test]
fn status_of_a_hostile_system() {
    lab::with("sha512", |_| {
        fs::create_dir("/run/sealroot").unwrap();
        let report = Path::new("/run/sealroot/report.json");
        // Nobody but root puts anything there: a FIFO is what root waits at.
        for hostile in NO_FILES.into_iter().filter(|hostile| *hostile != Hostile::Fifo).chain([Hostile::Huge(TIB)]) {
            hostile.put(report, &[]);
            assert_eq!(limited::sealroot(&["status"]), 1, "{hostile:?}");
            hostile.remove(report);
        }
    });
}
