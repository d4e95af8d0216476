//! What `etc.keep` does not keep of the upper layer of /etc is set aside, before the overlay is mounted.
//!
//! Whoever writes to the disk can put into the upper layer what PID 1 reads: `ld.so.preload`, units, PAM's files. Only what
//! is listed and well-behaved stays: it is moved into a new directory that the kernel made, which becomes the upper layer. The
//! old one is renamed, as a whole, into a folder that nobody but root can enter, unless nothing is left in it.
//!
//! Each rename is atomic, and none has to reach the disk before the boot goes on: what a power cut brings back, or leaves half
//! done, is what the next boot begins with.

mod conduct;
mod walk;

use std::fmt;

use miniserde::Serialize;

use crate::formats::names::names;
pub(crate) use walk::{Layers, REJECTED, set_aside};

/// How many entries are looked at, and how many directories they may lie below. An honest /etc has fewer.
const MAX_ENTRIES: usize = 65_536;
const MAX_DEPTH: usize = 32;
/// How many entries the report names, and how many the line in the log.
const NAMED: usize = 64;
const NAMED_IN_LOG: usize = 3;
/// So many bytes of a path are shown.
const SHOWN: usize = 120;
/// From so many folders of earlier boots on, the line in the log is about them too. They are left alone all the same: to
/// delete the tree of an attacker takes as long as the attacker likes, a shared folder would have names in it twice, and
/// to refuse would stop an honest machine whose services write a file that nobody listed, at each boot.
const MANY_FOLDERS: usize = 16;

/// Why an entry cannot stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No pattern is about it.
    NotListed,
    /// It is neither a file nor a directory, or not what the sealed root has there.
    Kind,
    /// A symbolic link that does not lead to the sealed /usr.
    Link,
    /// It belongs to someone else.
    Owner,
    /// It allows more than the sealed directory, or than a file should.
    Mode,
    /// A file with another name.
    HardLinks,
    /// An extended attribute: of overlayfs, an access list, a capability.
    Attributes,
    /// It is on another filesystem, or in another subvolume.
    Filesystem,
    /// There is one by this name already.
    Twice,
    /// The directory does not list it.
    Hidden,
}

names!(Reason:
    NotListed = "not-listed",
    Kind = "kind",
    Link = "link",
    Owner = "owner",
    Mode = "mode",
    HardLinks = "hard-links",
    Attributes = "attributes",
    Filesystem = "filesystem",
    Twice = "twice",
    Hidden = "hidden"
);

/// What was set aside in a boot. `Default` is nothing.
#[derive(Debug, Default, Serialize)]
pub struct SetAside {
    /// How many entries, each with all that is below.
    count: usize,
    /// Where they are, on the physical root.
    folder: String,
    /// The first of them.
    entries: Vec<Named>,
    /// How many folders of earlier boots there are, as far as they were counted.
    #[serde(rename = "earlier_folders")]
    earlier: usize,
}

/// An entry that was set aside: its path below /etc, escaped.
#[derive(Debug, Serialize)]
struct Named {
    path: String,
    reason: Reason,
}

impl SetAside {
    fn add(&mut self, path: &[u8], reason: Reason) {
        self.count += 1;
        if self.entries.len() < NAMED {
            self.entries.push(Named { path: shown(path), reason });
        }
    }

    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// A path on the disk, for messages: what is not printable escaped, and not too long.
fn shown(path: &[u8]) -> String {
    let mut text =
        path.iter().take(SHOWN).copied().flat_map(std::ascii::escape_default).map(char::from).collect::<String>();
    if path.len() > SHOWN {
        text.push_str("...");
    }
    text
}

/// For the line in the log.
impl fmt::Display for SetAside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, folder, entries, earlier } = self;
        let what = if *count == 1 { "1 entry" } else { &format!("{count} entries") };
        write!(f, "etc: {what} that etc.keep does not keep, set aside in '{folder}':")?;
        for (index, Named { path, reason }) in entries.iter().take(NAMED_IN_LOG).enumerate() {
            write!(f, "{} '{path}' ({})", if index == 0 { "" } else { "," }, reason.name())?;
        }
        let more = count.saturating_sub(NAMED_IN_LOG);
        if more > 0 {
            write!(f, " and {more} more")?;
        }
        if *earlier >= MANY_FOLDERS {
            write!(f, "; {MANY_FOLDERS} or more folders of earlier boots are there, and none is ever deleted")?;
        }
        Ok(())
    }
}
