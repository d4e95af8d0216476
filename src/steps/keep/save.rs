//! The way back: what changed in the upper layer in memory is written to the disk, in the booted system.
//!
//! A file is written under another name and takes its place in one step, when it is on the disk: after a power cut there is the
//! old one or the new one. What is not listed, and what was there before and never came to /etc, stays as it is.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::{DISK, MAX_DEPTH, MAX_ENTRIES, MAX_FILE, PLACE, TAKEN, UPPER, new_file, path_of};
use crate::ask::keep::KeepList;
use crate::disk::layer::{self, Ownership};
use crate::kernel::lookup::{self, Links, LookupError};
use crate::refusal::Refusal;
use crate::steps::etc_entries::shown;

/// What is written, before it has its name.
const NEW: &CStr = c"new";

/// The directories between which is saved, and what was saved.
#[derive(Debug)]
pub struct Saver {
    keep: KeepList,
    upper: OwnedFd,
    /// The state directory, and the one in it where things are kept.
    state: OwnedFd,
    kept: OwnedFd,
    /// By path below /etc.
    saved: BTreeMap<Vec<u8>, State>,
}

/// How an entry was when it was looked at: whatever changes it changes one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    kind: FileType,
    inode: u64,
    changed: (i64, i64),
    /// It could not be saved, or nobody knows whether it is.
    failed: bool,
}

/// What came of saving.
#[derive(Debug, Default)]
pub struct Saved {
    /// How many files, links and directories were written or removed.
    pub changes: usize,
    /// What could not be saved, each with the reason.
    pub failed: Vec<Refusal>,
}

/// About an entry, by its path below /etc.
fn about(path: &[u8]) -> Refusal {
    Refusal::of(format!("etc: '{}'", shown(path)))
}

/// The directory of a path, and the name in it.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (path.get(..slash).unwrap_or_default(), path.get(slash + 1..).unwrap_or_default()),
        None => (b".", path),
    }
}

impl Saver {
    /// Between the directories that the boot program left at [`PLACE`].
    ///
    /// # Errors
    /// It left none.
    pub fn new(keep: KeepList) -> Result<Self, Refusal> {
        let open = |from: &OwnedFd, name: &'static str| {
            let failed = |reason| Refusal::of(format!("'{PLACE}': '{name}'")).because(reason);
            lookup::directory(from, name, Links::Refused).map_err(failed)
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let place = rustix::fs::openat(CWD, PLACE, flags, Mode::empty())
            .map_err(|reason| Refusal::of(format!("'{PLACE}'")).because(reason))?;
        let (upper, state) = (open(&place, UPPER)?, open_mount(&place)?);
        let kept = open(&state, UPPER)?;
        let mut taken = Vec::new();
        let failed = |reason: LookupError| Refusal::of(format!("'{PLACE}': what was taken")).because(reason);
        let file = lookup::regular_file(&place, TAKEN, Links::Refused).map_err(failed)?;
        let mut file = lookup::reopen(file.as_fd()).map_err(|reason| failed(reason.into()))?;
        file.read_to_end(&mut taken).map_err(|error| failed(from_io(&error).into()))?;
        let saved = taken.split(|byte| *byte == 0).filter(|path| !path.is_empty()).map(State::taken).collect();
        Ok(Self { keep, upper, state, kept, saved })
    }

    /// What is kept.
    pub fn keep(&self) -> &KeepList {
        &self.keep
    }

    /// Writes to the disk what changed since it was asked last, the first time what differs.
    ///
    /// # Errors
    /// The layer in memory cannot be read, or has more in it than anyone looks through.
    pub fn save(&mut self) -> Result<Saved, Refusal> {
        let mut result = Saved::default();
        let mut found = self.scan()?;
        let is_directory = |state: &State| state.kind == FileType::Directory;
        // What is below a directory comes behind it.
        for (path, state) in self.saved.iter().rev() {
            if found.get(path).map(is_directory) == Some(is_directory(state)) {
                continue;
            }
            match self.remove(path, is_directory(state)) {
                Ok(removed) => result.changes += usize::from(removed),
                Err(reason) => {
                    result.failed.push(about(path).because(reason));
                    // It is tried again.
                    found.entry(path.clone()).or_insert(State { failed: true, ..*state });
                }
            }
        }
        for (path, state) in &mut found {
            let before = self.saved.get(path);
            if before == Some(state) || state.failed {
                continue;
            }
            match self.write(path, state.kind, before.is_some_and(|before| !before.failed)) {
                Ok(written) => result.changes += usize::from(written),
                Err(refusal) => {
                    // What went meanwhile is removed the next time.
                    if self.is_there(path) {
                        result.failed.push(refusal);
                    }
                    state.failed = true;
                }
            }
        }
        self.saved = found;
        if result.changes > 0 {
            self.sync().map_err(|reason| Refusal::of("etc: write to the disk").because(reason))?;
        }
        Ok(result)
    }

