//! What a repository holds, by name: images and objects.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use sealroot::disk::repository::Repository;
use sealroot::refusal::Refusal;
use sealroot::verity::digest::ImageDigest;

/// The digests that have an image's name. Other names, those of `images/refs` among them, are no images.
pub fn images(repository: &Repository) -> Result<Vec<ImageDigest>, Refusal> {
    let mut images: Vec<_> =
        names(repository, "images")?.iter().filter_map(|(name, _)| str::from_utf8(name).ok()?.parse().ok()).collect();
    images.sort_unstable();
    Ok(images)
}

/// The paths of everything below the directory of objects, from there.
pub fn objects(repository: &Repository) -> Result<Vec<String>, Refusal> {
    let mut objects = Vec::new();
    for (folder, kind) in names(repository, "objects")? {
        let folder = String::from_utf8_lossy(&folder).into_owned();
        if kind != FileType::Directory {
            objects.push(folder);
            continue;
        }
        for (name, _) in names(repository, &format!("objects/{folder}"))? {
            objects.push(format!("{folder}/{}", String::from_utf8_lossy(&name)));
        }
    }
    objects.sort_unstable();
    Ok(objects)
}

fn names(repository: &Repository, name: &str) -> Result<Vec<(Vec<u8>, FileType)>, Refusal> {
    list(repository, name).map_err(|reason| Refusal::of(format!("repository: '{name}'")).because(reason))
}

fn list(repository: &Repository, name: &str) -> Result<Vec<(Vec<u8>, FileType)>, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory: OwnedFd = rustix::fs::openat(repository.as_fd(), name, flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in Dir::new(File::from(directory))? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push((entry.file_name().to_bytes().to_vec(), entry.file_type()));
        }
    }
    Ok(names)
}
