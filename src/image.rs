//! A look inside an accepted image, before the kernel mounts it: is it a composefs image of the format that was asked
//! for, does it have the mount points that will be needed, can all of it be read?

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use thiserror::Error;

use crate::cmdline::FormatVersion;
use crate::erofs::{ErofsReason, ReadError, Reader, completed};
use crate::repository::image_name;
use crate::verify::AcceptedImage;
use crate::whole_file::WholeFiles;

/// `LCFS_EROFS_MAGIC`: the first four bytes of every composefs image, in front of the EROFS superblock.
const COMPOSEFS_MAGIC: u32 = 0xd078_629a;
/// The only `version` of the composefs header.
const COMPOSEFS_HEADER_VERSION: u32 = 1;

/// How much of an image is read before it is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadAhead {
    /// Headers and the root directory.
    Headers,
    /// Every byte, once.
    Everything,
}

/// An accepted image that is what its karg says, with every needed mount point.
#[derive(Debug)]
pub struct InspectedImage {
    image: AcceptedImage,
}

impl InspectedImage {
    /// The image.
    pub fn accepted(&self) -> &AcceptedImage {
        &self.image
    }
}

/// Why an image that was accepted cannot be used.
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
    /// A format that nobody knows yet.
    #[error("image '{name}': expected composefs version 0 to 2, found {found}")]
    Unknown {
        /// The image's name.
        name: String,
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

impl ImageError {
    /// Of an image that erofs-rs read.
    pub(crate) fn new(name: &str, error: ReadError) -> Self {
        match error {
            ReadError::Damaged(reason) => Self::Damaged { name: name.into(), reason },
            ReadError::Content(reason) => Self::Erofs { name: name.into(), reason },
        }
    }
}

/// Looks inside `image`, which must have each of `mount_points` as a directory in its root.
pub fn inspect(
    image: AcceptedImage,
    read_ahead: ReadAhead,
    files: &WholeFiles,
    mount_points: &[&'static str],
) -> Result<InspectedImage, ImageError> {
    let name = image_name(image.requested().digest());
    let damaged = |reason| ImageError::Damaged { name: name.clone(), reason };
    if read_ahead == ReadAhead::Everything {
        files.read(image.file()).map_err(damaged)?;
    }
    let mut header = [0; 16];
    image.file().read_exact_at(&mut header, 0).map_err(damaged)?;
    check_header(&name, image.requested().format(), header)?;
    check_mount_points(&name, image.file(), mount_points)?;
    Ok(InspectedImage { image })
}

pub(crate) fn check_header(name: &str, expected: FormatVersion, header: [u8; 16]) -> Result<(), ImageError> {
    let found = composefs_version(name, header)?;
    if format_of_version(found) == Some(expected) {
        return Ok(());
    }
    Err(ImageError::Format { name: name.into(), expected, found })
}

/// The composefs header: magic, version, flags and composefs version, 32 bits each, little-endian.
fn composefs_version(name: &str, header: [u8; 16]) -> Result<u32, ImageError> {
    let (words, _) = header.as_chunks::<4>();
    let mut words = words.iter().map(|word| u32::from_le_bytes(*word));
    let mut next = || words.next().unwrap_or(0);
    let (magic, version, _flags, composefs_version) = (next(), next(), next(), next());
    if magic != COMPOSEFS_MAGIC || version != COMPOSEFS_HEADER_VERSION {
        return Err(ImageError::NotComposefs { name: name.into(), magic, version });
    }
    Ok(composefs_version)
}

fn format_of_version(composefs_version: u32) -> Option<FormatVersion> {
    match composefs_version {
        // They differ in nothing but whiteouts of the image's own; C mkcomposefs writes 0 where it has none.
        0 | 1 => Some(FormatVersion::V1),
        2 => Some(FormatVersion::V2),
        _ => None,
    }
}

/// The format that the header of an image file says; `name` is for messages.
pub fn format(name: &str, file: &File) -> Result<FormatVersion, ImageError> {
    let mut header = [0; 16];
    file.read_exact_at(&mut header, 0).map_err(|reason| ImageError::Damaged { name: name.into(), reason })?;
    let found = composefs_version(name, header)?;
    format_of_version(found).ok_or_else(|| ImageError::Unknown { name: name.into(), found })
}

/// Requires each of `mount_points` as a directory in the root of the image in `file`.
pub fn check_mount_points(name: &str, file: &File, mount_points: &[&'static str]) -> Result<(), ImageError> {
    let reader = Reader::new(file);
    let failed = |error| ImageError::new(name, error);
    let filesystem = reader.filesystem().map_err(failed)?;
    for mount_point in mount_points {
        // A directory is what is found by a name that ends with a slash, and cannot be opened as a file.
        let found = match completed(filesystem.open(format!("{mount_point}/"))) {
            Err(erofs_rs::Error::NotAFile(_)) => continue,
            Err(erofs_rs::Error::PathNotFound(_)) => "nothing",
            Ok(_) | Err(erofs_rs::Error::NotADirectory(_)) => "something else",
            Err(error) => return Err(failed(reader.explain(error))),
        };
        return Err(ImageError::MountPoint { name: name.into(), mount_point, found });
    }
    Ok(())
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
