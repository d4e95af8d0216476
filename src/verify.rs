//! The kernel's measurement of an image: the only way to a [`VerifiedImage`].

use std::fmt;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;
use thiserror::Error;

use crate::cmdline::RequestedImage;
use crate::digest::{Algorithm, ImageDigest};
use crate::repository::{UnverifiedImage, image_name};
use crate::sys::verity;

/// An open image file whose fs-verity digest, by the kernel's word, is the one that the command line names.
///
/// The digest vouches for the root of a Merkle tree. Each byte is checked by the kernel when it is read through this
/// descriptor or through a mount of it.
#[derive(Debug)]
pub struct VerifiedImage {
    file: File,
    requested: RequestedImage,
}

impl VerifiedImage {
    /// What was asked for, which is what the file is.
    pub fn requested(&self) -> &RequestedImage {
        &self.requested
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }
}

impl AsFd for VerifiedImage {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Why an image is not the one that was asked for.
#[derive(Debug, Error)]
pub enum VerifyError {
    /// The kernel would not open the file: its fs-verity metadata is damaged, or the disk is.
    #[error("image '{name}': expected {expected}, found a file that cannot be opened (damaged fs-verity metadata?)")]
    Open {
        /// The image's name.
        name: String,
        /// Its digest.
        expected: ImageDigest,
        /// The kernel's reason.
        #[source]
        reason: Errno,
    },
    /// A file without fs-verity.
    #[error("image '{name}': expected {expected}, found a file without fs-verity")]
    NoVerity {
        /// The image's name.
        name: String,
        /// Its digest.
        expected: ImageDigest,
        /// The kernel's reason.
        #[source]
        reason: Errno,
    },
    /// A filesystem without fs-verity.
    #[error("image '{name}': expected {expected}, found a filesystem without fs-verity, {filesystem}")]
    Unsupported {
        /// The image's name.
        name: String,
        /// Its digest.
        expected: ImageDigest,
        /// The filesystem's type, and what would have to be different.
        filesystem: String,
        /// The kernel's reason.
        #[source]
        reason: Errno,
    },
    /// The measurement failed in another way.
    #[error("image '{name}': expected {expected}, found no measurement")]
    Measure {
        /// The image's name.
        name: String,
        /// Its digest.
        expected: ImageDigest,
        /// The kernel's reason.
        #[source]
        reason: Errno,
    },
    /// Another file.
    #[error("image '{name}': expected {expected}, measured {measured}")]
    Mismatch {
        /// The image's name.
        name: String,
        /// Its digest.
        expected: ImageDigest,
        /// The file's digest.
        measured: String,
    },
}

/// Has the kernel measure an image and compares algorithm and digest with what was asked for.
///
/// Source: "FS_IOC_MEASURE_VERITY" in the kernel's `Documentation/filesystems/fsverity.rst`.
pub fn verify(image: UnverifiedImage) -> Result<VerifiedImage, VerifyError> {
    let requested = image.requested().clone();
    let (name, expected) = (image_name(&requested), requested.digest());
    let file = match image.open() {
        Ok(file) => file,
        Err(reason) => return Err(VerifyError::Open { name, expected, reason }),
    };
    let measured = match measure(&file) {
        Ok(measured) => measured,
        Err(reason @ Errno::NODATA) => return Err(VerifyError::NoVerity { name, expected, reason }),
        Err(reason @ (Errno::NOTTY | Errno::OPNOTSUPP)) => {
            let filesystem = filesystem_without_verity(&file);
            return Err(VerifyError::Unsupported { name, expected, filesystem, reason });
        }
        Err(reason) => return Err(VerifyError::Measure { name, expected, reason }),
    };
    if measured.is(expected) {
        Ok(VerifiedImage { file, requested })
    } else {
        Err(VerifyError::Mismatch { name, expected, measured: measured.to_string() })
    }
}

/// What the kernel measured.
#[derive(Clone, Debug)]
pub(crate) enum Measured {
    /// A digest of an algorithm that we know.
    Digest(ImageDigest),
    /// Another one.
    Other(verity::Measurement),
}

impl Measured {
    /// Whether it is this digest.
    pub(crate) fn is(&self, expected: ImageDigest) -> bool {
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
pub(crate) fn measure(file: impl AsFd) -> Result<Measured, Errno> {
    let measurement = verity::measure(file)?;
    let digest = Algorithm::from_kernel(measurement.algorithm)
        .and_then(|algorithm| ImageDigest::from_bytes(algorithm, &measurement.digest));
    Ok(digest.map_or(Measured::Other(measurement), Measured::Digest))
}

/// The type of the filesystem that a file lies on, by its `*_SUPER_MAGIC` of `linux/magic.h`, and what would give it
/// fs-verity, for messages.
fn filesystem_without_verity(file: &File) -> String {
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
