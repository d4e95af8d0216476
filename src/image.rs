//! A look inside a verified image, before the kernel mounts it: is it a composefs image of the format that was asked
//! for, does it have the mount points that will be needed, can all of it be read?
//!
//! Everything is read by `pread` from the verified descriptor, so damage is an error here; through a memory map it
//! would be a signal.

use std::cell::Cell;
use std::fs::File;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::pin::pin;
use std::sync::Mutex;
use std::task::{Context, Poll, Waker};

use erofs_rs::r#async::EroFS;
use erofs_rs::backend::AsyncImage;
use thiserror::Error;

use crate::cmdline::{FormatVersion, RequestedImage};
use crate::repository::image_name;
use crate::verify::VerifiedImage;

/// `LCFS_EROFS_MAGIC`: the first four bytes of every composefs image, in front of the EROFS superblock.
const COMPOSEFS_MAGIC: u32 = 0xd078_629a;
/// The only `version` of the composefs header.
const COMPOSEFS_HEADER_VERSION: u32 = 1;
/// How much is read at once when all of the image is read.
const CHUNK: usize = 256 * 1024;

/// How much of an image is read before it is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadAhead {
    /// Headers and the root directory.
    Headers,
    /// Every byte, once.
    Everything,
}

/// A verified image that is what its karg says, with every needed mount point.
#[derive(Debug)]
pub struct InspectedImage {
    image: VerifiedImage,
}

impl InspectedImage {
    /// What was asked for.
    pub fn requested(&self) -> &RequestedImage {
        self.image.requested()
    }
}

impl AsFd for InspectedImage {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.image.as_fd()
    }
}

/// Why a verified image cannot be used.
#[derive(Debug, Error)]
pub enum ImageError {
    /// A read failed: the kernel found content that does not belong to the digest, or the disk is damaged.
    #[error("image '{name}': expected content that belongs to its digest, found damage")]
    Damaged {
        /// The image's name.
        name: String,
        /// The kernel's reason.
        #[source]
        reason: io::Error,
    },
    /// Not a composefs image.
    #[error(
        "image '{name}': expected composefs magic {COMPOSEFS_MAGIC:#010x} version 1, found {magic:#010x} version {version}"
    )]
    NotComposefs {
        /// The image's name.
        name: String,
        /// The magic number found.
        magic: u32,
        /// The header version found.
        version: u32,
    },
    /// Another format than the karg's.
    #[error("image '{name}': expected composefs format {}, found composefs version {found}", expected.name())]
    Format {
        /// The image's name.
        name: String,
        /// The format that the karg names.
        expected: FormatVersion,
        /// The version in the header.
        found: u32,
    },
    /// Not an EROFS image, or one that contradicts itself.
    #[error("image '{name}': expected an EROFS filesystem")]
    Erofs {
        /// The image's name.
        name: String,
        /// What the reader found.
        #[source]
        reason: ErofsReason,
    },
    /// A mount point that the assembly needs.
    #[error("image '{name}': expected a directory '/{mount_point}', found {found}")]
    MountPoint {
        /// The image's name.
        name: String,
        /// The directory.
        mount_point: &'static str,
        /// What is there.
        found: &'static str,
    },
}

/// What erofs-rs found.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct ErofsReason(String);

impl ErofsReason {
    /// In words of our own: erofs-rs's would bring a formatter of parser reports into the program.
    fn new(error: erofs_rs::Error) -> Self {
        use erofs_rs::Error;
        let (kind, subject) = match error {
            Error::InvalidSuperblock(subject) => ("invalid super block", subject),
            Error::CorruptedData(subject) => ("corrupted data", subject),
            Error::NotSupported(subject) => ("not supported", subject),
            Error::OutOfBounds(subject) => ("out of bounds", subject),
            Error::OutOfRange(offset, size) => ("out of range", format!("{offset} of {size}")),
            Error::Overflow(subject) => ("integer overflow", subject.into()),
            Error::InvalidDirentFileType(found) => ("invalid type in a directory entry", found.to_string()),
            Error::PathNotFound(path) | Error::NotAFile(path) | Error::NotADirectory(path) => ("unexpected file", path),
            Error::NotASymlink(inode) => ("unexpected inode", inode.to_string()),
            Error::BinRead(_) => ("corrupted data", "a structure that cannot be read".into()),
        };
        Self(format!("{kind}: {subject}"))
    }
}

