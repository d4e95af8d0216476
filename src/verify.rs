//! The kernel's measurement of an image: the only way to a [`VerifiedImage`].

use std::error::Error;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;
use thiserror::Error;

use crate::cmdline::RequestedImage;
use crate::config::MissingVerity;
use crate::digest::{Algorithm, ImageDigest};
use crate::enable::{self, EnableError};
use crate::mount::Kernel;
use crate::policy::{Policy, Verification};
use crate::repository::{UnverifiedImage, image_name};
use crate::sys::verity;
use crate::unmeasured::{Limits, UnmeasuredError};

/// An open image file whose fs-verity digest, by the kernel's word, is the one that the command line names.
///
/// The digest vouches for the root of a Merkle tree. Each byte is checked by the kernel when it is read through this
/// descriptor or through a mount of it.
#[derive(Debug)]
pub struct VerifiedImage {
    file: File,
    requested: RequestedImage,
}

/// An open image file without fs-verity that had the right digest when it was read. Nothing vouches for what the next
/// read gives; only a policy that allows unverified boots leads here.
#[derive(Debug)]
pub struct ImageWithoutVerity {
    file: File,
    requested: RequestedImage,
}

/// An image that the policy lets be mounted.
#[derive(Debug)]
pub enum AcceptedImage {
    /// The kernel checks every byte.
    Verified(VerifiedImage),
    /// Nobody does.
    WithoutVerity(ImageWithoutVerity),
}

impl AcceptedImage {
    /// What was asked for.
    pub fn requested(&self) -> &RequestedImage {
        match self {
            Self::Verified(image) => &image.requested,
            Self::WithoutVerity(image) => &image.requested,
        }
    }

    /// The open file.
    pub fn file(&self) -> &File {
        match self {
            Self::Verified(image) => &image.file,
            Self::WithoutVerity(image) => &image.file,
        }
    }

    /// What the kernel has to do for what is mounted from it.
    pub fn verification(&self) -> Verification {
        match self {
            Self::Verified(_) => Verification::Required,
            Self::WithoutVerity(_) => Verification::AllowUnverified,
        }
    }
}

/// Why an image is not the one that was asked for.
#[derive(Debug)]
pub struct VerifyError {
    name: String,
    expected: ImageDigest,
    found: Box<Found>,
}

impl fmt::Display for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, expected, found } = self;
        if let Found::Unmeasurable(error) = &**found {
            return write!(f, "image '{name}': {error}");
        }
        write!(f, "image '{name}': expected {expected}, {found}")
    }
}

impl Error for VerifyError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.found.source()
    }
}

