//! What `etc.keep` keeps of /etc from one boot to the next: the content of listed files, and nothing else of the disk.
//!
//! Whoever writes to the disk can put into a persistent upper layer what PID 1 reads: `ld.so.preload`, units, PAM's files. A list of
//! names alone does not help: it is the attacker's filesystem that says which directory has which name, and that two names
//! are one directory. So the upper layer is in memory, `take` copies into it what is listed and well-behaved, and in the booted
//! system [`save`] writes back what has changed since.

mod conduct;
pub mod save;
mod take;

use std::ffi::CStr;

use crate::formats::names::names;
pub(crate) use conduct::RootIs;
pub(crate) use take::{Layers, new_file, take};

/// Where the booted system finds the upper layer ([`UPPER`], read-only) and the directory that keeps it ([`DISK`]).
pub const PLACE: &str = "/run/sealroot/etc";
/// What entries are that did not come to /etc, for the line in the log.
pub const NOT_KEPT: &str = "etc.keep does not keep, left";

/// The upper layer: in memory below [`PLACE`], and what is kept of it in a deployment's state.
pub const UPPER: &str = "upper";
/// A deployment's state directory of /etc, below [`PLACE`].
pub const DISK: &str = "disk";
/// The paths that came from the disk, below [`PLACE`], each with a NUL behind it, and a directory with a slash before that: what is
/// missing of them was removed.
pub(crate) const TAKEN: &CStr = c"taken";

/// How many entries are looked at, and how many directories they may lie below. An honest /etc has fewer.
const MAX_ENTRIES: usize = 65_536;
const MAX_DEPTH: usize = 32;
/// The longest file that is kept, and how much all may come to, in bytes. They are copied at each boot, and stay in memory.
const MAX_FILE: u64 = 4 << 20;
const MAX_TOTAL: u64 = 32 << 20;
/// Why an entry is not kept.
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
    /// It allows more than a file or a directory should.
    Mode,
    /// Its content is not in it: an overlay that was mounted otherwise left it.
    Metacopy,
    /// It is too large, or all files together are.
    Size,
    /// The disk does not give it away.
    Unreadable,
}

names!(Reason:
    NotListed = "not-listed",
    Kind = "kind",
    Link = "link",
    Owner = "owner",
    Mode = "mode",
    Metacopy = "metacopy",
    Size = "size",
    Unreadable = "unreadable"
);

/// The path of an entry of a directory, both below /etc.
fn path_of(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() { name.into() } else { [directory, name].join(&b'/') }
}
