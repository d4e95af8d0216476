//! The sealed root: an inspected image mounted as EROFS, overlaid on its objects, and looked at once more in the
//! kernel's own words.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use thiserror::Error;

use super::erofs::{self, ErofsError};
use super::mountinfo::{self, Mount, MountinfoError};
use super::workbench::{Workbench, WorkbenchError};
use super::{FsError, INERT, KernelFeatures, MountIds, clone_tree, overlay};
use crate::cmdline::RequestedImage;
use crate::image::InspectedImage;
use crate::repository::{self, RepositoryError};

/// The physical root as it was found at /sysroot, and a private, read-only copy of that mount.
#[derive(Debug)]
pub struct PhysicalRoot<'a> {
    mounted: BorrowedFd<'a>,
    copy: OwnedFd,
}

/// The sealed root, part of no tree that anything else can see.
#[derive(Debug)]
pub struct DetachedRoot {
    mount: OwnedFd,
    requested: RequestedImage,
}

/// Why there is no sealed root.
#[derive(Debug, Error)]
pub enum RootError {
    /// The physical root could not be copied.
    #[error("physical root: private copy of the mount")]
    Physical(#[source] Errno),
    /// A place to work in.
    #[error(transparent)]
    Workbench(#[from] WorkbenchError),
    /// The directory of objects.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// A filesystem could not be mounted.
    #[error(transparent)]
    Filesystem(#[from] FsError),
    /// The image could not be mounted.
    #[error(transparent)]
    Erofs(#[from] ErofsError),
    /// The kernel could not be asked.
    #[error("sealed root")]
    Table(#[from] MountinfoError),
    /// The kernel could not be asked.
    #[error("sealed root: identifier of the mount")]
    Ids(#[source] Errno),
    /// The mount is not in the kernel's table.
    #[error("sealed root: expected mount {id} in /proc/thread-self/mountinfo, found none")]
    NotListed {
        /// Its identifier.
        id: u64,
    },
    /// What is mounted is not what was asked for.
    #[error("sealed root: expected {expected}, found {found}")]
    Options {
        /// What the mount must have, or must not have.
        expected: String,
        /// What it has.
        found: String,
    },
}

impl<'a> PhysicalRoot<'a> {
    /// Takes the mount that `mounted`, the directory /sysroot, lies on.
    pub fn new(mounted: BorrowedFd<'a>, workbench: &Workbench) -> Result<Self, RootError> {
        let read_only = INERT.union(MountAttrFlags::MOUNT_ATTR_RDONLY);
        let copy = clone_tree(mounted, read_only, MountAttrFlags::empty()).map_err(RootError::Physical)?;
        workbench.hold(&copy, "physical")?;
        Ok(Self { mounted, copy })
    }

    /// The directory as it was found; state is opened from here, and only looked up.
    pub fn mounted(&self) -> BorrowedFd<'_> {
        self.mounted
    }

    /// The private copy.
    pub fn copy(&self) -> BorrowedFd<'_> {
        self.copy.as_fd()
    }
}

impl DetachedRoot {
    /// The image that the root was made from.
    pub fn requested(&self) -> &RequestedImage {
        &self.requested
    }

    /// The mount alone.
    pub(crate) fn into_mount(self) -> OwnedFd {
        self.mount
    }
}

impl AsFd for DetachedRoot {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.mount.as_fd()
    }
}

/// Mounts an image and asks the kernel what is mounted.
pub fn mount(
    image: &InspectedImage,
    physical: &PhysicalRoot<'_>,
    workbench: &Workbench,
    features: &mut KernelFeatures,
) -> Result<DetachedRoot, RootError> {
    let requested = image.requested().clone();
    let metadata = erofs::mount(image.as_fd(), features)?;
    workbench.hold(&metadata, "image")?;
    let objects = repository::objects(physical.copy())?;
    let source = sealed_source(&requested);
    let mount = overlay::sealed(&source, &metadata, &objects, features.layers())?;
    workbench.hold(&mount, "sealed")?;
    ask_kernel(&mount, &source)?;
    Ok(DetachedRoot { mount, requested })
}

/// The source that names a sealed root: `composefs:<hex>`.
pub fn sealed_source(requested: &RequestedImage) -> String {
    format!("composefs:{}", requested.digest().to_hex())
}

fn ask_kernel(mount: impl AsFd, source: &str) -> Result<(), RootError> {
    let id = MountIds::of(mount).map_err(RootError::Ids)?.mountinfo;
    let table = mountinfo::read()?;
    let mount = table.iter().find(|mount| mount.id == id).ok_or(RootError::NotListed { id })?;
    check_options(mount, source)
}

/// The promises of the sealed root, token by token. `metacopy` and `redirect_dir` are shown by the kernel only where
/// they differ from the module's default, so their absence says nothing.
fn check_options(mount: &Mount, source: &str) -> Result<(), RootError> {
    let wrong = |expected: &str, found: String| Err(RootError::Options { expected: expected.into(), found });
    if mount.filesystem != "overlay" || mount.source != source {
        return wrong(&format!("overlay {source}"), format!("{} {}", mount.filesystem, mount.source));
    }
    let has = |token: &str| mount.options.iter().any(|option| option == token);
    if !has("verity=require") || has("verity=on") || has("verity=off") {
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
        let line = format!("9 1 0:4 / /x {flags} - overlay {source} {options}\n");
        mountinfo::parse(line.as_bytes()).unwrap().remove(0)
    }

    #[test]
    fn the_promises_of_a_sealed_root() {
        let good = "ro,lowerdir+=/proc/self/fd/5,datadir+=/proc/self/fd/6,redirect_dir=on,verity=require,metacopy=on";
        check_options(&overlay("ro,relatime", "composefs:aa", good), "composefs:aa").unwrap();
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
            assert!(matches!(check_options(&mount, "composefs:aa"), Err(RootError::Options { .. })), "{mount:?}");
        }
        let other = Mount { filesystem: "erofs".into(), ..overlay("ro", "composefs:aa", good) };
        assert!(check_options(&other, "composefs:aa").is_err());
    }
}