    /// What is in the layer and listed, and the directories that may have such in them.
    fn scan(&self) -> Result<BTreeMap<Vec<u8>, State>, Refusal> {
        let mut found = BTreeMap::new();
        let mut seen = 0;
        let mut directories = vec![(Vec::new(), 0)];
        while let Some((directory, depth)) = directories.pop() {
            let failed = |reason: LookupError| about(&directory).because(reason);
            let name: &[u8] = if directory.is_empty() { b"." } else { &directory };
            let upper = match lookup::directory(&self.upper, name, Links::Refused) {
                Ok(upper) => upper,
                // It went meanwhile.
                Err(LookupError::Kernel(Errno::NOENT)) => continue,
                Err(reason) => return Err(failed(reason)),
            };
            if depth > MAX_DEPTH {
                let expected = format!("at most {MAX_DEPTH} levels of directories (etc.keep)");
                return Err(about(&directory).expected(expected).found("more"));
            }
            for entry in lookup::entries(&upper).map_err(|reason| failed(reason.into()))? {
                let entry = entry.map_err(|reason| failed(reason.into()))?;
                let name = entry.file_name();
                if matches!(name.to_bytes(), b"." | b"..") {
                    continue;
                }
                seen += 1;
                if seen > MAX_ENTRIES {
                    let expected = format!("at most {MAX_ENTRIES} entries (etc.keep)");
                    return Err(about(&directory).expected(expected).found("more"));
                }
                let path = path_of(&directory, name.to_bytes());
                let Some(stat) = stat_of(&upper, name).map_err(|reason| failed(reason.into()))? else { continue };
                let state = State::of(&stat);
                match state.kind {
                    FileType::Directory if self.keep.may_match_below(&path) => {
                        directories.push((path.clone(), depth + 1));
                        found.insert(path, state);
                    }
                    FileType::RegularFile | FileType::Symlink if self.keep.matches(&path) => {
                        found.insert(path, state);
                    }
                    _ => {}
                }
            }
        }
        Ok(found)
    }

    /// Removes what is gone. Whether there was anything.
    fn remove(&self, path: &[u8], is_directory: bool) -> Result<bool, LookupError> {
        let (directory, name) = split(path);
        let flags = if is_directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        let removed = lookup::directory(&self.kept, directory, Links::Refused)
            .and_then(|kept| Ok(rustix::fs::unlinkat(kept, name, flags)?));
        match removed {
            Ok(()) => Ok(true),
            // What was not listed, or did not come to /etc, stays in it.
            Err(LookupError::Kernel(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST)) => Ok(false),
            Err(reason) => Err(reason),
        }
    }

    fn is_there(&self, path: &[u8]) -> bool {
        !matches!(lookup::location(&self.upper, path, Links::Refused), Err(Errno::NOENT))
    }

    /// Writes one entry. Whether that was necessary.
    fn write(&self, path: &[u8], kind: FileType, is_known: bool) -> Result<bool, Refusal> {
        let failed = |reason: LookupError| about(path).because(reason);
        let (directory, name) = split(path);
        let open = |from| lookup::directory(from, directory, Links::Refused);
        let (upper, kept) = (open(&self.upper).map_err(failed)?, open(&self.kept).map_err(failed)?);
        match kind {
            FileType::Directory => write_directory(&upper, &kept, name).map_err(failed),
            FileType::Symlink => self.write_link(&upper, &kept, name).map_err(failed),
            _ => self.write_file(&upper, &kept, path, is_known),
        }
    }

    fn write_link(&self, upper: &OwnedFd, kept: &OwnedFd, name: &[u8]) -> Result<bool, LookupError> {
        let target = rustix::fs::readlinkat(upper, name, Vec::new())?;
        if rustix::fs::readlinkat(kept, name, Vec::new()).is_ok_and(|found| found == target) {
            return Ok(false);
        }
        self.clear()?;
        rustix::fs::symlinkat(&target, &self.state, NEW)?;
        rustix::fs::renameat(&self.state, NEW, kept, name)?;
        Ok(true)
    }

