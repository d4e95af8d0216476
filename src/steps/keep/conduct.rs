//! What a listed entry on the disk must be like to be kept: nothing that does more than its content says.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

use super::Reason;
use crate::kernel::lookup;

/// The most permissive mode of a file, or of a directory that the sealed root lacks.
const USUAL_MODE: u32 = 0o755;
/// Where a link in /etc may lead: the sealed root has it.
const LINK_TARGETS: &[u8] = b"usr/share/";

/// `/etc/localtime` is a link to a file of the time zones.
const TIME_ZONE: &[u8] = b"localtime";

/// A file with it takes its content from a file of a lower layer, where an overlay is mounted with the option metacopy.
const METACOPY: &str = "trusted.overlay.metacopy";

/// An entry, open as a location, with what the sealed root has at the same path.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    pub(super) fd: OwnedFd,
    pub(super) stat: Stat,
    pub(super) sealed: Option<Stat>,
    /// Its path below /etc.
    pub(super) path: &'a [u8],
    /// Whether what a link leads to can be written to.
    pub(super) root: RootIs,
}

/// Whether the root takes changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RootIs {
    ReadOnly,
    /// Until the next boot.
    Transient,
}

pub(super) fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

pub(super) fn is_directory(stat: &Stat) -> bool {
    kind(stat) == FileType::Directory
}

impl<'a> Entry<'a> {
    /// What is at `name` in a directory of the disk.
    pub(super) fn open(
        directory: &OwnedFd,
        name: &CStr,
        sealed: Option<Stat>,
        path: &'a [u8],
        root: RootIs,
    ) -> Result<Self, Errno> {
        let fd = lookup::entry(directory, name)?;
        let stat = rustix::fs::fstat(&fd)?;
        Ok(Self { fd, stat, sealed, path, root })
    }

    /// Why it is not kept, whatever the list says.
    pub(super) fn misconduct(&self) -> Result<Option<Reason>, Errno> {
        let Self { fd, stat, sealed, .. } = self;
        let sealed = sealed.as_ref();
        // A file in the place of a sealed directory would hide it, and the other way round.
        if sealed.is_some_and(|sealed| is_directory(sealed) != is_directory(stat)) {
            return Ok(Some(Reason::Kind));
        }
        let allowed = match (kind(stat), sealed) {
            // It is made as the sealed one.
            (FileType::Directory, Some(_)) => return Ok(None),
            // As a file it is read by PID 1 and all others, and takes them long if somebody made it so.
            (FileType::RegularFile, _) if self.path == TIME_ZONE => return Ok(Some(Reason::Kind)),
            (FileType::Directory | FileType::RegularFile, _) => USUAL_MODE,
            (FileType::Symlink, _) if self.may_be_a_link() && self.leads_to_usr()? => 0o7777,
            (FileType::Symlink, _) => return Ok(Some(Reason::Link)),
            // Devices, FIFOs, sockets, and whiteouts, which hide a sealed file.
            _ => return Ok(Some(Reason::Kind)),
        };
        let group = sealed.map_or(0, |sealed| sealed.st_gid);
        Ok(if stat.st_uid != 0 || (stat.st_gid != 0 && stat.st_gid != group) {
            Some(Reason::Owner)
        } else if stat.st_mode & 0o7777 & !allowed != 0 {
            Some(Reason::Mode)
        } else if kind(stat) == FileType::RegularFile && has_attribute(fd, METACOPY)? {
            Some(Reason::Metacopy)
        } else {
            None
        })
    }

    /// A link of /usr may lead on to where code is, so that only the one is kept that is a link by its nature, and that programs
    /// read and replace, but do not write through. Where /usr takes changes, none is: a write would change what the attacker's link
    /// names.
    fn may_be_a_link(&self) -> bool {
        self.path == TIME_ZONE && self.root == RootIs::ReadOnly
    }

    /// Whether the target of a link is in the sealed /usr/share, by the shortest way there: `/etc/localtime` is such a link.
    fn leads_to_usr(&self) -> Result<bool, Errno> {
        let target = rustix::fs::readlinkat(&self.fd, "", Vec::new())?;
        let mut rest = target.as_bytes();
        // Out of each directory, and out of /etc.
        for _ in self.path.split(|byte| *byte == b'/') {
            match rest.strip_prefix(b"../") {
                Some(above) => rest = above,
                None => return Ok(false),
            }
        }
        Ok(rest.starts_with(LINK_TARGETS) && !rest.split(|byte| *byte == b'/').any(|name| name == b".."))
    }
}

fn has_attribute(fd: &OwnedFd, name: &str) -> Result<bool, Errno> {
    match rustix::fs::getxattr(lookup::proc_path(fd.as_fd()), name, &mut [0; 0][..]) {
        Ok(_) => Ok(true),
        Err(Errno::NODATA | Errno::NOTSUP) => Ok(false),
        Err(reason) => Err(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who owns the file, and who the sealed one: user, group, mode.
    fn misconduct(found: (u32, u32, u32), sealed: Option<(u32, u32, u32)>) -> Option<Reason> {
        let file = tempfile::NamedTempFile::new().unwrap();
        let stat = |(user, group, mode): (u32, u32, u32)| {
            let mut stat = rustix::fs::fstat(&file).unwrap();
            stat.st_uid = user;
            stat.st_gid = group;
            stat.st_mode = FileType::RegularFile.as_raw_mode() | mode;
            stat
        };
        let fd = file.as_file().try_clone().unwrap().into();
        Entry { fd, stat: stat(found), sealed: sealed.map(stat), path: b"a", root: RootIs::ReadOnly }
            .misconduct()
            .unwrap()
    }

    #[test]
    fn owners_and_modes_of_files() {
        let shadow = Some((0, 42, 0o640));
        for (found, sealed, reason) in [
            ((0, 0, 0o644), None, None),
            ((0, 0, 0o755), None, None),
            ((0, 42, 0o640), shadow, None),
            ((0, 0, 0o600), shadow, None),
            ((0, 42, 0o640), None, Some(Reason::Owner)),
            ((0, 43, 0o640), shadow, Some(Reason::Owner)),
            // A file of a sealed file's owner is not kept: who that is can change it while the system runs.
            ((7, 0, 0o644), Some((7, 0, 0o644)), Some(Reason::Owner)),
            ((0, 42, 0o660), Some((0, 42, 0o660)), Some(Reason::Mode)),
        ] {
            assert_eq!(misconduct(found, sealed), reason, "{found:?} {sealed:?}");
        }
    }
}
