//! Turns fs-verity on for an image file that lacks it, as one that was copied to the disk without it does
//! (`missing-verity = "enable"`).
//!
//! First the digest in user space, so that only the right file is sealed; then the kernel builds the Merkle tree, and the
//! disk is told to keep it. Where the power fails before that, the filesystem takes the half-built tree away at the next
//! mount, and the next boot does the same again. Nothing is mounted on the strength of what is computed here: the kernel
//! measures the file afterwards, as it does every other ([`crate::steps::measure`]).

use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use crate::disk::physical;
use crate::kernel::Kernel;
use crate::refusal::Refusal;
use crate::steps::find::{UnverifiedImage, find};
use crate::verity::ask_kernel::enable_file;
use crate::verity::unmeasured::{Limits, UnmeasuredError};

/// Why an image has no fs-verity still.
#[derive(Debug)]
pub enum NotEnabled {
    /// The file is not read to its end.
    Limit(UnmeasuredError),
    /// Whatever else.
    Refused(Refusal),
}

impl From<Refusal> for NotEnabled {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// What went wrong in `FS_IOC_ENABLE_VERITY`, where its reason alone says little.
fn not_enabled(reason: Errno) -> Refusal {
    let refusal = Refusal::of("enable fs-verity").because(reason);
    match reason {
        Errno::TXTBSY => refusal.expected("nobody to have the file open for writing"),
        _ => refusal,
    }
}

/// Enables fs-verity on the file of an image, if it is the one that was asked for.
pub fn enable(
    image: &UnverifiedImage,
    mounted: BorrowedFd<'_>,
    kernel: &Kernel,
    limits: &Limits,
) -> Result<(), NotEnabled> {
    let expected = image.requested().digest();
    // A mount through which the kernel may write; the file's content is only read.
    let copy = physical::writable_copy(mounted, kernel)
        .map_err(|reason| Refusal::of("physical root").expected("to be writable").because(reason))?;
    let image = find(&copy, &[image.requested().clone()])?;
    let file = image.open().map_err(|reason| Refusal::of("open").because(reason))?;
    let computed = limits.image_digest(&file, expected.algorithm()).map_err(|error| match error {
        UnmeasuredError::Read(reason) => Refusal::of("digest in user space").because(reason).into(),
        error => NotEnabled::Limit(error),
    })?;
    if computed != expected {
        return Err(Refusal::of("").but(format!("computed {computed}")).into());
    }
    enable_file(&file, expected.algorithm()).map_err(not_enabled)?;
    // Without it the file would be without fs-verity again after a power failure.
    Ok(rustix::fs::syncfs(&file).map_err(|reason| Refusal::of("syncfs").because(reason))?)
}
