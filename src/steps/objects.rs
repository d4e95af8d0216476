//! Every object that an image refers to, looked at before the pivot (`check = "objects"`, `"data"`).
//!
//! What an image refers to is read from the image itself, which is verified; what is on the disk beside that is nobody's
//! concern.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::io::Errno;

use crate::ask::config::Check;
use crate::disk::object::{self, Object, ObjectIs};
use crate::disk::pool;
use crate::disk::repository::{self, image_name};
use crate::disk::whole_file::WholeFiles;
use crate::formats::composefs::{object_name, walk};
use crate::refusal::Refusal;
use crate::steps::look_inside::InspectedImage;
use crate::steps::measure::AcceptedImage;
use crate::verity::Verification;
use crate::verity::digest::ImageDigest;
use crate::verity::unmeasured::{Limits, UnmeasuredError};

/// An image of which everything was checked that the policy asks for: the only kind that is mounted.
#[derive(Debug)]
pub struct CheckedImage {
    image: InspectedImage,
}

impl CheckedImage {
    /// The image.
    pub fn accepted(&self) -> &AcceptedImage {
        self.image.accepted()
    }
}

/// Checks the objects of an image as far as `check` says. `physical_root` is where the repository is.
pub fn check(
    image: InspectedImage,
    check: Check,
    physical_root: impl AsFd,
    files: &WholeFiles,
    limits: &Limits,
) -> Result<CheckedImage, Refusal> {
    if check >= Check::Objects {
        let name = image_name(image.accepted().requested().digest());
        let objects = referenced(&name, image.accepted().file())?;
        let directory = repository::objects(physical_root)?;
        let verification = image.accepted().verification();
        let look = |digest| look(directory.as_fd(), digest, check, verification, files, limits);
        if let Some((digest, found)) = first_failure(&objects, look) {
            let path = first_user(&name, image.accepted().file(), digest)?;
            let object = Object::new(object_name(digest), digest, found);
            return Err(Refusal::of(format!("'{path}': {object}")));
        }
    }
    Ok(CheckedImage { image })
}

/// The digests of all objects, each once.
fn referenced(name: &str, image: &File) -> Result<Vec<ImageDigest>, Refusal> {
    let mut digests = Vec::new();
    walk(name, image, |_, digest| {
        // Copies are often neighbours.
        if digests.last() != Some(&digest) {
            digests.push(digest);
        }
        true
    })?;
    digests.sort_unstable();
    digests.dedup();
    Ok(digests)
}

/// The first file, in the order of the image, whose object this is.
fn first_user(name: &str, image: &File, wanted: ImageDigest) -> Result<String, Refusal> {
    let mut user = String::new();
    walk(name, image, |path, digest| {
        if digest != wanted {
            return true;
        }
        user = path();
        false
    })?;
    Ok(user)
}

/// Looks at all objects, several at a time. Of those that are not right, the one that comes first in `objects`.
fn first_failure(
    objects: &[ImageDigest],
    look: impl Fn(ImageDigest) -> Result<(), ObjectIs> + Sync,
) -> Option<(ImageDigest, ObjectIs)> {
    // What comes behind a failure need not be looked at, what comes before it must.
    let end = AtomicUsize::new(objects.len());
    let failure = Mutex::new(None);
    pool::each(objects.len(), |index| {
        let Some(digest) = objects.get(index).filter(|_| index < end.load(Ordering::Relaxed)) else { return };
        let Err(found) = look(*digest) else { return };
        let Ok(mut failure) = failure.lock() else { return };
        if index < end.fetch_min(index, Ordering::Relaxed) {
            *failure = Some((*digest, found));
        }
    });
    failure.into_inner().ok().flatten()
}

/// Looks at one object.
fn look(
    directory: BorrowedFd<'_>,
    expected: ImageDigest,
    check: Check,
    verification: Verification,
    files: &WholeFiles,
    limits: &Limits,
) -> Result<(), ObjectIs> {
    let name = object_name(expected);
    let file = match object::open(directory, &name, expected) {
        Err(ObjectIs::Unmeasured(Errno::NODATA | Errno::NOTTY | Errno::OPNOTSUPP))
            if verification == Verification::AllowUnverified =>
        {
            let file = object::open_unmeasured(directory, &name)?;
            let computed = limits.object_digest(&file, expected.algorithm()).map_err(|error| {
                ObjectIs::Unread(match error {
                    UnmeasuredError::Read(reason) => reason,
                    error => io::Error::other(error),
                })
            })?;
            return if computed == expected { Ok(()) } else { Err(ObjectIs::Computed(computed)) };
        }
        result => result?,
    };
    if check >= Check::Data {
        files.read(&file).map_err(ObjectIs::Damaged)?;
    }
    Ok(())
}
