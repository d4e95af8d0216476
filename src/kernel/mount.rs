//! A mount, as the kernel tells about it, by whichever of its ways.

use std::path::PathBuf;

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Its identifier ([`super::forms::MountIdKind`]); `None` where another mount hides it from view and from being told apart.
    pub id: Option<u64>,
    /// The identifier of the mount that it is attached to; 0 where that is none of the tree.
    pub parent: u64,
    /// Where.
    pub point: PathBuf,
    /// The flags of the mount.
    pub flags: Vec<String>,
    /// The filesystem's type.
    pub filesystem: String,
    /// The source, by the filesystem's word.
    pub source: String,
    /// The options of the filesystem.
    pub options: Vec<String>,
}
