//! The walk through an upper layer. No link is followed, and nothing is opened but directories.

use std::ffi::{CStr, CString};
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, RenameFlags};
use rustix::io::Errno;

use super::conduct::{self, Entry};
use super::{MANY_FOLDERS, MAX_DEPTH, MAX_ENTRIES, Reason, SetAside, shown};
use crate::ask::keep::KeepList;
use crate::ask::read;
use crate::kernel::lookup::{self, Links, LookupError};
use crate::refusal::Refusal;

/// The directory beside the upper layer that has a folder for each boot in which something was set aside.
pub(crate) const REJECTED: &str = "rejected";

/// The directories that an overlay over /etc is made of.
#[derive(Debug)]
pub(crate) struct Layers<'a> {
    /// The upper layer.
    pub(crate) upper: BorrowedFd<'a>,
    /// [`REJECTED`], which nobody but root can enter.
    pub(crate) rejected: BorrowedFd<'a>,
    /// The sealed /etc.
    pub(crate) sealed: BorrowedFd<'a>,
    /// The directory of the first two, on the physical root, for messages.
    pub(crate) state: &'a str,
}

/// Sets aside what `keep` does not keep, and adds it to `record`, also if it comes to a refusal then.
pub(crate) fn set_aside(keep: &KeepList, layers: &Layers<'_>, record: &mut SetAside) -> Result<(), Refusal> {
    let name = format!("{}/upper", layers.state);
    let failed = |reason: LookupError| about(&name).because(reason);
    let device = rustix::fs::fstat(layers.upper).map_err(|reason| failed(reason.into()))?.st_dev;
    if !conduct::is_harmless_upper(layers.upper).map_err(|reason| failed(reason.into()))? {
        return Err(about(&name).expected("no attributes of its own (etc.keep)").found("some"));
    }
    let open = |directory: BorrowedFd<'_>| lookup::directory(directory, ".", Links::Refused).map_err(failed);
    let top = Folder { upper: open(layers.upper)?, sealed: Some(open(layers.sealed)?), path: Vec::new(), depth: 0 };
    Walk { keep, layers, name: &name, device, seen: 0, folder: None, record }.look_into(&top)
}

/// About the upper layer, or an entry of it, by its path on the physical root.
fn about(name: &str) -> Refusal {
    Refusal::of(format!("state directory '{name}'"))
}

struct Walk<'a> {
    keep: &'a KeepList,
    layers: &'a Layers<'a>,
    /// The upper layer's path on the physical root.
    name: &'a str,
    device: u64,
    /// How many entries were looked at.
    seen: usize,
    /// This boot's folder, once there is one.
    folder: Option<OwnedFd>,
    record: &'a mut SetAside,
}

/// A directory of the upper layer, with what the sealed root has there.
struct Folder {
    upper: OwnedFd,
    sealed: Option<OwnedFd>,
    /// Its path below /etc.
    path: Vec<u8>,
    depth: usize,
}

/// What becomes of an entry.
enum Judgement {
    Stays,
    /// It stays, and what is in it is looked at.
    Entered(Folder),
    SetAside(Reason),
}

impl Folder {
    fn path_of(&self, name: &CStr) -> Vec<u8> {
        let name = name.to_bytes();
        if self.path.is_empty() { name.into() } else { [&self.path, name].join(&b'/') }
    }
}

