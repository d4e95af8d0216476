//! A look inside an accepted image, before the kernel mounts it: is it a composefs image of the format that was asked
//! for, does it have the mount points that will be needed, can all of it be read?

use std::os::unix::fs::FileExt;

use crate::disk::repository::image_name;
use crate::disk::whole_file::WholeFiles;
use crate::formats::composefs::{FormatVersion, check_header, check_mount_points, damaged};
use crate::refusal::Refusal;
use crate::steps::measure::AcceptedImage;

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
    format: FormatVersion,
}

impl InspectedImage {
    /// The image.
    pub fn accepted(&self) -> &AcceptedImage {
        &self.image
    }

    /// Its format, by its own word, which the digest vouches for.
    pub fn format(&self) -> FormatVersion {
        self.format
    }
}

/// Looks inside `image`, which must have each of `mount_points` as a directory in its root.
pub fn inspect(
    image: AcceptedImage,
    read_ahead: ReadAhead,
    files: &WholeFiles,
    mount_points: &[&'static str],
) -> Result<InspectedImage, Refusal> {
    let name = image_name(image.requested().digest());
    let damaged = |reason| damaged(&name, reason);
    if read_ahead == ReadAhead::Everything {
        files.read(image.file()).map_err(damaged)?;
    }
    let mut header = [0; 16];
    image.file().read_exact_at(&mut header, 0).map_err(damaged)?;
    let format = check_header(&name, image.requested().format(), header)?;
    check_mount_points(&name, image.file(), mount_points)?;
    Ok(InspectedImage { image, format })
}
