//! A look inside an accepted image, before the kernel mounts it: is it a composefs image of the format that was asked
//! for, does it have the mount points that will be needed, can all of it be read?

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::ask::config::Layout;
use crate::ask::policy::Settings;
use crate::disk::repository::image_name;
use crate::disk::whole_file::WholeFiles;
use crate::formats::composefs::{FormatVersion, check_header, check_mount_points, damaged, has_directory};
use crate::refusal::Refusal;
use crate::steps::measure::AcceptedImage;

/// An image that has this is one of bootc's, which lays out the state of such.
const BOOTC: &str = "usr/lib/bootc";

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

    /// The settings that hold for this image: what they leave to it, it says.
    pub fn settle(&self, settings: &Settings) -> Result<Settings, Refusal> {
        settle(settings, &image_name(self.image.requested().digest()), self.image.file())
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

/// The settings that hold for an image, by its name for messages.
pub fn settle(settings: &Settings, name: &str, image: &File) -> Result<Settings, Refusal> {
    let layout = match settings.lacks_layout() && has_directory(name, image, BOOTC)? {
        true => Layout::Bootc,
        false => Layout::Composefs,
    };
    Ok(settings.clone().for_sealed_root(layout))
}
