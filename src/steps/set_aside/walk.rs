//! The walk through an upper layer. No link is followed, and nothing is opened but directories.
//!
//! What stays is moved into a directory that the kernel made anew, and the old one goes, as a whole: a directory of an attacker may
//! list less than a look-up by name finds in it (ext4's hashed directories do if their index is out of order), and overlayfs looks
//! up by name.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Gid, Mode, RenameFlags, Uid};
use rustix::io::Errno;

use super::conduct::{self, Entry};
use super::{MANY_FOLDERS, MAX_DEPTH, MAX_ENTRIES, Reason, SetAside, shown};
use crate::ask::keep::KeepList;
use crate::ask::read;
use crate::disk::layer::{self, Ownership};
use crate::kernel::lookup::{self, Links, LookupError};
use crate::refusal::Refusal;

/// The directory beside the upper layer that has a folder for each boot in which something was set aside.
pub(crate) const REJECTED: &str = "rejected";

/// The upper layer.
const UPPER: &str = "upper";
/// What a boot that was interrupted left of a new one begins with.
const BEGUN: &[u8] = b"upper.";
/// More of those are nobody's honest work.
const MAX_BEGUN: usize = 16;

/// The directories that an overlay over /etc is made of.
#[derive(Debug)]
pub(crate) struct Layers<'a> {
    /// The directory of the upper layer and of [`REJECTED`].
    pub(crate) directory: BorrowedFd<'a>,
    /// [`REJECTED`], which nobody but root can enter.
    pub(crate) rejected: BorrowedFd<'a>,
    /// The sealed /etc.
    pub(crate) sealed: BorrowedFd<'a>,
    /// How an upper layer must be.
    pub(crate) like: Ownership,
    /// The path of `directory` on the physical root, for messages.
    pub(crate) state: &'a str,
}

/// Makes a new upper layer of what `keep` keeps, and sets aside the rest, which is added to `record` even if it comes to a refusal.
pub(crate) fn set_aside(keep: &KeepList, layers: &Layers<'_>, record: &mut SetAside) -> Result<OwnedFd, Refusal> {
    let name = format!("{}/{UPPER}", layers.state);
    let failed = |reason: LookupError| about(&name).because(reason);
    let kernel = |reason: Errno| failed(reason.into());
    let open = |name: &[u8]| lookup::directory(layers.directory, name, Links::Refused);
    let old = open(UPPER.as_bytes()).map_err(failed)?;
    if !conduct::is_harmless_upper(&old).map_err(kernel)? {
        return Err(about(&name).expected("no attributes of its own (etc.keep)").found("some"));
    }
    let mut sources = begun(layers.directory, &name)?;
    let boot = read::boot_id()?;
    // This boot may have begun one before.
    let is_free = |new: &String| !sources.iter().any(|begun| begun.to_bytes() == new.as_bytes());
    let mut names = (0..=sources.len()).map(|number| format!("{UPPER}.{boot}.{number}"));
    let new = names.find(is_free).unwrap_or_default();
    layer::make(layers.directory, &new, layers.like).map_err(failed)?;
    let upper = open(new.as_bytes()).map_err(failed)?;
    layer::give_attributes(&upper, layers.sealed).map_err(kernel)?;
    let device = rustix::fs::fstat(&upper).map_err(kernel)?.st_dev;
    let mut walk = Walk { keep, layers, name: &name, boot: &boot, device, seen: 0, record };
    // What was moved already is newer than nothing: it comes first.
    sources.push(CString::from(c"upper"));
    for source in sources {
        let Ok(from) = open(source.to_bytes()) else { continue };
        let sealed = lookup::directory(layers.sealed, ".", Links::Refused).map_err(failed)?;
        let counted = walk.record.count;
        let folder = Folder { upper: from, sealed: Some(sealed), path: Vec::new(), depth: 0 };
        walk.look_into(&folder, &upper)?;
        walk.remove(&source, &folder.upper, counted)?;
    }
    rustix::fs::renameat_with(layers.directory, new.as_str(), layers.directory, UPPER, RenameFlags::NOREPLACE)
        .map_err(kernel)?;
    Ok(upper)
}

