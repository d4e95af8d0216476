//! A directory that is a layer of an overlay: whose it is, and making one.

use std::fmt;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, Gid, Mode, RenameFlags, Uid};
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
    rustix::fs::chown(&by_path, Some(Uid::from_raw(ownership.user)), Some(Gid::from_raw(ownership.group)))?;
    rustix::fs::chmod(&by_path, Mode::from_raw_mode(ownership.mode))?;
    rustix::fs::renameat_with(state, &new, state, name, RenameFlags::NOREPLACE)?;
    Ok(())
}
