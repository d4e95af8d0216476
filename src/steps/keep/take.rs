//! The way from the disk into an upper layer in memory. No link is followed.
//!
//! Everything in the new layer is made by the kernel, in a filesystem of its own: of the disk come a name that is listed, the
//! content of a file or the target of a link, an owner and a mode that were judged, and SELinux's label.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::conduct::{self, Entry, RootIs};
use super::{MAX_DEPTH, MAX_ENTRIES, MAX_FILE, MAX_TOTAL, Reason, path_of};
use crate::ask::keep::KeepList;
use crate::disk::layer::{self, Ownership};
use crate::kernel::lookup::{self, Links, LookupError};
use crate::refusal::Refusal;
use crate::steps::etc_entries::{EtcEntries, shown};

/// The directories that it is about.
#[derive(Debug)]
pub(crate) struct Layers<'a> {
    /// What is kept on the disk.
    pub(crate) kept: &'a OwnedFd,
    /// The sealed /etc.
    pub(crate) sealed: &'a OwnedFd,
    /// The new layer in memory, empty.
    pub(crate) upper: &'a OwnedFd,
    /// The path of `kept` on the physical root, for messages.
    pub(crate) name: &'a str,
    /// Whether the sealed root takes changes.
    pub(crate) root: RootIs,
}

/// Copies what `keep` keeps into the new layer; what stays behind is added to `record`. Gives the content of [`super::TAKEN`].
pub(crate) fn take(keep: &KeepList, layers: &Layers<'_>, record: &mut EtcEntries) -> Result<Vec<u8>, Refusal> {
    // A second attempt of the same boot tells the same again.
    *record = EtcEntries::of(layers.name.into());
    let mut walk = Walk { keep, name: layers.name, root: layers.root, seen: 0, total: 0, taken: Vec::new(), record };
    walk.enter(&Folder { kept: layers.kept, sealed: Some(layers.sealed), path: Vec::new(), depth: 0 }, layers.upper)?;
    Ok(walk.taken)
}

/// About what is kept on the disk, by its path on the physical root.
fn about(name: &str) -> Refusal {
    Refusal::of(format!("state directory '{name}'"))
}

struct Walk<'a> {
    keep: &'a KeepList,
    name: &'a str,
    root: RootIs,
    /// How many entries were looked at, and how many bytes were copied.
    seen: usize,
    total: u64,
    taken: Vec<u8>,
    record: &'a mut EtcEntries,
}

/// A directory on the disk, with what the sealed root has there.
struct Folder<'a> {
    kept: &'a OwnedFd,
    sealed: Option<&'a OwnedFd>,
    /// Its path below /etc.
    path: Vec<u8>,
    depth: usize,
}

/// What becomes of an entry.
enum Judgement {
    File(File),
    /// With its target.
    Link(CString),
    Directory,
    NotKept(Reason),
}

impl Walk<'_> {
    /// Copies what is kept of a directory into a new one.
    fn enter(&mut self, folder: &Folder<'_>, target: &OwnedFd) -> Result<(), Refusal> {
        if folder.depth > MAX_DEPTH {
            let expected = format!("at most {MAX_DEPTH} levels of directories (etc.keep)");
            return Err(about(self.name).expected(expected).found("more"));
        }
        let Some(names) = self.names(folder)? else {
            let path = if folder.path.is_empty() { b"." } else { &*folder.path };
            self.record.add(path, Reason::Unreadable.name());
            return Ok(());
        };
        for name in names {
            let path = path_of(&folder.path, name.to_bytes());
            let (listed, below) = (self.keep.matches(&path), self.keep.may_match_below(&path));
            if !listed && !below {
                self.record.add(&path, Reason::NotListed.name());
                continue;
            }
            let name_of = format!("{}/{}", self.name, shown(&path));
            let kernel = |reason: Errno| about(&name_of).because(LookupError::from(reason));
            let failed = |reason: LookupError| about(&name_of).because(reason);
            let sealed = folder.sealed_entry(&name).map_err(kernel)?;
            let entry = Entry::open(folder.kept, &name, sealed, &path, self.root);
            // What the disk does not give away is no reason not to boot.
            let judgement = entry.as_ref().ok().and_then(|entry| judge(entry, listed, below).ok());
            let (Ok(entry), Some(judgement)) = (&entry, judgement) else {
                self.record.add(&path, Reason::Unreadable.name());
                continue;
            };
            match judgement {
                Judgement::NotKept(reason) => self.record.add(&path, reason.name()),
                Judgement::Link(to) => {
                    rustix::fs::symlinkat(&to, target, &name).map_err(kernel)?;
                    self.took(&path, b"\0");
                }
                Judgement::Directory => {
                    let sealed = folder.sealed_directory(&name, entry).map_err(failed)?;
                    let new = make_directory(target, &name, entry, sealed.as_ref()).map_err(failed)?;
                    self.took(&path, b"/\0");
                    let (kept, depth) = (&entry.fd, folder.depth + 1);
                    self.enter(&Folder { kept, sealed: sealed.as_ref(), path: path.clone(), depth }, &new)?;
                }
                Judgement::File(file) => match read(file, MAX_TOTAL - self.total) {
                    Ok(content) => {
                        self.total += content.len() as u64;
                        make_file(target, &name, entry, &content).map_err(failed)?;
                        self.took(&path, b"\0");
                    }
                    Err(reason) => self.record.add(&path, reason.name()),
                },
            }
        }
        Ok(())
    }

    fn took(&mut self, path: &[u8], end: &[u8]) {
        self.taken.extend(path);
        self.taken.extend(end);
    }

    /// The names in a directory, each once; `None` if it cannot be read.
    fn names(&mut self, folder: &Folder<'_>) -> Result<Option<Vec<CString>>, Refusal> {
        let Ok(entries) = lookup::entries(folder.kept) else { return Ok(None) };
        let mut names = Vec::new();
        for entry in entries {
            let Ok(entry) = entry else { return Ok(None) };
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
        // The same directory gives the same messages, on any filesystem. A crafted one can have a name twice.
        names.sort_unstable();
        names.dedup();
        Ok(Some(names))
    }
}

