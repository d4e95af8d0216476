//! Work on files that the kernel did not measure, within limits: whoever writes to the disk says how large they are.

use std::fs::File;
use std::io;
use std::time::Duration;

use thiserror::Error;

use crate::verity::digest::{Algorithm, ImageDigest};
use crate::verity::merkle::{self, Patience, Threads};

/// The largest image file without fs-verity that is read, in bytes. The image of a million files is smaller: it has an
/// inode, a name and a digest of each, a few hundred bytes. What is larger has fs-verity from its installation, or is
/// none.
const MAX_IMAGE: u64 = 1024 * 1024 * 1024;
/// For all such work of a boot: the units give the program five minutes, and the reason is still to be said.
const TIME: Duration = Duration::from_secs(120);

/// How long a boot works on files that nobody measured.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    patience: Patience,
}

/// Why there is no digest of a file.
#[derive(Debug, Error)]
pub enum UnmeasuredError {
    /// It is larger than what is read.
    #[error("expected at most {MAX_IMAGE} bytes without fs-verity, found {found}")]
    TooLarge {
        /// Its size, in bytes.
        found: u64,
    },
    /// The disk is too slow for it.
    #[error("expected a digest in user space within {} s, found more to read", TIME.as_secs())]
    TooSlow,
    /// It cannot be read.
    #[error(transparent)]
    Read(io::Error),
}

impl Limits {
    /// The limits of a boot that begins now.
    pub fn start() -> Self {
        Self { patience: Patience::of(TIME) }
    }

    /// Computes the digest of an image file.
    ///
    /// # Errors
    /// It is too large, or the time is over, or it cannot be read.
    pub fn image_digest(&self, file: &File, algorithm: Algorithm) -> Result<ImageDigest, UnmeasuredError> {
        match file.metadata().map_err(UnmeasuredError::Read)?.len() {
            ..=MAX_IMAGE => self.digest(file, algorithm, Threads::Several),
            found => Err(UnmeasuredError::TooLarge { found }),
        }
    }

    /// Computes the digest of an object, which may be of any size.
    ///
    /// # Errors
    /// The time is over, or it cannot be read.
    pub fn object_digest(&self, file: &File, algorithm: Algorithm) -> Result<ImageDigest, UnmeasuredError> {
        self.digest(file, algorithm, Threads::One)
    }

    fn digest(&self, file: &File, algorithm: Algorithm, threads: Threads) -> Result<ImageDigest, UnmeasuredError> {
        merkle::digest(file, algorithm, threads, self.patience).map_err(|error| match error.kind() {
            io::ErrorKind::TimedOut => UnmeasuredError::TooSlow,
            _ => UnmeasuredError::Read(error),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(size: u64) -> File {
        let file = File::from(rustix::fs::memfd_create("image", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
        file.set_len(size).unwrap();
        file
    }

    #[test]
    fn a_file_of_any_size_ends() {
        let (now, over) = (Limits::start(), Limits { patience: Patience::of(Duration::ZERO) });
        let small = file(1_000_000);
        let digest = now.image_digest(&small, Algorithm::Sha256).unwrap();
        assert_eq!(now.object_digest(&small, Algorithm::Sha256).unwrap(), digest);
        for (limits, size, message) in [
            (now, MAX_IMAGE + 1, "expected at most 1073741824 bytes without fs-verity, found 1073741825"),
            (now, 0xff_ffff_f000, "expected at most 1073741824 bytes without fs-verity, found 1099511623680"),
            (over, MAX_IMAGE, "expected a digest in user space within 120 s, found more to read"),
        ] {
            let error = limits.image_digest(&file(size), Algorithm::Sha512).unwrap_err();
            assert_eq!(error.to_string(), message);
        }
        let error = over.object_digest(&file(0xff_ffff_f000), Algorithm::Sha256).unwrap_err();
        assert!(matches!(error, UnmeasuredError::TooSlow), "{error:?}");
    }
}
