//! Turns fs-verity on for an image file that lacks it, as one that was copied to the disk without it does
//! (`missing-verity = "enable"`).
//!
//! First the digest in user space, so that only the right file is sealed; then the kernel builds the Merkle tree, and the
//! disk is told to keep it. Where the power fails before that, the filesystem takes the half-built tree away at the next
//! mount, and the next boot does the same again. Nothing is mounted on the strength of what is computed here: the kernel
//! measures the file afterwards, as it does every other ([`crate::verify`]).

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use thiserror::Error;

use crate::digest::{Algorithm, ImageDigest};
use crate::merkle;
use crate::mount::Kernel;
use crate::mount::root::{self, RootError};
use crate::repository::{Repository, RepositoryError, UnverifiedImage};
use crate::sys::verity;
use crate::unmeasured::{Limits, UnmeasuredError};

/// Why an image has no fs-verity still.
#[derive(Debug, Error)]
pub enum EnableError {
    /// The physical root cannot be written to.
    #[error("physical root: expected to be writable")]
    ReadWrite(#[source] RootError),
    /// The image was there, and now it is not.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// It cannot be opened.
    #[error("open")]
    Open(#[source] Errno),
    /// It cannot be read.
    #[error("digest in user space")]
    Read(#[source] io::Error),
    /// It is not read to its end.
    #[error(transparent)]
    Limit(UnmeasuredError),
    /// It is another file.
    #[error("computed {computed}")]
    Mismatch {
        /// Its digest.
        computed: ImageDigest,
    },
    /// The kernel did not enable it.
    #[error("{}", step_name(.0))]
    Enable(#[source] Errno),
    /// The disk did not take it.
    #[error("syncfs")]
    Sync(#[source] Errno),
}

/// What went wrong in `FS_IOC_ENABLE_VERITY`, where its reason alone says little.
fn step_name(reason: &Errno) -> &'static str {
    match *reason {
        Errno::TXTBSY => "enable fs-verity: expected nobody to have the file open for writing",
        _ => "enable fs-verity",
    }
}

/// Enables fs-verity on the file of an image, if it is the one that was asked for.
pub fn enable(
    image: &UnverifiedImage,
    mounted: BorrowedFd<'_>,
    kernel: &Kernel,
    limits: &Limits,
) -> Result<(), EnableError> {
    let expected = image.requested().digest();
    // A mount through which the kernel may write; the file's content is only read.
    let copy = root::writable_copy(mounted, kernel).map_err(EnableError::ReadWrite)?;
    let image = Repository::open(&copy)?.find(&[image.requested().clone()])?;
    let file = image.open().map_err(EnableError::Open)?;
    let computed = limits.image_digest(&file, expected.algorithm()).map_err(|error| match error {
        UnmeasuredError::Read(reason) => EnableError::Read(reason),
        error => EnableError::Limit(error),
    })?;
    if computed != expected {
        return Err(EnableError::Mismatch { computed });
    }
    enable_file(&file, expected.algorithm()).map_err(EnableError::Enable)?;
    // Without it the file would be without fs-verity again after a power failure.
    rustix::fs::syncfs(&file).map_err(EnableError::Sync)
}

/// Has the kernel enable fs-verity on an open file, whatever its content; a file that has it already keeps what it has.
/// Until a `syncfs` it may be lost in a power failure.
///
/// # Errors
/// The kernel's own: `ETXTBSY` where somebody has the file open for writing, `EROFS` where the mount is read-only,
/// `ENOTTY` or `EOPNOTSUPP` where the filesystem or the kernel knows no fs-verity.
pub fn enable_file(file: &File, algorithm: Algorithm) -> Result<(), Errno> {
    match verity::enable(file, algorithm.to_kernel(), merkle::BLOCK as u32) {
        // Somebody was quicker.
        Err(Errno::EXIST) => Ok(()),
        result => result,
    }
}
