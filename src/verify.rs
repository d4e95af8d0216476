//! The kernel's measurement of an image: the only way to a [`VerifiedImage`].

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;
use thiserror::Error;

use crate::cmdline::RequestedImage;
use crate::digest::{Algorithm, Digest, ImageDigest};
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
    #[error(
        "image '{name}': expected {expected}, found a filesystem without fs-verity \
         (ext4 needs the feature 'verity', the kernel CONFIG_FS_VERITY)"
    )]
    Unsupported {
        /// The image's name.
        name: String,
        /// Its digest.
        expected: ImageDigest,
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
    let measured = match verity::measure(&file) {
        Ok(measured) => measured,
        Err(reason @ Errno::NODATA) => return Err(VerifyError::NoVerity { name, expected, reason }),
        Err(reason @ (Errno::NOTTY | Errno::OPNOTSUPP)) => {
            return Err(VerifyError::Unsupported { name, expected, reason });
        }
        Err(reason) => return Err(VerifyError::Measure { name, expected, reason }),
    };
    let digest = match Algorithm::from_kernel(measured.algorithm) {
        Some(Algorithm::Sha256) => Digest::try_from(measured.digest.as_slice()).ok().map(ImageDigest::Sha256),
        Some(Algorithm::Sha512) => Digest::try_from(measured.digest.as_slice()).ok().map(ImageDigest::Sha512),
        None => None,
    };
    match digest {
        Some(digest) if digest == expected => Ok(VerifiedImage { file, requested }),
        Some(digest) => Err(VerifyError::Mismatch { name, expected, measured: digest.to_string() }),
        None => {
            let measured = format!("{} bytes by an unknown algorithm {}", measured.digest.len(), measured.algorithm);
            Err(VerifyError::Mismatch { name, expected, measured })
        }
    }
}
