//! `sealroot keep`: as long as the system runs, what changes in the files of /etc that `etc.keep` lists is written to the disk.

use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{CWD, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use miniserde::Serialize;
use sealroot::ask::keep::KeepList;
use sealroot::boot::report;
use sealroot::kernel::lookup::{self, Links, LookupError};
use sealroot::refusal::{Refusal, chain};
use sealroot::steps::keep::save::Saver;

use crate::output::{Answer, Failure, Finding, Page, Paint, printable};

/// Locked while this runs.
const LOCK: &str = "/run/sealroot/keep.lock";
/// What is watched.
const ETC: &str = "/etc";
/// Whoever changes a file may change more: so long nothing more must happen, and so often that is waited for at most.
const QUIET: Duration = Duration::from_millis(500);
const MAX_WAITS: usize = 10;
/// What could not be saved is tried again after this.
const RETRY: Duration = Duration::from_secs(60);
/// A directory with more levels is in no /etc.
const MAX_DEPTH: usize = 32;
/// Whatever changes a file has an end, and all of them change the directory or end with a close.
const CHANGES: WatchFlags = WatchFlags::CLOSE_WRITE
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVE)
    .union(WatchFlags::ONLYDIR);

/// What ended a wait.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Woken {
    Change,
    Signal,
    Time,
}

/// What was kept until the end.
#[derive(Debug, Default, Serialize)]
pub struct Kept {
    /// How many files, links and directories were written or removed.
    changes: usize,
    /// What is not on the disk, each with the reason.
    failed: Vec<String>,
}

impl Finding for Kept {
    fn answer(&self) -> Answer {
        Answer::if_so(self.failed.is_empty())
    }

    fn complaints(&self) -> Vec<String> {
        self.failed.clone()
    }

    fn write_text(&self, text: &mut Page, _: Paint) -> fmt::Result {
        let changes = if self.changes == 1 { "change" } else { "changes" };
        writeln!(text, "kept: {} {changes} of /etc", self.changes)
    }
}

/// Saves what differs, and then whatever changes, until it is told to end (SIGTERM), when it saves once more.
pub fn run() -> Result<Kept, Failure> {
    let keep = report::keep_list()?.ok_or_else(|| Refusal::of("etc.keep").expected("a list").found("none"))?;
    let _lock = lock()?;
    let signals = signals().map_err(|reason| Refusal::of("signals").because(reason))?;
    let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
        .map_err(|reason| Refusal::of("inotify").because(reason))?;
    let mut saver = Saver::new(keep)?;
    let mut kept = Kept::default();
    loop {
        // What comes after that is another change.
        watch_all(&watch, saver.keep())?;
        kept.save(&mut saver)?;
        let patience = if kept.failed.is_empty() { None } else { Some(RETRY) };
        if wait(&watch, &signals, patience)? == Woken::Signal {
            break;
        }
        let mut waits = 0;
        while waits < MAX_WAITS && wait(&watch, &signals, Some(QUIET))? == Woken::Change {
            waits += 1;
        }
    }
    kept.save(&mut saver)?;
    Ok(kept)
}

impl Kept {
    /// Saves, and says what cannot be, once.
    fn save(&mut self, saver: &mut Saver) -> Result<(), Refusal> {
        let saved = saver.save()?;
        self.changes += saved.changes;
        let failed: Vec<_> = saved.failed.iter().map(|refusal| chain(refusal)).collect();
        for reason in failed.iter().filter(|reason| !self.failed.contains(*reason)) {
            // A warning for systemd's journal. There is nowhere else to say it.
            let _ = writeln!(std::io::stderr(), "<4>sealroot keep: {}, not kept", printable(reason.as_bytes()));
        }
        self.failed = failed;
        Ok(())
    }
}

/// Held by the only one. Nobody but root can open it, and so hold it in the place of the one that keeps.
fn lock() -> Result<File, Refusal> {
    let failed = |reason: std::io::Error| Refusal::of(format!("'{LOCK}'")).because(reason);
    let file = File::options().write(true).create(true).truncate(false).mode(0o600).open(LOCK).map_err(failed)?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|reason| failed(reason.into()))?;
    Ok(file)
}

/// The signals that ask this program to end, from now on as events.
fn signals() -> Result<SignalFd, nix::Error> {
    let signals = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect::<SigSet>();
    signals.thread_block()?;
    SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC)
}

/// Waits for a change or a signal, and takes what there is of changes.
fn wait(watch: &OwnedFd, signals: &SignalFd, limit: Option<Duration>) -> Result<Woken, Refusal> {
    let failed = |reason: Errno| Refusal::of("wait for changes").because(reason);
    let timeout = limit.map_or(PollTimeout::NONE, |limit| PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX));
    let mut sources = [signals.as_fd(), watch.as_fd()].map(|source| PollFd::new(source, PollFlags::POLLIN));
    nix::poll::poll(&mut sources, timeout).map_err(|reason| failed(Errno::from_raw_os_error(reason as i32)))?;
    let [signal, change] = sources.map(|source| source.any().unwrap_or(true));
    if signal {
        return Ok(Woken::Signal);
    }
    if !change {
        return Ok(Woken::Time);
    }
    let mut events = [0; 4096];
    loop {
        match rustix::io::read(watch, &mut events) {
            Ok(_) => {}
            Err(Errno::AGAIN) => return Ok(Woken::Change),
            Err(reason) => return Err(failed(reason)),
        }
    }
}

/// Watches each directory of /etc in which something listed can be.
fn watch_all(watch: &OwnedFd, keep: &KeepList) -> Result<(), Refusal> {
    let failed = |reason: LookupError| Refusal::of(format!("'{ETC}': watch")).because(reason);
    let kernel = |reason: Errno| failed(reason.into());
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let etc = rustix::fs::openat(CWD, ETC, flags, Mode::empty()).map_err(kernel)?;
    let mut directories = vec![(Vec::new(), 0)];
    while let Some((path, depth)) = directories.pop() {
        let name: &[u8] = if path.is_empty() { b"." } else { &path };
        let directory = match lookup::directory(&etc, name, Links::Refused) {
            Ok(directory) => directory,
            // It went meanwhile, or is another filesystem's.
            Err(_) => continue,
        };
        inotify::add_watch(watch, lookup::proc_path(directory.as_fd()), CHANGES).map_err(kernel)?;
        for entry in lookup::entries(&directory).map_err(kernel)? {
            let entry = entry.map_err(kernel)?;
            let name = entry.file_name().to_bytes();
            let is_directory = entry.file_type() == FileType::Directory;
            if !is_directory || matches!(name, b"." | b"..") || depth >= MAX_DEPTH {
                continue;
            }
            let below = if path.is_empty() { name.to_vec() } else { [&path, name].join(&b'/') };
            if keep.may_match_below(&below) {
                directories.push((below, depth + 1));
            }
        }
    }
    Ok(())
}

/// Whether a process keeps what changes; `None` if only root can tell.
pub fn is_running() -> Option<bool> {
    match File::open(LOCK) {
        Ok(lock) => Some(rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared).is_err()),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => None,
        Err(_) => Some(false),
    }
}
