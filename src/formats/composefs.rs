//! composefs images: the header in front of the EROFS superblock, and which object has a file's content.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::erofs::{Entries, Filesystem, ReadError, Reader, completed};
use crate::refusal::Refusal;
use crate::verity::digest::{Algorithm, ImageDigest};

/// `LCFS_EROFS_MAGIC`: the first four bytes of every composefs image, in front of the EROFS superblock.
const COMPOSEFS_MAGIC: u32 = 0xd078_629a;
/// The only `version` of the composefs header.
const COMPOSEFS_HEADER_VERSION: u32 = 1;

/// `struct ovl_metacopy` of `fs/overlayfs/overlayfs.h`: version, length, flags, algorithm, digest.
pub const METACOPY: &str = "trusted.overlay.metacopy";
const METACOPY_HEADER: usize = 4;
const METACOPY_VERSION: u8 = 0;
/// The path of the object, from the directory of objects.
pub const REDIRECT: &str = "trusted.overlay.redirect";

/// The format of a composefs image, as a karg names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormatVersion {
    /// What C mkcomposefs writes too.
    V1,
    /// The first format of composefs-rs.
    V2,
}

impl FormatVersion {
    /// The name that kargs and messages use.
    pub fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }
}

/// About an image, by its name.
fn about(name: &str) -> Refusal {
    Refusal::of(format!("image '{name}'"))
}

/// A read failed: the kernel found content that does not belong to the digest, or the disk is damaged.
pub fn damaged(name: &str, reason: io::Error) -> Refusal {
    about(name).expected("content that belongs to its digest").found("damage").because(reason)
}

/// An image that erofs-rs does not read.
pub fn unreadable(name: &str, error: ReadError) -> Refusal {
    match error {
        ReadError::Damaged(reason) => damaged(name, reason),
        ReadError::Content(reason) => about(name).expected("an EROFS filesystem").because(reason),
    }
}

/// The format that the first bytes of an image say, which must be this one if one is `expected`.
pub fn check_header(name: &str, expected: Option<FormatVersion>, header: [u8; 16]) -> Result<FormatVersion, Refusal> {
    let version = composefs_version(name, header)?;
    let unknown = || about(name).expected("composefs version 0 to 2").found(version);
    match (expected, format_of_version(version)) {
        (None, found) => found.ok_or_else(unknown),
        (Some(expected), Some(found)) if expected == found => Ok(found),
        (Some(expected), _) => {
            let expected = format!("composefs format {}", expected.name());
            Err(about(name).expected(expected).found(format_args!("composefs version {version}")))
        }
    }
}

