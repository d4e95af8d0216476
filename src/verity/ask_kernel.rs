//! What the kernel says of a file's fs-verity, and having it enabled.

use std::fmt;
use std::fs::File;
use std::os::fd::AsFd;

use rustix::io::Errno;

use super::digest::{Algorithm, ImageDigest};
use super::merkle;
use crate::sys::verity;

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

/// What keeps a file from having fs-verity if it is the blocks of its filesystem: no kernel (as of Linux 7.2) takes smaller ones
/// than those of the Merkle tree. For messages.
pub fn too_small_blocks(file: &File) -> Option<String> {
    let size = rustix::fs::fstatfs(file).ok()?.f_bsize;
    (size < merkle::BLOCK as i64)
        .then(|| format!("which blocks of {size} bytes cannot have (mke2fs -b {})", merkle::BLOCK))
}

/// Has the kernel enable fs-verity on an open file, whatever its content; a file that has it already keeps what it has.
/// Until a `syncfs` it may be lost in a power failure.
///
/// # Errors
/// The kernel's own: `ETXTBSY` where somebody has the file open for writing, `EROFS` where the mount is read-only,
/// `ENOTTY` or `EOPNOTSUPP` where the filesystem or the kernel knows no fs-verity.
pub fn enable_file(file: &File, algorithm: Algorithm) -> Result<(), Errno> {
    match verity::enable(file, algorithm.to_kernel(), merkle::BLOCK as u32) {
        // Another process enabled it first.
        Err(Errno::EXIST) => Ok(()),
        result => result,
    }
}