/// What was there instead of the image.
#[derive(Debug, Error)]
pub enum Found {
    /// The kernel would not open the file: its fs-verity metadata is damaged, or the disk is.
    #[error("found a file that cannot be opened (damaged fs-verity metadata?)")]
    Closed(#[source] Errno),
    /// A file without fs-verity.
    #[error("found a file without fs-verity")]
    NoVerity(#[source] Errno),
    /// A file without fs-verity that could not be given it.
    #[error("found a file without fs-verity")]
    NotEnabled(#[source] EnableError),
    /// A filesystem without fs-verity.
    #[error("found a filesystem without fs-verity, {filesystem}")]
    Unsupported {
        /// The filesystem's type, and what would have to be different.
        filesystem: String,
        /// The kernel's reason.
        #[source]
        reason: Errno,
    },
    /// The measurement failed in another way.
    #[error("found no measurement")]
    Unmeasured(#[source] Errno),
    /// Another file.
    #[error("measured {0}")]
    Measured(String),
    /// A file for an unverified boot that cannot be read.
    #[error("found a file that cannot be read")]
    Unread(#[source] io::Error),
    /// A file without fs-verity that is not read to its end.
    #[error(transparent)]
    Unmeasurable(UnmeasuredError),
    /// Another file, in an unverified boot.
    #[error("computed {0}")]
    Computed(ImageDigest),
}

/// Has the kernel measure an image and compares algorithm and digest with what was asked for. `mounted` is the
/// directory /sysroot, where fs-verity may have to be enabled first.
///
/// Source: "FS_IOC_MEASURE_VERITY" in the kernel's `Documentation/filesystems/fsverity.rst`.
pub fn verify(
    image: &UnverifiedImage,
    policy: &Policy,
    mounted: BorrowedFd<'_>,
    kernel: &Kernel,
    limits: &Limits,
) -> Result<AcceptedImage, VerifyError> {
    accept(image, policy, mounted, kernel, limits).map_err(|found| VerifyError {
        name: image_name(image.requested().digest()),
        expected: image.requested().digest(),
        found: found.into(),
    })
}

fn accept(
    image: &UnverifiedImage,
    policy: &Policy,
    mounted: BorrowedFd<'_>,
    kernel: &Kernel,
    limits: &Limits,
) -> Result<AcceptedImage, Found> {
    match measure_image(image) {
        Err(Found::NoVerity(_)) if *policy.settings().missing_verity.value() == MissingVerity::Enable => {
            enable::enable(image, mounted, kernel, limits).map_err(|error| match error {
                EnableError::Limit(error) => Found::Unmeasurable(error),
                error => Found::NotEnabled(error),
            })?;
            log::info!("image '{}': fs-verity enabled", image_name(image.requested().digest()));
            measure_image(image).map(AcceptedImage::Verified)
        }
        Err(Found::NoVerity(_) | Found::Unsupported { .. })
            if policy.verification() == Verification::AllowUnverified =>
        {
            accept_without_verity(image, limits).map(AcceptedImage::WithoutVerity)
        }
        measured => measured.map(AcceptedImage::Verified),
    }
}

/// By the kernel's word.
fn measure_image(image: &UnverifiedImage) -> Result<VerifiedImage, Found> {
    let file = image.open().map_err(Found::Closed)?;
    match measure(&file) {
        Ok(measured) if measured.is(image.requested().digest()) => {
            Ok(VerifiedImage { file, requested: image.requested().clone() })
        }
        Ok(measured) => Err(Found::Measured(measured.to_string())),
        Err(reason @ Errno::NODATA) => Err(Found::NoVerity(reason)),
        Err(reason @ (Errno::NOTTY | Errno::OPNOTSUPP)) => {
            Err(Found::Unsupported { filesystem: filesystem_without_verity(&file), reason })
        }
        Err(reason) => Err(Found::Unmeasured(reason)),
    }
}

/// For an unverified boot: by the digest in user space, against accidents. Whoever can change the disk is not kept from
/// that.
fn accept_without_verity(image: &UnverifiedImage, limits: &Limits) -> Result<ImageWithoutVerity, Found> {
    let requested = image.requested().clone();
    let file = image.open().map_err(Found::Closed)?;
    let computed = limits.image_digest(&file, requested.digest().algorithm()).map_err(|error| match error {
        UnmeasuredError::Read(reason) => Found::Unread(reason),
        error => Found::Unmeasurable(error),
    })?;
    if computed != requested.digest() {
        return Err(Found::Computed(computed));
    }
    Ok(ImageWithoutVerity { file, requested })
}

/// What the kernel measured.
#[derive(Clone, Debug)]
pub enum Measured {
    /// A digest of an algorithm that we know.
    Digest(ImageDigest),
    /// Another one.
    #[doc(hidden)]
    Other(verity::Measurement),
}

impl Measured {
    /// Whether it is this digest.
    pub fn is(&self, expected: ImageDigest) -> bool {
        matches!(self, Self::Digest(digest) if *digest == expected)
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Digest(digest) => digest.fmt(f),
            Self::Other(verity::Measurement { algorithm, digest }) => {
                write!(f, "{} bytes by an unknown algorithm {algorithm}", digest.len())
            }
        }
    }
}

/// Has the kernel measure an open file.
pub fn measure(file: impl AsFd) -> Result<Measured, Errno> {
    let measurement = verity::measure(file)?;
    let digest = Algorithm::from_kernel(measurement.algorithm)
        .and_then(|algorithm| ImageDigest::from_bytes(algorithm, &measurement.digest));
    Ok(digest.map_or(Measured::Other(measurement), Measured::Digest))
}

/// The type of the filesystem that a file lies on, by its `*_SUPER_MAGIC` of `linux/magic.h`, and what would give it
/// fs-verity, for messages.
pub fn filesystem_without_verity(file: &File) -> String {
    let has_it = "ext4 with the feature 'verity', btrfs and f2fs have it";
    let (name, remedy) = match rustix::fs::fstatfs(file).map(|found| found.f_type as u32) {
        Ok(0xef53) => ("ext4", "it needs the feature 'verity' (tune2fs -O verity), and the kernel CONFIG_FS_VERITY"),
        Ok(0xf2f5_2010) => {
            ("f2fs", "it needs the feature 'verity' (mkfs.f2fs -O verity), and the kernel CONFIG_FS_VERITY")
        }
        Ok(0x9123_683e) => ("btrfs", "the kernel needs CONFIG_FS_VERITY"),
        Ok(0x5846_5342) => ("xfs", has_it),
        Ok(0x0102_1994) => ("tmpfs", has_it),
        _ => ("of another type", has_it),
    };
    format!("{name}: {remedy}")
}