impl Walk<'_> {
    fn look_into(&mut self, folder: &Folder) -> Result<(), Refusal> {
        if folder.depth > MAX_DEPTH {
            let expected = format!("at most {MAX_DEPTH} levels of directories (etc.keep)");
            return Err(about(self.name).expected(expected).found("more"));
        }
        // All names first: what a directory lists while entries leave it is not said.
        for name in self.entries(folder)? {
            let path = folder.path_of(&name);
            match self.judge(folder, &name, &path).map_err(|reason| self.failed(&path, reason))? {
                Judgement::Stays => {}
                Judgement::Entered(below) => self.look_into(&below)?,
                Judgement::SetAside(reason) => self.set_aside(folder, &name, &path, reason)?,
            }
        }
        Ok(())
    }

    fn entries(&mut self, folder: &Folder) -> Result<Vec<CString>, Refusal> {
        let failed = |reason: Errno| self.failed(&folder.path, reason.into());
        let mut names = Vec::new();
        for entry in lookup::entries(&folder.upper).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if matches!(entry.file_name().to_bytes(), b"." | b"..") {
                continue;
            }
            if self.seen + names.len() >= MAX_ENTRIES {
                let expected = format!("at most {MAX_ENTRIES} entries (etc.keep)");
                return Err(about(self.name).expected(expected).found("more"));
            }
            names.push(entry.file_name().to_owned());
        }
        self.seen += names.len();
        // The same upper layer gives the same messages, on any filesystem.
        names.sort_unstable();
        Ok(names)
    }

    fn judge(&self, folder: &Folder, name: &CStr, path: &[u8]) -> Result<Judgement, LookupError> {
        let (listed, below) = (self.keep.matches(path), self.keep.may_match_below(path));
        if !listed && !below {
            return Ok(Judgement::SetAside(Reason::NotListed));
        }
        let fd = lookup::entry(&folder.upper, name)?;
        let stat = rustix::fs::fstat(&fd)?;
        let is_directory = conduct::is_directory(&stat);
        if !(if is_directory { below } else { listed }) {
            return Ok(Judgement::SetAside(Reason::NotListed));
        }
        if stat.st_dev != self.device {
            return Ok(Judgement::SetAside(Reason::Filesystem));
        }
        let sealed = match folder.sealed.as_ref().map(|sealed| stat_of(sealed, name)) {
            None | Some(Err(Errno::NOENT)) => None,
            Some(found) => Some(found?),
        };
        let entry = Entry { fd, stat, sealed, depth: folder.depth };
        if let Some(reason) = entry.misconduct()? {
            return Ok(Judgement::SetAside(reason));
        }
        if !is_directory {
            return Ok(Judgement::Stays);
        }
        let sealed = match (&folder.sealed, sealed) {
            (Some(above), Some(_)) => Some(lookup::directory(above, name, Links::Refused)?),
            _ => None,
        };
        Ok(Judgement::Entered(Folder { upper: entry.fd, sealed, path: path.into(), depth: folder.depth + 1 }))
    }

    /// Moves an entry, with all that is below, to the same path in this boot's folder.
    fn set_aside(&mut self, folder: &Folder, name: &CStr, path: &[u8], reason: Reason) -> Result<(), Refusal> {
        if self.folder.is_none() {
            let boot = read::boot_id()?;
            self.record.folder = format!("{}/{REJECTED}/{boot}", self.layers.state);
            self.folder = Some(self.open_folder(&boot).map_err(|cause| self.failed(path, cause))?);
        }
        self.rename(folder, name).map_err(|cause| self.failed(path, cause))?;
        self.record.add(path, reason);
        Ok(())
    }

    fn open_folder(&mut self, boot: &str) -> Result<OwnedFd, LookupError> {
        if self.record.is_empty() {
            // The two names of the directory itself, and one more folder than there need be.
            self.record.earlier =
                lookup::entries(self.layers.rejected)?.take(MANY_FOLDERS + 2).count().saturating_sub(2);
        }
        make_directory(self.layers.rejected, boot.as_bytes())
    }

    fn rename(&self, folder: &Folder, name: &CStr) -> Result<(), LookupError> {
        let Some(of_boot) = &self.folder else { return Ok(()) };
        let mut target = lookup::directory(of_boot, ".", Links::Refused)?;
        for part in folder.path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
            target = make_directory(&target, part)?;
        }
        Ok(rustix::fs::renameat_with(&folder.upper, name, &target, name, RenameFlags::NOREPLACE)?)
    }

    fn failed(&self, path: &[u8], reason: LookupError) -> Refusal {
        let separator = if path.is_empty() { "" } else { "/" };
        about(&format!("{}{separator}{}", self.name, shown(path))).because(reason)
    }
}

fn stat_of(directory: &OwnedFd, name: &CStr) -> Result<rustix::fs::Stat, Errno> {
    rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
}

/// Makes a directory for root alone, if it is not there, and opens it.
fn make_directory(parent: impl std::os::fd::AsFd, name: &[u8]) -> Result<OwnedFd, LookupError> {
    match rustix::fs::mkdirat(&parent, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(reason) => return Err(reason.into()),
    }
    lookup::directory(parent, name, Links::Refused)
}
