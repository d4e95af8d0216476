//! Finding the image: by its digest, and by no other name.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;

use crate::ask::cmdline::RequestedImage;
use crate::disk::repository::{Repository, image_name};
use crate::kernel::lookup;
use crate::refusal::Refusal;

/// An image file that was found by its name. Nothing about it is known to be true.
#[derive(Debug)]
pub struct UnverifiedImage {
    location: OwnedFd,
    requested: RequestedImage,
}

/// The first of `images` that exists in the repository of a physical root. One that exists and cannot be used is a refusal, never
/// skipped.
pub fn find(physical_root: impl AsFd, images: &[RequestedImage]) -> Result<UnverifiedImage, Refusal> {
    find_in(&Repository::open(physical_root)?, images)
}

/// The same in a repository that is open.
pub fn find_in(repository: &Repository, images: &[RequestedImage]) -> Result<UnverifiedImage, Refusal> {
    for requested in images {
        if let Some(location) = repository.image(requested.digest())? {
            return Ok(UnverifiedImage { location, requested: requested.clone() });
        }
    }
    let names: Vec<_> = images.iter().map(|image| format!("'{}'", image_name(image.digest()))).collect();
    let expected = format!("in the repository '{}'", repository.name());
    Err(Refusal::of(format!("image {}", names.join(" or "))).expected(expected).because(Errno::NOENT))
}

impl UnverifiedImage {
    /// What the file should be.
    pub fn requested(&self) -> &RequestedImage {
        &self.requested
    }

    /// Opens the file for reading, which has the kernel load the file's fs-verity descriptor.
    pub(super) fn open(&self) -> Result<File, Errno> {
        lookup::reopen(self.location.as_fd())
    }
}
