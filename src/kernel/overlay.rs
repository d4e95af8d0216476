//! Overlays: the sealed root, and writable directories over parts of it.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::forms::Kernel;
use super::{FsContext, FsError};
use crate::verity::Verification;

/// The sealed root: the image's metadata over the objects' content, every file checked by the kernel, unless that may
/// be left out.
///
/// `image` is the root of the EROFS mount, `objects` the directory that its redirects start from.
///
/// Source: "Data-only lower layers" and "fs-verity support" in the kernel's `Documentation/filesystems/overlayfs.rst`.
pub(crate) fn sealed(
    source: &str,
    verification: Verification,
    image: impl AsFd,
    objects: impl AsFd,
    kernel: &Kernel,
) -> Result<OwnedFd, FsError> {
    let context = FsContext::open("overlay")?;
    context.set_string("source", source)?;
    context.set_string("metacopy", "on")?;
    context.set_string("redirect_dir", "on")?;
    // Linux 6.6. Verification has no fallback.
    context.set_string("verity", verity_mode(verification)).map_err(|error| match error.reason() {
        Errno::INVAL => too_old(error),
        _ => error,
    })?;
    context.set_layers(image.as_fd(), Some(objects.as_fd()), kernel).map_err(named)?;
    context.set_flag("ro")?;
    context.mount(MountAttrFlags::MOUNT_ATTR_RDONLY).map_err(|error| match error.reason() {
        // Before Linux 6.5 options are looked at only now.
        Errno::INVAL if FsContext::open("overlay").is_ok_and(FsContext::takes_any_option) => too_old(error),
        _ => error,
    })
}

/// The value of the option `verity`.
fn verity_mode(verification: Verification) -> &'static str {
    match verification {
        Verification::Required => "require",
        Verification::AllowUnverified => "off",
    }
}

fn too_old(error: FsError) -> FsError {
    not_before(error, "this kernel is too old for 'verity=': expected Linux 6.6")
}

/// Before Linux 6.17 overlayfs takes no layer from a filesystem that has the feature casefold, whether a directory on it uses that or
/// not, and calls the layer by the descriptor that led to it.
fn named(mut error: FsError) -> FsError {
    if error.said("case-insensitive capable filesystem") {
        return not_before(error, "expected a filesystem without the feature 'casefold', or Linux 6.17");
    }
    error
}

fn not_before(error: FsError, expected: &str) -> FsError {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    error.because(format!("{expected} or newer, found {release}"))
}

/// A writable overlay whose lower layer is a directory of the sealed root.
///
/// The options are always written out: with other defaults of the module, what an attacker put into `upper` could make
/// a sealed file that nobody may read readable under another name.
pub(crate) fn writable(
    source: &str,
    lower: impl AsFd,
    upper: impl AsFd,
    work: impl AsFd,
    attributes: MountAttrFlags,
    kernel: &Kernel,
) -> Result<OwnedFd, FsError> {
    let context = FsContext::open("overlay")?;
    context.set_string("source", source)?;
    for (key, value) in
        [("redirect_dir", "nofollow"), ("metacopy", "off"), ("index", "off"), ("nfs_export", "off"), ("xino", "off")]
    {
        context.set_string(key, value)?;
    }
    context.set_layers(lower.as_fd(), None, kernel)?;
    context.set_directory("upperdir", upper.as_fd(), kernel)?;
    context.set_directory("workdir", work.as_fd(), kernel)?;
    context.mount(attributes)
}