/// The composefs header: magic, version, flags and composefs version, 32 bits each, little-endian.
fn composefs_version(name: &str, header: [u8; 16]) -> Result<u32, Refusal> {
    let (words, _) = header.as_chunks::<4>();
    let mut words = words.iter().map(|word| u32::from_le_bytes(*word));
    let mut next = || words.next().unwrap_or(0);
    let (magic, version, _flags, composefs_version) = (next(), next(), next(), next());
    if magic != COMPOSEFS_MAGIC || version != COMPOSEFS_HEADER_VERSION {
        let expected = format!("composefs magic {COMPOSEFS_MAGIC:#010x} version {COMPOSEFS_HEADER_VERSION}");
        return Err(about(name).expected(expected).found(format_args!("{magic:#010x} version {version}")));
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
pub fn format(name: &str, file: &File) -> Result<FormatVersion, Refusal> {
    let mut header = [0; 16];
    file.read_exact_at(&mut header, 0).map_err(|reason| damaged(name, reason))?;
    check_header(name, None, header)
}

/// Requires each of `mount_points` as a directory in the root of the image in `file`.
pub fn check_mount_points(name: &str, file: &File, mount_points: &[&'static str]) -> Result<(), Refusal> {
    let reader = Reader::new(file);
    let failed = |error| unreadable(name, error);
    let filesystem = reader.filesystem().map_err(failed)?;
    for mount_point in mount_points {
        let found = match directory(&reader, &filesystem, mount_point).map_err(failed)? {
            Found::Directory => continue,
            Found::Nothing => "nothing",
            Found::SomethingElse => "something else",
        };
        return Err(about(name).expected(format!("a directory '/{mount_point}'")).found(found));
    }
    Ok(())
}

/// Whether there is a directory at `path`, from the root of the image.
pub fn has_directory(name: &str, file: &File, path: &str) -> Result<bool, Refusal> {
    let reader = Reader::new(file);
    let failed = |error| unreadable(name, error);
    let filesystem = reader.filesystem().map_err(failed)?;
    Ok(directory(&reader, &filesystem, path).map_err(failed)? == Found::Directory)
}

/// What is where a directory should be.
#[derive(PartialEq, Eq)]
enum Found {
    Directory,
    Nothing,
    SomethingElse,
}

fn directory(reader: &Reader<'_>, filesystem: &Filesystem<'_>, path: &str) -> Result<Found, ReadError> {
    // A directory is what is found by a name that ends with a slash, and cannot be opened as a file.
    match completed(filesystem.open(format!("{path}/"))) {
        Err(erofs_rs::Error::NotAFile(_)) => Ok(Found::Directory),
        Err(erofs_rs::Error::PathNotFound(_)) => Ok(Found::Nothing),
        Ok(_) | Err(erofs_rs::Error::NotADirectory(_)) => Ok(Found::SomethingElse),
        Err(error) => Err(reader.explain(error)),
    }
}

/// Calls `each` with the path, for who wants it, and the object of every file that has one, until that says to stop.
pub fn walk(
    name: &str,
    image: &File,
    mut each: impl FnMut(&dyn Fn() -> String, ImageDigest) -> bool,
) -> Result<(), Refusal> {
    let reader = Reader::new(image);
    let failed = |error| unreadable(name, error);
    let filesystem = reader.filesystem().map_err(failed)?;
    for entry in Entries::new(&reader, &filesystem).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if !entry.inode.is_file() || entry.inode.xattr_size() == 0 {
            continue;
        }
        let path = || entry.dir_entry.path().as_bytes().escape_ascii().to_string();
        let xattrs = completed(filesystem.xattrs_inode(entry.inode)).map_err(|error| failed(reader.explain(error)))?;
        let Some(metacopy) = xattrs.get(METACOPY.as_bytes()) else { continue };
        let redirect = xattrs.get(REDIRECT.as_bytes());
        let reference = |found: String| {
            Refusal::of(format!("'{}'", path())).expected("an object that is named by its digest").found(found)
        };
        let Some(digest) = parse_metacopy(metacopy) else {
            return Err(reference(format!("{METACOPY} '{}'", metacopy.escape_ascii())));
        };
        match redirect {
            Some(redirect) if redirect.strip_prefix(b"/") == Some(object_name(digest).as_bytes()) => {}
            Some(redirect) => return Err(reference(format!("{REDIRECT} '{}'", redirect.escape_ascii()))),
            None => return Err(reference(format!("no {REDIRECT}"))),
        }
        if !each(&path, digest) {
            break;
        }
    }
    Ok(())
}

/// The path of an object, below the directory of objects.
pub fn object_name(digest: ImageDigest) -> String {
    let mut name = digest.to_hex();
    name.insert(2, '/');
    name
}

/// The digest that a metacopy xattr names; `None` where the value is not of the only known form.
pub fn parse_metacopy(value: &[u8]) -> Option<ImageDigest> {
    let (header, digest) = value.split_at_checked(METACOPY_HEADER)?;
    let [version, length, _flags, algorithm] = header else { return None };
    if *version != METACOPY_VERSION || usize::from(*length) != value.len() {
        return None;
    }
    ImageDigest::from_bytes(Algorithm::from_kernel((*algorithm).into())?, digest)
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
    fn the_digest_in_an_xattr() {
        let value = [&[0, 36, 0, 1][..], &[0xab; 32]].concat();
        assert_eq!(parse_metacopy(&value).unwrap().to_hex(), "ab".repeat(32));
        let value = [&[0, 68, 0, 2][..], &[0xcd; 64]].concat();
        assert_eq!(parse_metacopy(&value).unwrap().to_hex(), "cd".repeat(64));
        for value in [
            &[][..],
            &[0, 4, 0],
            &[0, 4, 0, 0],
            &[0, 4, 0, 1],
            &[&[1, 36, 0, 1][..], &[0; 32]].concat(),
            &[&[0, 35, 0, 1][..], &[0; 32]].concat(),
            &[&[0, 36, 0, 2][..], &[0; 32]].concat(),
            &[&[0, 36, 0, 3][..], &[0; 32]].concat(),
        ] {
            assert!(parse_metacopy(value).is_none(), "{value:?}");
        }
    }

    #[test]
    fn headers() {
        use FormatVersion::{V1, V2};
        for (format, version) in [(V1, 0), (V1, 1), (V2, 2)] {
            for expected in [Some(format), None] {
                assert_eq!(check_header("images/x", expected, header(COMPOSEFS_MAGIC, 1, version)), Ok(format));
            }
        }
        for (format, bytes, message) in [
            (
                Some(V1),
                header(COMPOSEFS_MAGIC, 1, 2),
                "image 'images/x': expected composefs format v1, found composefs version 2",
            ),
            (
                Some(V2),
                header(COMPOSEFS_MAGIC, 1, 1),
                "image 'images/x': expected composefs format v2, found composefs version 1",
            ),
            (
                Some(V1),
                header(0xe0f5_e1e2, 1, 1),
                "image 'images/x': expected composefs magic 0xd078629a version 1, found 0xe0f5e1e2 version 1",
            ),
            (
                Some(V1),
                header(COMPOSEFS_MAGIC, 2, 1),
                "image 'images/x': expected composefs magic 0xd078629a version 1, found 0xd078629a version 2",
            ),
            (None, header(COMPOSEFS_MAGIC, 1, 3), "image 'images/x': expected composefs version 0 to 2, found 3"),
            (
                None,
                header(0xe0f5_e1e2, 1, 1),
                "image 'images/x': expected composefs magic 0xd078629a version 1, found 0xe0f5e1e2 version 1",
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
            assert_eq!(error.to_string(), "image 'images/x': expected an EROFS filesystem");
        }
    }
}