    fn write_file(&self, upper: &OwnedFd, kept: &OwnedFd, path: &[u8], is_known: bool) -> Result<bool, Refusal> {
        let (_, name) = split(path);
        let failed = |reason: LookupError| about(path).because(reason);
        let (location, content) = read(upper, name).map_err(failed)?;
        if content.len() as u64 > MAX_FILE {
            return Err(about(path).expected(format!("at most {MAX_FILE} bytes (etc.keep)")).found("more"));
        }
        let ownership = Ownership::of(&location).map_err(|reason| failed(reason.into()))?;
        let is_same = || {
            let (found, there) = read(kept, name).ok()?;
            Some(there == content && Ownership::of(&found).ok()? == ownership)
        };
        if !is_known && is_same() == Some(true) {
            return Ok(false);
        }
        let write = || {
            self.clear()?;
            let file = new_file(&self.state, NEW, &content)?;
            layer::give_label(&file, &location)?;
            layer::give_ownership(&file, ownership)?;
            layer::give_time(&file, &location)?;
            rustix::fs::fsync(&file)?;
            rustix::fs::renameat(&self.state, NEW, kept, name)
        };
        write().map_err(|reason| failed(reason.into()))?;
        Ok(true)
    }

    /// Removes what an interrupted run left.
    fn clear(&self) -> Result<(), Errno> {
        match rustix::fs::unlinkat(&self.state, NEW, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR) => rustix::fs::unlinkat(&self.state, NEW, AtFlags::REMOVEDIR),
            Err(reason) => Err(reason),
        }
    }

    /// Waits until the names, too, are on the disk.
    fn sync(&self) -> Result<(), Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::syncfs(rustix::fs::openat(&self.state, ".", flags, Mode::empty())?)
    }
}

impl State {
    /// By its path and a slash, if it is a directory.
    fn taken(path: &[u8]) -> (Vec<u8>, Self) {
        let (path, kind) = match path.strip_suffix(b"/") {
            Some(path) => (path, FileType::Directory),
            None => (path, FileType::RegularFile),
        };
        (path.to_vec(), Self { kind, inode: 0, changed: (0, 0), failed: true })
    }

    fn of(stat: &Stat) -> Self {
        let changed = (stat.st_ctime, i64::try_from(stat.st_ctime_nsec).unwrap_or_default());
        Self { kind: FileType::from_raw_mode(stat.st_mode), inode: stat.st_ino, changed, failed: false }
    }
}

fn from_io(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// The state directory: what is mounted there.
fn open_mount(place: &OwnedFd) -> Result<OwnedFd, Refusal> {
    lookup::entry_or_mount(place, DISK).map_err(|reason| Refusal::of(format!("'{PLACE}/{DISK}'")).because(reason))
}

fn stat_of(directory: &OwnedFd, name: &CStr) -> Result<Option<Stat>, Errno> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(reason) => Err(reason),
    }
}

/// A regular file, as a location and with its content, as far as it may be.
fn read(directory: &OwnedFd, name: &[u8]) -> Result<(OwnedFd, Vec<u8>), LookupError> {
    let location = lookup::regular_file(directory, name, Links::Refused)?;
    let mut content = Vec::new();
    let read = lookup::reopen(location.as_fd())?.take(MAX_FILE + 1).read_to_end(&mut content);
    read.map_err(|error| from_io(&error))?;
    Ok((location, content))
}

/// Makes a directory, or gives one that is there the owner and the mode that it should have.
fn write_directory(upper: &OwnedFd, kept: &OwnedFd, name: &[u8]) -> Result<bool, LookupError> {
    let from = lookup::directory(upper, name, Links::Refused)?;
    let expected = Ownership::of(&from)?;
    let is_new = match rustix::fs::mkdirat(kept, name, Mode::RWXU) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(reason) => return Err(reason.into()),
    };
    let to = lookup::directory(kept, name, Links::Refused)?;
    if !is_new && Ownership::of(&to)? == expected {
        return Ok(false);
    }
    layer::give_label(&to, &from)?;
    layer::give_ownership(&to, expected)?;
    Ok(true)
}
