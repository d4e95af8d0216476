//! The kernel's measurement of an image: the only way to an [`AcceptedImage`].

use std::fs::File;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use crate::ask::cmdline::RequestedImage;
use crate::ask::config::MissingVerity;
use crate::ask::policy::Policy;
use crate::disk::repository::image_name;
use crate::kernel::Kernel;
use crate::refusal::Refusal;
use crate::steps::enable::{self, NotEnabled};
use crate::steps::find::UnverifiedImage;
use crate::verity::Verification;
use crate::verity::ask_kernel::{self, filesystem_without_verity, too_small_blocks};
use crate::verity::unmeasured::{Limits, UnmeasuredError};

/// An open image file that has the digest that the command line names, and that the policy lets be mounted.
///
/// If verification is required, the digest is the kernel's word: it vouches for the root of a Merkle tree, and the kernel checks
/// each byte that is read through this descriptor or through a mount of it. If it is not, the file had the right digest when
/// it was read once, and nothing vouches for what the next read gives.
#[derive(Debug)]
pub struct AcceptedImage {
    file: File,
    requested: RequestedImage,
    verification: Verification,
}

impl AcceptedImage {
    /// What was asked for.
    pub fn requested(&self) -> &RequestedImage {
        &self.requested
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// What the kernel has to do for what is mounted from it.
    pub fn verification(&self) -> Verification {
        self.verification
    }
}

/// What is in the place of an image.
enum ImageIs {
    /// A file without fs-verity.
    WithoutVerity(Option<String>, Errno),
    /// A file on a filesystem that has no fs-verity: its type, and what would have to be different.
    OnOtherFilesystem(String, Errno),
    /// Nothing that any policy accepts.
    Refused(Refusal),
}

impl From<Refusal> for ImageIs {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// About an image, by its name.
fn about(image: &UnverifiedImage) -> Refusal {
    Refusal::of(format!("image '{}'", image_name(image.requested().digest())))
}

/// An image that is not what was asked for.
fn wrong(image: &UnverifiedImage) -> Refusal {
    about(image).expected(image.requested().digest().to_string())
}

/// A file that is not read to its end.
fn unmeasurable(image: &UnverifiedImage, reason: UnmeasuredError) -> Refusal {
    about(image).but(reason.to_string())
}

fn without_verity(image: &UnverifiedImage, blocks: Option<String>) -> Refusal {
    let found = "a file without fs-verity";
    match blocks {
        Some(blocks) => wrong(image).found(format_args!("{found}, {blocks}")),
        None => wrong(image).found(found),
    }
}

/// Has the kernel measure an image and compares algorithm and digest with what was asked for. `mounted` is the
/// directory /sysroot, where fs-verity may have to be enabled first.
///
/// Source: "FS_IOC_MEASURE_VERITY" in the kernel's `Documentation/filesystems/fsverity.rst`.
pub fn measure(
    image: &UnverifiedImage,
    policy: &Policy,
    mounted: BorrowedFd<'_>,
    kernel: &Kernel,
    limits: &Limits,
) -> Result<AcceptedImage, Refusal> {
    let unverified = policy.verification() == Verification::AllowUnverified;
    match measure_image(image) {
        Ok(accepted) => Ok(accepted),
        Err(ImageIs::WithoutVerity(blocks, _))
            if *policy.settings().missing_verity.value() == MissingVerity::Enable =>
        {
            enable::enable(image, mounted, kernel, limits).map_err(|reason| match reason {
                NotEnabled::Limit(reason) => unmeasurable(image, reason),
                NotEnabled::Refused(reason) => without_verity(image, blocks).because(reason),
            })?;
            log::info!("image '{}': fs-verity enabled", image_name(image.requested().digest()));
            measure_image(image).map_err(|found| found.refused(image))
        }
        Err(ImageIs::WithoutVerity(..) | ImageIs::OnOtherFilesystem(..)) if unverified => {
            accept_without_verity(image, limits)
        }
        Err(found) => Err(found.refused(image)),
    }
}

impl ImageIs {
    fn refused(self, image: &UnverifiedImage) -> Refusal {
        match self {
            Self::WithoutVerity(blocks, reason) => without_verity(image, blocks).because(reason),
            Self::OnOtherFilesystem(filesystem, reason) => {
                wrong(image).found(format_args!("a filesystem without fs-verity, {filesystem}")).because(reason)
            }
            Self::Refused(refusal) => refusal,
        }
    }
}

/// Opens the file, which has the kernel load its fs-verity descriptor.
fn open(image: &UnverifiedImage) -> Result<File, Refusal> {
    let found = "a file that cannot be opened (damaged fs-verity metadata?)";
    image.open().map_err(|reason| wrong(image).found(found).because(reason))
}

/// By the kernel's word.
fn measure_image(image: &UnverifiedImage) -> Result<AcceptedImage, ImageIs> {
    let file = open(image)?;
    match ask_kernel::measure(&file) {
        Ok(measured) if measured.is(image.requested().digest()) => {
            Ok(AcceptedImage { file, requested: image.requested().clone(), verification: Verification::Required })
        }
        Ok(measured) => Err(wrong(image).but(format!("measured {measured}")).into()),
        Err(reason @ Errno::NODATA) => Err(ImageIs::WithoutVerity(too_small_blocks(&file), reason)),
        Err(reason @ (Errno::NOTTY | Errno::OPNOTSUPP)) => {
            Err(ImageIs::OnOtherFilesystem(filesystem_without_verity(&file), reason))
        }
        Err(reason) => Err(wrong(image).found("no measurement").because(reason).into()),
    }
}

/// For an unverified boot: by the digest in user space, against accidents. Whoever can change the disk is not kept from
/// that.
fn accept_without_verity(image: &UnverifiedImage, limits: &Limits) -> Result<AcceptedImage, Refusal> {
    let requested = image.requested().clone();
    let file = open(image)?;
    let computed = limits.image_digest(&file, requested.digest().algorithm()).map_err(|error| match error {
        UnmeasuredError::Read(reason) => wrong(image).found("a file that cannot be read").because(reason),
        error => unmeasurable(image, error),
    })?;
    if computed != requested.digest() {
        return Err(wrong(image).but(format!("computed {computed}")));
    }
    Ok(AcceptedImage { file, requested, verification: Verification::AllowUnverified })
}
