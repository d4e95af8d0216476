//! What an image says about the object of a file, and what the repository has for it.
//!
//! For checks before the pivot and the reasons of refusals only. Whether a file may be read is the kernel's decision.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;

use crate::formats::composefs::{METACOPY, REDIRECT, parse_metacopy};
use crate::kernel::lookup::{self, Links, LookupError};
use crate::verity::ask_kernel;
use crate::verity::digest::ImageDigest;

/// The longest digest is 64 bytes, the path of an object twice as long and a little.
const MAX_XATTR: usize = 512;

/// What was found about the object of a file.
#[derive(Debug)]
pub enum Finding {
    /// The image could not be asked.
    Unknown,
    /// The image names an object.
    Object(Box<Object>),
}

/// An object that an image names, and is not as it should be.
#[derive(Debug)]
pub struct Object {
    /// Its path, below the directory of objects.
    name: String,
    /// The digest that the image names.
    expected: ImageDigest,
    /// What the repository has.
    found: ObjectIs,
}

/// What the repository has for an object's name.
#[derive(Debug)]
pub enum ObjectIs {
    /// Nothing that could be opened.
    Unusable(LookupError),
    /// A file that the kernel does not open or does not measure.
    Unmeasured(Errno),
    /// A file with this digest.
    Measured(String),
    /// The right object, which overlayfs does not open for this reason.
    Right(Errno),
    /// The right object, with content that does not belong to its digest.
    Damaged(io::Error),
    /// A file without fs-verity that cannot be read.
    Unread(io::Error),
    /// A file without fs-verity, with this digest.
    Computed(ImageDigest),
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Object(object) => object.fmt(f),
            Self::Unknown => f.write_str("its content cannot be opened"),
        }
    }
}

impl Object {
    /// An object for which the repository has this.
    pub fn new(name: String, expected: ImageDigest, found: ObjectIs) -> Self {
        Self { name, expected, found }
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, expected, found } = self;
        write!(f, "object 'objects/{name}': expected {expected}, ")?;
        match found {
            ObjectIs::Unusable(LookupError::Kernel(Errno::NOENT)) => f.write_str("found none"),
            ObjectIs::Unusable(LookupError::Kernel(Errno::LOOP)) => f.write_str("found a symbolic link"),
            ObjectIs::Unusable(LookupError::Kernel(reason)) => {
                write!(f, "found one that cannot be looked at ({reason})")
            }
            ObjectIs::Unusable(LookupError::Kind { found, .. }) => write!(f, "found {found}"),
            ObjectIs::Unmeasured(Errno::NODATA) => f.write_str("found a file without fs-verity"),
            ObjectIs::Unmeasured(reason) => write!(f, "found a file that cannot be opened or measured ({reason})"),
            ObjectIs::Measured(digest) => write!(f, "measured {digest}"),
            ObjectIs::Right(Errno::IO) => f.write_str(
                "measured the same, but overlayfs refuses it (as Linux 7.0 to 7.0.6 refuse good files: \"has no \
                 fs-verity digest\")",
            ),
            ObjectIs::Right(_) => f.write_str("measured the same, but overlayfs does not open it"),
            ObjectIs::Damaged(reason) => write!(f, "found damage ({reason})"),
            ObjectIs::Unread(reason) => write!(f, "found a file that cannot be read ({reason})"),
            ObjectIs::Computed(digest) => write!(f, "computed {digest}"),
        }
    }
}

/// Finds out about the object of the file at `path`, which overlayfs did not open for this reason.
pub fn examine(image: BorrowedFd<'_>, objects: BorrowedFd<'_>, path: &str, reason: Errno) -> Finding {
    let Some((name, expected)) = named(image, path) else { return Finding::Unknown };
    let found = match open(objects, &name, expected) {
        Err(found) => found,
        Ok(_) => ObjectIs::Right(reason),
    };
    Finding::Object(Box::new(Object { name, expected, found }))
}

/// Opens an object that the kernel measures as it should be.
pub(crate) fn open(objects: BorrowedFd<'_>, name: &str, expected: ImageDigest) -> Result<File, ObjectIs> {
    let file = open_unmeasured(objects, name)?;
    match ask_kernel::measure(&file) {
        Ok(measured) if measured.is(expected) => Ok(file),
        Ok(measured) => Err(ObjectIs::Measured(measured.to_string())),
        Err(reason) => Err(ObjectIs::Unmeasured(reason)),
    }
}

/// Opens what has an object's name.
pub fn open_unmeasured(objects: BorrowedFd<'_>, name: &str) -> Result<File, ObjectIs> {
    // overlayfs follows no link in a data layer either.
    let location = lookup::regular_file(objects, name, Links::Refused).map_err(ObjectIs::Unusable)?;
    lookup::reopen(location.as_fd()).map_err(ObjectIs::Unmeasured)
}

/// The path, below the directory of objects, and the digest of the object that the image names for a file.
fn named(image: BorrowedFd<'_>, path: &str) -> Option<(String, ImageDigest)> {
    let file = lookup::regular_file_in_root(image, path).ok()?;
    let file = lookup::proc_path(file.as_fd());
    let mut buffer = [0; MAX_XATTR];
    let count = rustix::fs::getxattr(&file, METACOPY, &mut buffer).ok()?;
    let digest = parse_metacopy(buffer.get(..count)?)?;
    let count = rustix::fs::getxattr(&file, REDIRECT, &mut buffer).ok()?;
    let redirect = str::from_utf8(buffer.get(..count)?).ok()?;
    Some((redirect.trim_start_matches('/').into(), digest))
}
