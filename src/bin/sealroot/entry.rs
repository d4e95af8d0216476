//! One file, directory or other thing in an image, as `sealroot inspect` tells it.

use std::collections::BTreeMap;

use erofs_rs::Xattrs;
use erofs_rs::r#async::{EroFS, WalkDirEntry};
use erofs_rs::types::Inode;
use miniserde::Serialize;
use miniserde::ser::Fragment;
use rustix::fs::FileType;
use sealroot::formats::composefs::object_name;
use sealroot::formats::composefs::{METACOPY, parse_metacopy};
use sealroot::formats::erofs::{ReadError, Reader, completed};
use sealroot::verity::digest::ImageDigest;

use crate::output::printable;

/// A filesystem that is being read.
type Filesystem<'a> = EroFS<&'a Reader<'a>>;

/// An entry.
#[derive(Debug, Serialize)]
pub struct Entry {
    path: String,
    #[serde(rename = "type")]
    kind: &'static str,
    /// Permissions, in octal digits.
    mode: String,
    uid: u32,
    gid: u32,
    /// In bytes.
    size: u64,
    links: u32,
    /// Seconds since 1970.
    modified: i64,
    /// Of a symbolic link.
    target: Option<String>,
    /// Of a device: `major:minor`.
    device: Option<String>,
    /// The path of a file's content in the repository, unless it is in the image.
    object: Option<ObjectPath>,
    /// Values with escapes for what is not ASCII.
    xattrs: BTreeMap<String, String>,
}

/// An object, serialized as its path in the repository.
#[derive(Clone, Copy, Debug)]
struct ObjectPath(ImageDigest);

impl Serialize for ObjectPath {
    fn begin(&self) -> Fragment<'_> {
        Fragment::Str(format!("objects/{}", object_name(self.0)).into())
    }
}

impl Entry {
    /// The root directory, which is in no directory.
    pub fn root(reader: &Reader<'_>, filesystem: &Filesystem<'_>) -> Result<Self, ReadError> {
        let root = filesystem.super_block().root_inode_id();
        let inode = completed(filesystem.get_inode(root)).map_err(|error| reader.explain(error))?;
        Self::read(reader, filesystem, b"/", inode)
    }

    /// What a walk found.
    pub fn new(reader: &Reader<'_>, filesystem: &Filesystem<'_>, found: &WalkDirEntry) -> Result<Self, ReadError> {
        Self::read(reader, filesystem, found.dir_entry.path().as_bytes(), found.inode)
    }

    fn read(reader: &Reader<'_>, filesystem: &Filesystem<'_>, path: &[u8], inode: Inode) -> Result<Self, ReadError> {
        let explained = |error| reader.explain(error);
        let mut target = None;
        if inode.is_symlink() {
            target = Some(completed(filesystem.read_link_inode(inode)).map_err(explained)?);
        }
        let mut xattrs = Xattrs::new();
        if inode.xattr_size() > 0 {
            xattrs = completed(filesystem.xattrs_inode(inode)).map_err(explained)?;
        }
        Ok(Self {
            path: printable(path),
            kind: kind(inode.file_type()),
            mode: format!("{:04o}", inode.permissions() & 0o7777),
            uid: inode.uid(),
            gid: inode.gid(),
            size: inode.data_size(),
            links: inode.nlink(),
            modified: inode.modified_unix().0,
            target: target.map(|target| printable(target.as_bytes())),
            device: inode.device().map(|(major, minor)| format!("{major}:{minor}")),
            object: xattrs.get(METACOPY.as_bytes()).and_then(|value| parse_metacopy(value)).map(ObjectPath),
            xattrs: xattrs.iter().map(|(name, value)| (printable(name), value.escape_ascii().to_string())).collect(),
        })
    }

    /// What it is.
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// In bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What has the content of a file.
    pub fn object(&self) -> Option<ImageDigest> {
        self.object.map(|object| object.0)
    }

    /// Names and values, made printable.
    pub fn xattrs(&self) -> impl Iterator<Item = (&String, &String)> {
        self.xattrs.iter()
    }

    /// As `ls -l` has it, without names of users.
    pub fn line(&self) -> String {
        let Self { kind, mode, uid, gid, size, path, .. } = self;
        let what = self.device.clone().unwrap_or_else(|| size.to_string());
        let target = self.target.as_ref().map(|target| format!(" -> {target}")).unwrap_or_default();
        format!("{kind:9} {mode} {uid:>5} {gid:>5} {what:>10} {path}{target}")
    }
}

fn kind(file_type: FileType) -> &'static str {
    match file_type {
        FileType::RegularFile => "file",
        FileType::Directory => "directory",
        FileType::Symlink => "symlink",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
        FileType::CharacterDevice => "char",
        FileType::BlockDevice => "block",
        FileType::Unknown => "unknown",
    }
}
