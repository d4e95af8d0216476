//! The way from the disk into an upper layer in memory. No link is followed.
//!
//! Everything in the new layer is made by the kernel, in a filesystem of its own: of the disk come a name that is listed, the
//! content of a file or the target of a link, an owner and a mode that were judged, and SELinux's label.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, Timespec};
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
    /// How many entries were looked at, and how many bytes of memory and of reading they came to.
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
    File(Copied),
    /// With its target.
    Link(CString),
    /// With the label that it has on the disk.
    Directory(Option<Vec<u8>>),
    NotKept(Reason),
}

/// What a file is made of. All of it is read before anything is made: what the disk does not give away, or what is nothing that a
/// file can have, costs this entry, and not the boot.
struct Copied {
    content: Vec<u8>,
    label: Option<Vec<u8>>,
    changed: Timespec,
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
            let judgement = entry.as_ref().ok().and_then(|entry| self.judge(entry, listed, below).ok());
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
                Judgement::Directory(label) => {
                    let sealed = folder.sealed_directory(&name, entry).map_err(failed)?;
                    let new =
                        make_directory(target, &name, entry, label.as_deref(), sealed.as_ref()).map_err(failed)?;
                    self.took(&path, b"/\0");
                    let (kept, depth) = (&entry.fd, folder.depth + 1);
                    self.enter(&Folder { kept, sealed: sealed.as_ref(), path: path.clone(), depth }, &new)?;
                }
                Judgement::File(copied) => {
                    make_file(target, &name, entry, &copied).map_err(failed)?;
                    self.took(&path, b"\0");
                }
            }
        }
        Ok(())
    }

    fn judge(&mut self, entry: &Entry<'_>, listed: bool, below: bool) -> Result<Judgement, LookupError> {
        let kind = conduct::kind(&entry.stat);
        if !(if kind == FileType::Directory { below } else { listed }) {
            return Ok(Judgement::NotKept(Reason::NotListed));
        }
        if let Some(reason) = entry.misconduct()? {
            return Ok(Judgement::NotKept(reason));
        }
        let size = if kind == FileType::RegularFile { entry.stat.st_size.cast_unsigned() } else { 0 };
        if !self.has_room(size, entry.path) {
            return Ok(Judgement::NotKept(Reason::Size));
        }
        Ok(match kind {
            FileType::Directory => Judgement::Directory(layer::label_of(&entry.fd)?),
            FileType::Symlink => Judgement::Link(rustix::fs::readlinkat(&entry.fd, c"", Vec::new())?),
            _ => {
                let changed = layer::time_of(&entry.stat);
                if !(0..1_000_000_000).contains(&changed.tv_nsec) {
                    return Err(Errno::INVAL.into());
                }
                let content = read(lookup::reopen(entry.fd.as_fd())?, size)?;
                Judgement::File(Copied { content, label: layer::label_of(&entry.fd)?, changed })
            }
        })
    }

    /// Whether there is room for an entry: whole pages of a file that is not too large, one for whatever it is, and its path. What has
    /// its place and cannot be read afterwards keeps it.
    fn has_room(&mut self, size: u64, path: &[u8]) -> bool {
        const PAGE: u64 = 4096;
        let needed = size.next_multiple_of(PAGE).saturating_add(PAGE + path.len() as u64);
        let room = size <= MAX_FILE && needed <= MAX_TOTAL - self.total;
        if room {
            self.total += needed;
        }
        room
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

/// A file to its end, which comes where its size says.
fn read(file: File, size: u64) -> Result<Vec<u8>, Errno> {
    let mut content = Vec::new();
    let read = file.take(size + 1).read_to_end(&mut content);
    read.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    if content.len() as u64 > size { Err(Errno::FBIG) } else { Ok(content) }
}

fn make_file(target: &OwnedFd, name: &CStr, entry: &Entry<'_>, copied: &Copied) -> Result<(), LookupError> {
    let file = new_file(target, name, &copied.content)?;
    layer::set_time(&file, copied.changed)?;
    Ok(give(&file, &entry.stat, copied.label.as_deref())?)
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
    label: Option<&[u8]>,
    sealed: Option<&OwnedFd>,
) -> Result<OwnedFd, LookupError> {
    rustix::fs::mkdirat(target, name, Mode::RWXU)?;
    let new = lookup::directory(target, name, Links::Refused)?;
    match sealed {
        Some(sealed) => {
            layer::give_attributes(&new, sealed)?;
            layer::give_ownership(&new, Ownership::of(sealed)?)?;
        }
        None => give(&new, &entry.stat, label)?,
    }
    Ok(new)
}

/// Gives what was made the owner and the mode that were judged, and a label.
fn give(new: impl AsFd + Copy, stat: &Stat, label: Option<&[u8]>) -> Result<(), Errno> {
    match layer::set_label(new, label) {
        // A filesystem in memory that takes none, or a policy that knows no such label: the file has that of a new one.
        Err(Errno::OPNOTSUPP | Errno::INVAL) => {}
        given => given?,
    }
    layer::give_ownership(new, Ownership { user: stat.st_uid, group: stat.st_gid, mode: stat.st_mode & 0o7777 })
}
