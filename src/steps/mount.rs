//! The sealed root: an inspected image mounted as EROFS, overlaid on its objects, and looked at once more in the
//! kernel's own words.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::ask::cmdline::RequestedImage;
use crate::disk::physical::PhysicalRoot;
use crate::disk::repository;
use crate::kernel::erofs;
use crate::kernel::mount::Mount;
use crate::kernel::mounts;
use crate::kernel::workbench::Workbench;
use crate::kernel::{Kernel, overlay};
use crate::refusal::Refusal;
use crate::steps::objects::CheckedImage;
use crate::verity::Verification;
use crate::verity::digest::ImageDigest;

/// The sealed root, part of no tree that anything else can see, with the layers that it is made of.
#[derive(Debug)]
pub struct DetachedRoot {
    mount: OwnedFd,
    layers: SealedLayers,
    origin: RootOrigin,
}

/// What a root is made from, and what is asked of the kernel for it.
#[derive(Clone, Debug)]
pub struct RootOrigin {
    requested: RequestedImage,
    verification: Verification,
}

/// The layers of a sealed root.
#[derive(Debug)]
pub struct SealedLayers {
    /// The mount of the image, with names, attributes, and which object has a file's content.
    image: OwnedFd,
    /// The directory of objects.
    objects: OwnedFd,
}

impl DetachedRoot {
    /// What the root was made from.
    pub fn origin(&self) -> &RootOrigin {
        &self.origin
    }

    /// The mount and its layers.
    pub(crate) fn into_parts(self) -> (OwnedFd, SealedLayers) {
        (self.mount, self.layers)
    }
}

impl RootOrigin {
    /// The image.
    pub fn requested(&self) -> &RequestedImage {
        &self.requested
    }

    /// What the kernel checks.
    pub fn verification(&self) -> Verification {
        self.verification
    }

    /// The source that names the root: `composefs:<hex>`.
    pub fn source(&self) -> String {
        source(self.requested.digest())
    }
}

/// The source that names the sealed root of an image: `composefs:<hex>`.
pub fn source(digest: ImageDigest) -> String {
    format!("composefs:{}", digest.to_hex())
}

impl SealedLayers {
    /// The root of the image's own mount.
    pub fn image(&self) -> BorrowedFd<'_> {
        self.image.as_fd()
    }

    /// The directory of objects.
    pub fn objects(&self) -> BorrowedFd<'_> {
        self.objects.as_fd()
    }
}

impl AsFd for DetachedRoot {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.mount.as_fd()
    }
}

/// Mounts an image.
pub fn mount(
    image: &CheckedImage,
    physical: &PhysicalRoot<'_>,
    workbench: &Workbench,
    kernel: &Kernel,
) -> Result<DetachedRoot, Refusal> {
    workbench.hold(physical.copy(), "physical")?;
    let image = image.accepted();
    let origin = RootOrigin { requested: image.requested().clone(), verification: image.verification() };
    let metadata = erofs::mount(image.file().as_fd(), kernel)?;
    workbench.hold(&metadata, "image")?;
    let objects = repository::objects(physical.copy())?;
    let mount = overlay::sealed(&origin.source(), origin.verification, &metadata, &objects, kernel)?;
    workbench.hold(&mount, "sealed")?;
    if workbench.is_attached() {
        ask_kernel(&mount, &origin, kernel)?;
    }
    Ok(DetachedRoot { mount, layers: SealedLayers { image: metadata, objects }, origin })
}

/// Asks the kernel whether what is mounted keeps the promises of a sealed root. It answers for attached mounts only.
pub fn ask_kernel(mount: impl AsFd, origin: &RootOrigin, kernel: &Kernel) -> Result<(), Refusal> {
    check_options(&mounts::mount_of(mount, kernel)?, &origin.source(), origin.verification)
}

/// The promises of the sealed root, token by token. `metacopy` and `redirect_dir` are shown by the kernel only where
/// they differ from the module's default, so their absence says nothing.
pub fn check_options(mount: &Mount, source: &str, verification: Verification) -> Result<(), Refusal> {
    let wrong =
        |expected: &str, found: String| Err(Refusal::of("sealed root").expected(expected.to_owned()).found(found));
    if mount.filesystem != "overlay" || mount.source != source {
        return wrong(&format!("overlay {source}"), format!("{} {}", mount.filesystem, mount.source));
    }
    let has = |token: &str| mount.options.iter().any(|option| option == token);
    let is_verified = has("verity=require") && !has("verity=on") && !has("verity=off");
    if verification == Verification::Required && !is_verified {
        return wrong("option verity=require and no other verity=", mount.options.join(","));
    }
    if has("userxattr") {
        return wrong("no option userxattr", mount.options.join(","));
    }
    if !mount.flags.iter().any(|flag| flag == "ro") || !has("ro") {
        return wrong("a read-only mount of a read-only filesystem", mount.flags.join(","));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlay(flags: &str, source: &str, options: &str) -> Mount {
        let tokens = |text: &str| text.split(',').map(Into::into).collect();
        Mount {
            id: Some(9),
            parent: 1,
            point: "/x".into(),
            flags: tokens(flags),
            filesystem: "overlay".into(),
            source: source.into(),
            options: tokens(options),
        }
    }

    #[test]
    fn the_promises_of_a_sealed_root() {
        let good = "ro,lowerdir+=/proc/self/fd/5,datadir+=/proc/self/fd/6,redirect_dir=on,verity=require,metacopy=on";
        use Verification::{AllowUnverified, Required};
        check_options(&overlay("ro,relatime", "composefs:aa", good), "composefs:aa", Required).unwrap();
        let unverified = overlay("ro", "composefs:aa", "ro,metacopy=on");
        check_options(&unverified, "composefs:aa", AllowUnverified).unwrap();
        assert!(check_options(&unverified, "composefs:aa", Required).is_err());
        for (flags, source, options) in [
            ("ro", "composefs:ab", good.to_owned()),
            ("rw", "composefs:aa", good.to_owned()),
            ("ro", "composefs:aa", good.replace("ro,", "rw,")),
            ("ro", "composefs:aa", good.replace("verity=require", "verity=on")),
            ("ro", "composefs:aa", good.replace(",verity=require", "")),
            ("ro", "composefs:aa", good.replace("verity=require", "xverity=require")),
            ("ro", "composefs:aa", format!("{good},verity=off")),
            ("ro", "composefs:aa", format!("{good},userxattr")),
        ] {
            let mount = overlay(flags, source, &options);
            let message = check_options(&mount, "composefs:aa", Required).unwrap_err().to_string();
            assert!(message.starts_with("sealed root: expected "), "{mount:?}: {message}");
        }
        let other = Mount { filesystem: "erofs".into(), ..overlay("ro", "composefs:aa", good) };
        assert!(check_options(&other, "composefs:aa", Required).is_err());
    }
}
