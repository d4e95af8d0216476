//! Opening what lies on an untrusted disk: below a directory, never through a way out of it.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::path::Arg;
use thiserror::Error;

/// How often a look-up that a concurrent rename or mount disturbed is tried again (`EAGAIN` of openat2(2)).
const ATTEMPTS: usize = 128;

/// For reading, and without waiting for anything.
const READING: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY);
/// Links are followed as a process does whose root the directory is.
const IN_ROOT: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_XDEV).union(ResolveFlags::NO_MAGICLINKS);

/// Whether symbolic links on the way are followed, as long as they stay below the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// Followed.
    Beneath,
    /// `ELOOP`.
    Refused,
}

/// Why something that should be a file of one kind cannot be used.
#[derive(Debug, Error)]
pub enum LookupError {
    /// The kernel's reason.
    #[error(transparent)]
    Kernel(#[from] Errno),
    /// There is something else with that name.
    #[error("expected {expected}, found {found}")]
    Kind {
        /// What should be there.
        expected: &'static str,
        /// What is there.
        found: &'static str,
    },
}

impl Links {
    fn resolve(self) -> ResolveFlags {
        match self {
            Self::Beneath => ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
            Self::Refused => ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
        }
    }
}

/// The path of an open directory from another one that it lies below, as the kernel knows it, whatever links led there.
pub fn path_below(above: impl AsFd, directory: impl AsFd) -> Result<Vec<u8>, Errno> {
    let path = |fd: BorrowedFd<'_>| rustix::fs::readlink(proc_path(fd), Vec::new()).map(std::ffi::CString::into_bytes);
    let (above, path) = (path(above.as_fd())?, path(directory.as_fd())?);
    let above = above.strip_suffix(b"/").unwrap_or(&above);
    let below = path.strip_prefix(above).filter(|below| below.is_empty() || below.starts_with(b"/"));
    below.map(<[u8]>::to_vec).ok_or(Errno::XDEV)
}

/// Opens `path` below `directory` for use as a location only (`O_PATH`).
pub fn location(directory: impl AsFd, path: impl Arg + Copy, links: Links) -> Result<OwnedFd, Errno> {
    openat2(directory, path, OFlags::PATH, links.resolve())
}

/// [`location`] of a directory.
pub fn directory(directory: impl AsFd, path: impl Arg + Copy, links: Links) -> Result<OwnedFd, LookupError> {
    match openat2(&directory, path, OFlags::PATH | OFlags::DIRECTORY, links.resolve()) {
        // What is there instead is said by a look at it.
        Err(Errno::NOTDIR) => {
            let fd = location(directory, path, links)?;
            expect_kind(&fd, FileType::Directory)?;
            Ok(fd)
        }
        result => Ok(result?),
    }
}

/// [`location`] of whatever `name` is in `directory`, a link itself too, on the same mount.
pub fn entry(directory: impl AsFd, name: impl Arg + Copy) -> Result<OwnedFd, Errno> {
    let resolve = Links::Refused.resolve() | ResolveFlags::NO_XDEV;
    openat2(directory, name, OFlags::PATH | OFlags::NOFOLLOW, resolve)
}

/// The same, whatever is mounted there.
pub fn entry_or_mount(directory: impl AsFd, name: impl Arg + Copy) -> Result<OwnedFd, Errno> {
    openat2(directory, name, OFlags::PATH | OFlags::NOFOLLOW, Links::Refused.resolve())
}

/// What is in a directory, `.` and `..` too.
pub fn entries(directory: impl AsFd) -> Result<Dir, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Dir::new(rustix::fs::openat(directory, ".", flags, Mode::empty())?)
}

/// [`location`] of a regular file.
pub fn regular_file(directory: impl AsFd, path: impl Arg + Copy, links: Links) -> Result<OwnedFd, LookupError> {
    let fd = location(directory, path, links)?;
    expect_kind(&fd, FileType::RegularFile)?;
    Ok(fd)
}

/// `path` as a process whose root is `root` would find it, without leaving the mount at `root`
/// (`EXDEV` where the way leads through another mount).
pub fn regular_file_in_root(root: impl AsFd, path: &str) -> Result<OwnedFd, LookupError> {
    let fd = openat2(root, path, OFlags::PATH, IN_ROOT)?;
    expect_kind(&fd, FileType::RegularFile)?;
    Ok(fd)
}

/// Opens the same file for reading in one go, for sealed trees, where nobody can have put what must not be opened. `None`
/// where that fails for whatever reason: going there step by step tells which.
pub fn open_in_root(root: impl AsFd, path: &str) -> Option<File> {
    let fd = openat2(root, path, READING, IN_ROOT).ok()?;
    expect_kind(&fd, FileType::RegularFile).ok()?;
    Some(fd.into())
}

/// Opens the regular file behind a location for reading.
///
/// Only now does the filesystem's own open run, on something that is known to be a regular file: opening a FIFO would
/// wait, opening a device could do anything.
pub fn reopen(location: BorrowedFd<'_>) -> Result<File, Errno> {
    rustix::fs::open(proc_path(location), READING | OFlags::CLOEXEC, Mode::empty()).map(File::from)
}

/// The path that names an open file to system calls that take none: `/proc/self/fd/N`. It is of use only while the
/// file is open, so an owned descriptor cannot be given away here.
pub fn proc_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn openat2(
    directory: impl AsFd,
    path: impl Arg + Copy,
    flags: OFlags,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    let mut attempts = ATTEMPTS;
    loop {
        match rustix::fs::openat2(directory.as_fd(), path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN) if attempts > 0 => attempts -= 1,
            result => return result,
        }
    }
}

fn expect_kind(fd: &OwnedFd, expected: FileType) -> Result<(), LookupError> {
    let found = FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode);
    if found == expected {
        return Ok(());
    }
    Err(LookupError::Kind { expected: kind_name(expected), found: kind_name(found) })
}

/// For messages.
pub fn kind_name(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "a regular file",
        FileType::Directory => "a directory",
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::CharacterDevice => "a character device",
        FileType::BlockDevice => "a block device",
        FileType::Unknown => "a file of unknown type",
    }
}
