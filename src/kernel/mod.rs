//! Mounting by the kernel's mount API, with what this kernel can do found out by trying.

pub(crate) mod context;
pub mod erofs;
pub mod forms;
pub mod kmsg;
pub mod lookup;
pub mod mount;
pub mod mountinfo;
pub mod mounts;
pub mod overlay;
pub mod privileges;
pub mod workbench;

use context::FsContext;
pub use context::FsError;
pub use forms::Kernel;

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};

use crate::sys::mount_attr;
use lookup::{Links, LookupError};

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

/// A private copy of the mount that `directory` lies on, rooted there, without what is mounted below.
pub(crate) fn clone_tree(directory: impl AsFd, set: MountAttrFlags, clear: MountAttrFlags) -> Result<OwnedFd, Errno> {
    let clone = copy_mount(directory)?;
    mount_attr::make_private(&clone, set, clear)?;
    Ok(clone)
}

fn copy_mount(directory: impl AsFd) -> Result<OwnedFd, Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    rustix::mount::open_tree(directory, "", flags)
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
