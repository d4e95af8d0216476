//! A directory that is a layer of an overlay: whose it is, and making one.

use std::fmt;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, Gid, Mode, RenameFlags, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::kernel::lookup::{self, Links, LookupError};

/// Who owns a directory, and its permission bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ownership {
    /// Its user.
    pub user: u32,
    /// Its group.
    pub group: u32,
    /// Its mode, without its kind.
    pub mode: u32,
}

impl Ownership {
    /// That of an open directory.
    pub fn of(directory: impl AsFd) -> Result<Self, Errno> {
        let stat = rustix::fs::fstat(directory)?;
        Ok(Self { user: stat.st_uid, group: stat.st_gid, mode: stat.st_mode & 0o7777 })
    }
}

/// `0:0 0755`
impl fmt::Display for Ownership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{} {:04o}", self.user, self.group, self.mode)
    }
}

/// Who may do what, and what is made in a directory inherits. A new directory has those of the one that it is made in.
const ACCESS_LISTS: [&str; 2] = ["system.posix_acl_access", "system.posix_acl_default"];
/// What SELinux takes a directory for.
const LABEL: &str = "security.selinux";
/// The longest attribute that is given, in bytes: a label of SELinux is at most this.
const MAX_ATTRIBUTE: usize = 4096;

/// Gives a directory the access lists of another, or none, and its label, if it has one. An access list has a part of the mode: both
/// are to be of the same directory.
pub fn give_attributes(directory: impl AsFd, like: impl AsFd) -> Result<(), Errno> {
    let (path, like) = (lookup::proc_path(directory.as_fd()), lookup::proc_path(like.as_fd()));
    let mut buffer = [0; MAX_ATTRIBUTE];
    for name in ACCESS_LISTS {
        set_attribute(&path, name, attribute(&like, name, &mut buffer)?)?;
    }
    copy_label(&path, &like)
}

/// Gives a file or a directory the label of another, if that has one.
pub fn give_label(file: impl AsFd, like: impl AsFd) -> Result<(), Errno> {
    copy_label(&lookup::proc_path(file.as_fd()), &lookup::proc_path(like.as_fd()))
}

fn copy_label(path: &str, like: &str) -> Result<(), Errno> {
    match attribute(like, LABEL, &mut [0; MAX_ATTRIBUTE])? {
        Some(label) => set_attribute(path, LABEL, Some(label)),
        None => Ok(()),
    }
}

/// The label of a file or a directory, if it has one.
pub fn label_of(file: impl AsFd) -> Result<Option<Vec<u8>>, Errno> {
    Ok(attribute(&lookup::proc_path(file.as_fd()), LABEL, &mut [0; MAX_ATTRIBUTE])?.map(<[u8]>::to_vec))
}

/// Gives a file or a directory a label, if there is one to give.
pub fn set_label(file: impl AsFd, label: Option<&[u8]>) -> Result<(), Errno> {
    label.map_or(Ok(()), |label| set_attribute(&lookup::proc_path(file.as_fd()), LABEL, Some(label)))
}

/// Whether a directory has a label.
pub fn has_label(directory: impl AsFd) -> Result<bool, Errno> {
    Ok(attribute(&lookup::proc_path(directory.as_fd()), LABEL, &mut [0; MAX_ATTRIBUTE])?.is_some())
}

/// Gives a file the time of the last change of another's content: `.updated` says with it what it is newer than.
pub fn give_time(file: impl AsFd, like: impl AsFd) -> Result<(), Errno> {
    set_time(file, time_of(&rustix::fs::fstat(like)?))
}

/// When the content changed for the last time. A crafted filesystem can say what is no time.
pub fn time_of(stat: &Stat) -> Timespec {
    Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ }
}

/// Gives a file that time.
pub fn set_time(file: impl AsFd, changed: Timespec) -> Result<(), Errno> {
    rustix::fs::futimens(file, &Timestamps { last_access: changed, last_modification: changed })
}

/// Gives a file or a directory an owner and a mode, in this order: a new owner takes bits of the mode away.
pub fn give_ownership(file: impl AsFd, ownership: Ownership) -> Result<(), Errno> {
    let path = lookup::proc_path(file.as_fd());
    rustix::fs::chown(&path, Some(Uid::from_raw(ownership.user)), Some(Gid::from_raw(ownership.group)))?;
    rustix::fs::chmod(&path, Mode::from_raw_mode(ownership.mode))
}

fn attribute<'a>(path: &str, name: &str, buffer: &'a mut [u8]) -> Result<Option<&'a [u8]>, Errno> {
    match rustix::fs::getxattr(path, name, &mut *buffer) {
        Ok(length) => Ok(buffer.get(..length)),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(reason) => Err(reason),
    }
}

/// Sets an attribute that is not that already, or removes it. Nothing is written where nothing changes.
fn set_attribute(path: &str, name: &str, value: Option<&[u8]>) -> Result<(), Errno> {
    let mut buffer = [0; MAX_ATTRIBUTE];
    let found = match attribute(path, name, &mut buffer) {
        // One that is longer is another.
        Err(Errno::RANGE) => Some(&[][..]),
        found => found?,
    };
    match value {
        _ if found == value => Ok(()),
        Some(value) => rustix::fs::setxattr(path, name, value, XattrFlags::empty()),
        None => rustix::fs::removexattr(path, name),
    }
}

/// Makes a directory under another name first: after a power cut it is there as it must be, or not at all.
pub fn make(state: impl AsFd + Copy, name: &str, ownership: Ownership) -> Result<(), LookupError> {
    let new = format!("{name}.new");
    match rustix::fs::unlinkat(state, &new, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(reason) => return Err(reason.into()),
    }
    rustix::fs::mkdirat(state, &new, Mode::RWXU)?;
    let fd = lookup::directory(state, &new, Links::Refused)?;
    let by_path = lookup::proc_path(fd.as_fd());
    for name in ACCESS_LISTS {
        set_attribute(&by_path, name, None)?;
    }
    give_ownership(&fd, ownership)?;
    rustix::fs::renameat_with(state, &new, state, name, RenameFlags::NOREPLACE)?;
    Ok(())
}