/// Looks inside `image`, which must have each of `mount_points` as a directory in its root.
pub fn inspect(
    image: VerifiedImage,
    read_ahead: ReadAhead,
    mount_points: &[&'static str],
) -> Result<InspectedImage, ImageError> {
    let name = image_name(image.requested());
    let damaged = |reason| ImageError::Damaged { name: name.clone(), reason };
    if read_ahead == ReadAhead::Everything {
        read_everything(image.file()).map_err(damaged)?;
    }
    let mut header = [0; 16];
    image.file().read_exact_at(&mut header, 0).map_err(damaged)?;
    check_header(&name, image.requested().format(), header)?;
    check_mount_points(&name, image.file(), mount_points)?;
    Ok(InspectedImage { image })
}

/// Reads a file from its start to its end and keeps nothing but the kernel's page cache.
pub fn read_everything(file: &File) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut offset = 0;
    loop {
        match file.read_at(&mut buffer, offset) {
            Ok(0) => return Ok(()),
            Ok(count) => offset += count as u64,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The composefs header: magic, version, flags and composefs version, 32 bits each, little-endian.
fn check_header(name: &str, expected: FormatVersion, header: [u8; 16]) -> Result<(), ImageError> {
    let (words, _) = header.as_chunks::<4>();
    let mut words = words.iter().map(|word| u32::from_le_bytes(*word));
    let mut next = || words.next().unwrap_or(0);
    let (magic, version, _flags, found) = (next(), next(), next(), next());
    if magic != COMPOSEFS_MAGIC || version != COMPOSEFS_HEADER_VERSION {
        return Err(ImageError::NotComposefs { name: name.into(), magic, version });
    }
    // Version 0 and 1 differ in nothing but whiteouts of the image's own; C mkcomposefs writes 0 where it has none.
    match (expected, found) {
        (FormatVersion::V1, 0 | 1) | (FormatVersion::V2, 2) => Ok(()),
        _ => Err(ImageError::Format { name: name.into(), expected, found }),
    }
}

fn check_mount_points(name: &str, file: &File, mount_points: &[&'static str]) -> Result<(), ImageError> {
    let reader = Reader { file, failure: Mutex::new(Cell::new(None)) };
    let failed = |error| match reader.failure.lock().ok().and_then(|failure| failure.take()) {
        Some(reason) => ImageError::Damaged { name: name.into(), reason },
        None => ImageError::Erofs { name: name.into(), reason: ErofsReason::new(error) },
    };
    let filesystem = completed(EroFS::new(&reader)).map_err(failed)?;
    for mount_point in mount_points {
        // A directory is what is found by a name that ends with a slash, and cannot be opened as a file.
        let found = match completed(filesystem.open(format!("{mount_point}/"))) {
            Err(erofs_rs::Error::NotAFile(_)) => continue,
            Err(erofs_rs::Error::PathNotFound(_)) => "nothing",
            Ok(_) | Err(erofs_rs::Error::NotADirectory(_)) => "something else",
            Err(error) => return Err(failed(error)),
        };
        return Err(ImageError::MountPoint { name: name.into(), mount_point, found });
    }
    Ok(())
}

/// An image file as erofs-rs reads it. The first failure of the file itself is kept, for the message.
struct Reader<'a> {
    file: &'a File,
    failure: Mutex<Cell<Option<io::Error>>>,
}

impl AsyncImage for &Reader<'_> {
    async fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> erofs_rs::Result<()> {
        self.file.read_exact_at(buffer, offset).map_err(|error| {
            let reason = error.to_string();
            // The end of the file is the image's contradiction, not the disk's.
            if error.kind() != io::ErrorKind::UnexpectedEof
                && let Ok(failure) = self.failure.lock()
            {
                failure.set(Some(error));
            }
            erofs_rs::Error::OutOfBounds(reason)
        })
    }
}

/// The result of a future that never waits, because what it awaits reads from a file.
fn completed<T>(future: impl Future<Output = erofs_rs::Result<T>>) -> erofs_rs::Result<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => Err(erofs_rs::Error::NotSupported("waiting for a file".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(magic: u32, version: u32, composefs_version: u32) -> [u8; 16] {
        let mut bytes = [0; 16];
        for (chunk, word) in bytes.chunks_exact_mut(4).zip([magic, version, 7, composefs_version]) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn headers() {
        use FormatVersion::{V1, V2};
        for (format, version) in [(V1, 0), (V1, 1), (V2, 2)] {
            check_header("images/x", format, header(COMPOSEFS_MAGIC, 1, version)).unwrap();
        }
        for (format, bytes, message) in [
            (
                V1,
                header(COMPOSEFS_MAGIC, 1, 2),
                "image 'images/x': expected composefs format v1, found composefs version 2",
            ),
            (
                V2,
                header(COMPOSEFS_MAGIC, 1, 1),
                "image 'images/x': expected composefs format v2, found composefs version 1",
            ),
            (
                V1,
                header(0xe0f5_e1e2, 1, 1),
                "image 'images/x': expected composefs magic 0xd078629a version 1, found 0xe0f5e1e2 version 1",
            ),
            (
                V1,
                header(COMPOSEFS_MAGIC, 2, 1),
                "image 'images/x': expected composefs magic 0xd078629a version 1, found 0xd078629a version 2",
            ),
        ] {
            assert_eq!(check_header("images/x", format, bytes).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn what_is_no_erofs_is_an_error() {
        for bytes in [&[][..], &[0; 4096], &[0xff; 8192]] {
            let file = File::from(rustix::fs::memfd_create("image", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
            file.write_all_at(bytes, 0).unwrap();
            let error = check_mount_points("images/x", &file, &["etc"]).unwrap_err();
            assert!(matches!(error, ImageError::Erofs { .. }), "{error:?}");
        }
    }
}
