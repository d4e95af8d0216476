//! Finding the image that an argument means: a file, or one of a repository by its digest.

use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use sealroot::disk::repository::Repository;
use sealroot::formats::composefs;
use sealroot::formats::composefs::FormatVersion;
use sealroot::refusal::Refusal;
use sealroot::verity::digest::{Algorithm, ImageDigest};

use crate::arguments::ImageArguments;
use crate::measure::{self, Measured};
use crate::output::{Failure, printable};

/// An image, open and looked at.
#[derive(Debug)]
pub struct ImageFile {
    /// For messages.
    pub name: String,
    pub file: File,
    pub format: FormatVersion,
    pub measured: Measured,
}

/// Opens what the arguments mean. A digest must be that of the image that the repository has by its name.
pub fn open(arguments: &ImageArguments) -> Result<ImageFile, Failure> {
    let ImageArguments { image, repository, algorithm } = arguments;
    match image.to_str().map(str::parse::<ImageDigest>) {
        Some(Ok(digest)) => open_in(&open_repository(&repository.directory)?, digest),
        // What is wrong with a digest helps more than that there is no file by its name.
        Some(Err(_)) if is_hex(image) && !image.exists() => {
            let (shown, found) = (image.display(), image.as_os_str().len());
            let expected = "a file or 64 or 128 hexadecimal digits";
            Err(Failure::Misuse(format!("'{shown}': expected {expected}, found {found}")))
        }
        _ => open_file(image, algorithm.map(Algorithm::from)),
    }
}

/// Opens the image that a repository has for this digest.
pub fn open_in(repository: &Repository, expected: ImageDigest) -> Result<ImageFile, Failure> {
    let (name, file) = repository.open_image(expected)?;
    let measured = Measured::of(&file, expected.algorithm()).map_err(|reason| unusable(&name, reason))?;
    if measured.digest() != expected {
        let refusal = Refusal::of(format!("image '{name}'")).expected(expected.to_string());
        return Err(refusal.but(measured.to_string()).into());
    }
    let format = composefs::format(&name, &file)?;
    Ok(ImageFile { name, file, format, measured })
}

fn open_file(path: &Path, algorithm: Option<Algorithm>) -> Result<ImageFile, Failure> {
    let name = printable(path.as_os_str().as_bytes());
    let file = measure::open(path).map_err(|reason| unusable(&name, reason))?;
    let format = composefs::format(&name, &file)?;
    let algorithm = match algorithm {
        Some(algorithm) => algorithm,
        None => algorithm_of_objects(&name, &file)?.unwrap_or(Algorithm::Sha256),
    };
    let measured = Measured::of(&file, algorithm).map_err(|reason| unusable(&name, reason))?;
    Ok(ImageFile { name, file, format, measured })
}

/// The repository in a directory that somebody named.
pub fn open_repository(directory: &Path) -> Result<Repository, Failure> {
    let name = printable(directory.as_os_str().as_bytes());
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(directory, flags, Mode::empty()).map_err(|reason| unusable(&name, reason.into()))?;
    Ok(Repository::at(opened, name)?)
}

/// The algorithm of the first object that an image names: a repository has one for all.
fn algorithm_of_objects(name: &str, file: &File) -> Result<Option<Algorithm>, Failure> {
    let mut algorithm = None;
    composefs::walk(name, file, |_, digest| {
        algorithm = Some(digest.algorithm());
        false
    })?;
    Ok(algorithm)
}

fn unusable(name: &str, reason: std::io::Error) -> Refusal {
    Refusal::of(format!("'{name}'")).because(reason)
}

fn is_hex(path: &Path) -> bool {
    path.as_os_str().as_bytes().iter().all(u8::is_ascii_hexdigit)
}
