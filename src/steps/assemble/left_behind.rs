//! What an overlay that was mounted in another way left in the upper layer of /etc: files and directories that the sealed root's own
//! overlay does not follow to where their content is. Nothing is changed; a login that fails must have a reason.

use std::fmt;
use std::os::fd::AsFd;

use miniserde::Serialize;
use rustix::fs::FileType;
use rustix::io::Errno;

use crate::formats::composefs::{METACOPY, REDIRECT};
use crate::formats::names::names;
use crate::kernel::lookup::{self, Links, LookupError};

/// So many entries are looked at, in directories that lie so deep. An honest upper layer of /etc has a few hundred.
const MAX_ENTRIES: usize = 4096;
const MAX_DEPTH: usize = 16;
/// How many entries the report names, and how many the line in the log.
const NAMED: usize = 16;
const NAMED_IN_LOG: usize = 3;
/// So many bytes of a path are shown.
const SHOWN: usize = 120;

/// What keeps an entry from being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A file whose content was never copied up (`metacopy=on`).
    Metacopy,
    /// A directory that was renamed (`redirect_dir=on`).
    Redirect,
}

names!(Reason:
    Metacopy = "metacopy",
    Redirect = "redirect"
);

/// What was found. `Default` is nothing.
#[derive(Debug, Default, Serialize)]
pub struct LeftBehind {
    count: usize,
    /// The upper layer, on the physical root.
    folder: String,
    /// The first of them.
    entries: Vec<Named>,
}

/// An entry that cannot be read: its path below /etc, escaped.
#[derive(Debug, Serialize)]
struct Named {
    path: String,
    reason: Reason,
}

impl LeftBehind {
    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// For the line in the log.
impl fmt::Display for LeftBehind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, folder, entries } = self;
        let what = if *count == 1 { "1 entry" } else { &format!("{count} entries") };
        write!(f, "etc: {what} that cannot be read, left by an overlay with other options in '{folder}':")?;
        for (index, Named { path, reason }) in entries.iter().take(NAMED_IN_LOG).enumerate() {
            write!(f, "{} '{path}' ({})", if index == 0 { "" } else { "," }, reason.name())?;
        }
        match count.saturating_sub(NAMED_IN_LOG) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// Looks through an upper layer, which is `folder` on the physical root.
pub(super) fn look(upper: impl AsFd, folder: String) -> Result<LeftBehind, LookupError> {
    let mut found = LeftBehind { folder, ..LeftBehind::default() };
    let mut pending = vec![Vec::new()];
    let mut left = MAX_ENTRIES;
    while let Some(parent) = pending.pop() {
        let path: &[u8] = if parent.is_empty() { b"." } else { &parent };
        let directory = lookup::directory(&upper, path, Links::Refused)?;
        for entry in lookup::entries(&directory)? {
            let entry = entry?;
            let (name, kind) = (entry.file_name().to_bytes(), entry.file_type());
            if matches!(name, b"." | b"..") {
                continue;
            }
            if left == 0 {
                return Ok(found);
            }
            left -= 1;
            let below = if parent.is_empty() { name.to_vec() } else { [&parent, b"/".as_slice(), name].concat() };
            let reason = match kind {
                FileType::RegularFile => Reason::Metacopy,
                FileType::Directory => Reason::Redirect,
                _ => continue,
            };
            let at = [lookup::proc_path(directory.as_fd()).as_bytes(), b"/", name].concat();
            if has(&at, reason)? {
                found.count += 1;
                if found.entries.len() < NAMED {
                    found.entries.push(Named { path: shown(&below), reason });
                }
            } else if kind == FileType::Directory && below.iter().filter(|byte| **byte == b'/').count() < MAX_DEPTH {
                pending.push(below);
            }
        }
    }
    Ok(found)
}

/// A path for messages: what is not printable escaped, and not too long for a line in the log.
fn shown(path: &[u8]) -> String {
    match path.get(..SHOWN) {
        Some(start) => format!("{}...", start.escape_ascii()),
        None => path.escape_ascii().to_string(),
    }
}

fn has(path: &[u8], reason: Reason) -> Result<bool, Errno> {
    let attribute = match reason {
        Reason::Metacopy => METACOPY,
        Reason::Redirect => REDIRECT,
    };
    match rustix::fs::lgetxattr(path, attribute, &mut [0; 0][..]) {
        Ok(_) => Ok(true),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
        Err(reason) => Err(reason),
    }
}