impl Folder<'_> {
    /// What the sealed root has by this name.
    fn sealed_entry(&self, name: &CStr) -> Result<Option<Stat>, Errno> {
        let Some(sealed) = self.sealed else { return Ok(None) };
        match rustix::fs::statat(sealed, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(reason) => Err(reason),
        }
    }

    /// The directory of the sealed root that an entry, which is one, lies over.
    fn sealed_directory(&self, name: &CStr, entry: &Entry<'_>) -> Result<Option<OwnedFd>, LookupError> {
        match (self.sealed, entry.sealed) {
            (Some(sealed), Some(_)) => lookup::directory(sealed, name, Links::Refused).map(Some),
            _ => Ok(None),
        }
    }
}

fn judge(entry: &Entry<'_>, listed: bool, below: bool) -> Result<Judgement, LookupError> {
    let is_directory = conduct::is_directory(&entry.stat);
    if !(if is_directory { below } else { listed }) {
        return Ok(Judgement::NotKept(Reason::NotListed));
    }
    if let Some(reason) = entry.misconduct()? {
        return Ok(Judgement::NotKept(reason));
    }
    Ok(match conduct::kind(&entry.stat) {
        FileType::Directory => Judgement::Directory,
        FileType::Symlink => Judgement::Link(rustix::fs::readlinkat(&entry.fd, c"", Vec::new())?),
        _ => Judgement::File(lookup::reopen(entry.fd.as_fd())?),
    })
}

/// A file to its end, if there is room for it.
fn read(file: File, room: u64) -> Result<Vec<u8>, Reason> {
    let limit = MAX_FILE.min(room);
    let mut content = Vec::new();
    file.take(limit + 1).read_to_end(&mut content).map_err(|_| Reason::Unreadable)?;
    if content.len() as u64 > limit { Err(Reason::Size) } else { Ok(content) }
}

fn make_file(target: &OwnedFd, name: &CStr, entry: &Entry<'_>, content: &[u8]) -> Result<(), LookupError> {
    let file = new_file(target, name, content)?;
    layer::give_time(&file, &entry.fd)?;
    let Stat { st_uid, st_gid, st_mode, .. } = entry.stat;
    Ok(give(&file, Ownership { user: st_uid, group: st_gid, mode: st_mode & 0o7777 }, &entry.fd)?)
}

/// A file that was not there, for its owner alone.
pub(crate) fn new_file(directory: impl AsFd, name: &CStr, content: &[u8]) -> Result<File, Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::openat(directory, name, flags, Mode::RUSR | Mode::WUSR)?);
    file.write_all(content).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    Ok(file)
}

/// A directory as the sealed root has it, or else as the machine made it.
fn make_directory(
    target: &OwnedFd,
    name: &CStr,
    entry: &Entry<'_>,
    sealed: Option<&OwnedFd>,
) -> Result<OwnedFd, LookupError> {
    rustix::fs::mkdirat(target, name, Mode::RWXU)?;
    let new = lookup::directory(target, name, Links::Refused)?;
    match sealed {
        Some(sealed) => {
            layer::give_attributes(&new, sealed)?;
            layer::give_ownership(&new, Ownership::of(sealed)?)?;
        }
        None => give(&new, Ownership::of(&entry.fd)?, &entry.fd)?,
    }
    Ok(new)
}

/// Gives what was made its owner, its mode, and the label of what it was made from.
fn give(new: impl AsFd, ownership: Ownership, from: &OwnedFd) -> Result<(), Errno> {
    layer::give_label(&new, from)?;
    layer::give_ownership(new, ownership)
}