/// What an interrupted boot left of a new upper layer.
fn begun(directory: BorrowedFd<'_>, name: &str) -> Result<Vec<CString>, Refusal> {
    let failed = |reason: Errno| about(name).because(LookupError::from(reason));
    let mut found = Vec::new();
    for entry in lookup::entries(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_name().to_bytes().starts_with(BEGUN) {
            found.push(entry.file_name().to_owned());
        }
        if found.len() > MAX_BEGUN {
            let expected = format!("at most {MAX_BEGUN} begun ones (etc.keep)");
            return Err(about(name).expected(expected).found("more"));
        }
    }
    found.sort_unstable();
    Ok(found)
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
    boot: &'a str,
    device: u64,
    /// How many entries were looked at.
    seen: usize,
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
    /// Moves what stays of a directory into a new one.
    fn look_into(&mut self, folder: &Folder, target: &OwnedFd) -> Result<(), Refusal> {
        if folder.depth > MAX_DEPTH {
            let expected = format!("at most {MAX_DEPTH} levels of directories (etc.keep)");
            return Err(about(self.name).expected(expected).found("more"));
        }
        // All names first: what a directory lists while entries leave it is not said.
        for name in self.entries(folder)? {
            let path = folder.path_of(&name);
            match self.judge(folder, &name, &path).map_err(|reason| self.failed(&path, reason))? {
                Judgement::Stays => {
                    match rustix::fs::renameat_with(&folder.upper, &name, target, &name, RenameFlags::NOREPLACE) {
                        Ok(()) => {}
                        // It was there before, by an interrupted boot, or twice in one directory.
                        Err(Errno::EXIST) => self.record.add(&path, Reason::Twice),
                        Err(reason) => return Err(self.failed(&path, reason.into())),
                    }
                }
                Judgement::Entered(below) => {
                    let new = make_like(target, &name, &below).map_err(|reason| self.failed(&path, reason))?;
                    self.look_into(&below, &new)?;
                    match rustix::fs::unlinkat(&folder.upper, &name, AtFlags::REMOVEDIR) {
                        // What is left in there goes with the old upper layer.
                        Ok(()) | Err(Errno::NOTEMPTY | Errno::EXIST) => {}
                        Err(reason) => return Err(self.failed(&path, reason.into())),
                    }
                }
                Judgement::SetAside(reason) => self.record.add(&path, reason),
            }
        }
        Ok(())
    }

    /// Removes what was an upper layer, or sets it aside with all that did not stay. `counted` is how much had been recorded before
    /// it was looked into.
    fn remove(&mut self, source: &CStr, open: &OwnedFd, counted: usize) -> Result<(), Refusal> {
        let directory = self.layers.directory;
        match rustix::fs::unlinkat(directory, source, AtFlags::REMOVEDIR) {
            Ok(()) => return Ok(()),
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(reason) => return Err(self.failed(b"", reason.into())),
        }
        // There are programs of an attacker in it.
        rustix::fs::chmod(lookup::proc_path(open.as_fd()), Mode::RWXU)
            .map_err(|reason| self.failed(b"", reason.into()))?;
        if self.record.count == counted {
            self.record.add(b".", Reason::Hidden);
        }
        if self.record.folder.is_empty() {
            // The two names of the directory itself, and one more folder than there need be.
            let entries = lookup::entries(self.layers.rejected).map_err(|reason| self.failed(b"", reason.into()))?;
            self.record.earlier = entries.take(MANY_FOLDERS + 2).count().saturating_sub(2);
            self.record.folder = format!("{}/{REJECTED}/{}", self.layers.state, self.boot);
        }
        for number in 0..=MAX_BEGUN {
            let target = if number == 0 { self.boot.to_owned() } else { format!("{}.{number}", self.boot) };
            let rejected = self.layers.rejected;
            match rustix::fs::renameat_with(directory, source, rejected, target.as_str(), RenameFlags::NOREPLACE) {
                Ok(()) => return Ok(()),
                Err(Errno::EXIST) => {}
                Err(reason) => return Err(self.failed(b"", reason.into())),
            }
        }
        Err(self.failed(b"", Errno::EXIST.into()))
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
        let entry = Entry { fd, stat, sealed, path };
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

    fn failed(&self, path: &[u8], reason: LookupError) -> Refusal {
        let separator = if path.is_empty() { "" } else { "/" };
        about(&format!("{}{separator}{}", self.name, shown(path))).because(reason)
    }
}

fn stat_of(directory: &OwnedFd, name: &CStr) -> Result<rustix::fs::Stat, Errno> {
    rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
}

/// Makes a directory in the place of an old one, with its owner and mode, and the attributes of the sealed one, if there is one.
fn make_like(parent: &OwnedFd, name: &CStr, old: &Folder) -> Result<OwnedFd, LookupError> {
    match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
        // By an interrupted boot: another source has it, too.
        Ok(()) | Err(Errno::EXIST) => {}
        Err(reason) => return Err(reason.into()),
    }
    let new = lookup::directory(parent, name, Links::Refused)?;
    let Ownership { user, group, mode } = Ownership::of(&old.upper)?;
    let by_path = lookup::proc_path(new.as_fd());
    layer::give_attributes(&new, old.sealed.as_ref().unwrap_or(&old.upper))?;
    rustix::fs::chown(&by_path, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))?;
    rustix::fs::chmod(&by_path, Mode::from_raw_mode(mode))?;
    Ok(new)
}
