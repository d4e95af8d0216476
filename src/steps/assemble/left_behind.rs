//! What an overlay that was mounted in another way left in the upper layer of /etc: files and directories that the sealed root's own
//! overlay does not follow to where their content is. Nothing is changed; a login that fails must have a reason.

use std::os::fd::AsFd;

use rustix::fs::FileType;
use rustix::io::Errno;

use crate::formats::composefs::{METACOPY, REDIRECT};
use crate::formats::names::names;
use crate::kernel::lookup::{self, Links, LookupError};
use crate::steps::etc_entries::EtcEntries;

/// So many entries are looked at, in directories that lie so deep. An honest upper layer of /etc has a few hundred.
const MAX_ENTRIES: usize = 4096;
const MAX_DEPTH: usize = 16;
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

/// What such entries are, for the line in the log.
pub const LEFT_BEHIND: &str = "cannot be read, left by an overlay with other options";

/// Looks through an upper layer, which is `folder` on the physical root.
pub(super) fn look(upper: impl AsFd, folder: String) -> Result<EtcEntries, LookupError> {
    let mut found = EtcEntries::of(folder);
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
                found.add(&below, reason.name());
            } else if kind == FileType::Directory && below.iter().filter(|byte| **byte == b'/').count() < MAX_DEPTH {
                pending.push(below);
            }
        }
    }
    Ok(found)
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
