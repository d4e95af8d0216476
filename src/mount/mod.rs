//! Mounting by the kernel's mount API, with what this kernel can do found out by trying.

pub(crate) mod context;
pub mod erofs;
pub mod mountinfo;
pub mod overlay;
pub mod root;
pub mod workbench;

use context::FsContext;
pub use context::FsError;

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use miniserde::Serialize;
use rustix::fs::{AtFlags, CWD, Statx, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};

use crate::lookup::{self, Links, LookupError};
use crate::names::names;
use crate::sys::mount_attr;

/// How the kernel mounts an EROFS image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErofsSource {
    /// From the image file itself (Linux 6.12).
    File,
    /// From a loop device over the image file.
    Loop,
}

names!(ErofsSource: File = "file", Loop = "loop");

/// How the kernel takes the layers of an overlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerForm {
    /// As file descriptors (Linux 6.13; of any kind, which ours are, 6.15).
    Fd,
    /// As paths through `/proc/self/fd`.
    Path,
}

names!(LayerForm: Fd = "fd", Path = "path");

/// What was found out about the running kernel.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct KernelFeatures {
    erofs: ErofsSource,
    layers: LayerForm,
}

impl Default for KernelFeatures {
    /// The newest form of everything, until a kernel is seen to refuse it.
    fn default() -> Self {
        Self { erofs: ErofsSource::File, layers: LayerForm::Fd }
    }
}

impl KernelFeatures {
    /// Has images mounted from loop devices from now on; `false` where that is so already.
    pub(crate) fn fall_back_to_loop(&mut self) -> bool {
        std::mem::replace(&mut self.erofs, ErofsSource::Loop) != ErofsSource::Loop
    }

    /// Where overlays learn and tell in which form this kernel takes layers.
    pub(crate) fn layers(&mut self) -> &mut LayerForm {
        &mut self.layers
    }
}

/// Flags of everything that only carries data: nothing on it runs, nothing on it is a device.
pub(crate) const INERT: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV).union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// More stacked mounts than this at one place are nobody's honest work.
const MAX_STACKED: usize = 256;

/// Detaches whatever is mounted at `path` until it is no mount point: under the topmost mount there can be another.
///
/// A path that does not exist is no mount point.
///
/// # Errors
/// The kernel's own; `ELOOP` when there is no end to it.
pub fn detach_all(path: &Path) -> Result<(), Errno> {
    for _ in 0..MAX_STACKED {
        if !is_mount_point(path)? {
            return Ok(());
        }
        rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
    }
    Err(Errno::LOOP)
}

/// Whether something is mounted at `path`.
pub fn is_mount_point(path: &Path) -> Result<bool, Errno> {
    match rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT, StatxFlags::empty()) {
        Ok(found) => Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The mount that a descriptor lies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MountIds {
    /// Never used again while the kernel runs (`STATX_MNT_ID_UNIQUE`).
    pub unique: u64,
    /// The identifier in mountinfo, which may be used again.
    pub mountinfo: u64,
}

impl MountIds {
    /// Asks the kernel.
    ///
    /// # Errors
    /// The kernel's own; `EOPNOTSUPP` from a kernel before Linux 6.8, which has no unique identifiers.
    pub fn of(mount: impl AsFd) -> Result<Self, Errno> {
        /// `STATX_MNT_ID_UNIQUE` of `linux/stat.h`
        const MNT_ID_UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);
        let ask = |mask| -> Result<Statx, Errno> {
            rustix::fs::statx(&mount, "", AtFlags::EMPTY_PATH | AtFlags::NO_AUTOMOUNT, mask)
        };
        let unique = ask(MNT_ID_UNIQUE)?;
        if unique.stx_mask & MNT_ID_UNIQUE.bits() == 0 {
            return Err(Errno::OPNOTSUPP);
        }
        Ok(Self { unique: unique.stx_mnt_id, mountinfo: ask(StatxFlags::MNT_ID)?.stx_mnt_id })
    }
}

/// A private copy of the mount that `directory` lies on, rooted there, without what is mounted below.
pub(crate) fn clone_tree(directory: impl AsFd, set: MountAttrFlags, clear: MountAttrFlags) -> Result<OwnedFd, Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let clone = rustix::mount::open_tree(directory, "", flags)?;
    mount_attr::make_private(&clone, set, clear)?;
    Ok(clone)
}

/// Attaches a mount to the directory `name` of the root of another.
pub(crate) fn attach(mount: impl AsFd, root: impl AsFd, name: &str) -> Result<(), LookupError> {
    let target = lookup::directory(root, name, Links::Refused)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount, "", target, "", flags)?;
    Ok(())
}

/// A new tmpfs, attached nowhere.
pub(crate) fn tmpfs(mode: &str, attributes: MountAttrFlags) -> Result<OwnedFd, FsError> {
    let context = FsContext::open("tmpfs")?;
    context.set_string("source", "sealroot")?;
    context.set_string("mode", mode)?;
    context.mount(attributes)
}

/// The firmware's variables, attached nowhere.
pub(crate) fn efivarfs(attributes: MountAttrFlags) -> Result<OwnedFd, FsError> {
    FsContext::open("efivarfs")?.mount(attributes)
}
