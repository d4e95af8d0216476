//! The physical root: as it was found at /sysroot, a private copy of its mount, and having it written to.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use crate::kernel::context::FsContext;
use crate::kernel::{self, INERT, Kernel, clone_tree, mounts};
use crate::refusal::Refusal;

/// The one filesystem with fs-verity that a reconfiguration takes its options from (as of Linux 7.2); ext4 and btrfs
/// keep those that they have.
const FORGETS_OPTIONS: &str = "f2fs";

/// The physical root as it was found at /sysroot, and a private, read-only copy of that mount.
#[derive(Debug)]
pub struct PhysicalRoot<'a> {
    mounted: BorrowedFd<'a>,
    copy: OwnedFd,
}

/// Opens the physical root, which must be a mount.
pub fn open(path: &Path) -> Result<OwnedFd, Refusal> {
    let about = || Refusal::of(format!("'{}'", path.display()));
    let failed = |reason: Errno| about().because(reason);
    if !kernel::is_mount_point(path).map_err(failed)? {
        return Err(about().expected("the physical root to be mounted").found("no mount"));
    }
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(failed)
}

/// The physical root could not be copied.
fn not_copied(reason: Errno) -> Refusal {
    Refusal::of("physical root: private copy of the mount").because(reason)
}

impl<'a> PhysicalRoot<'a> {
    /// Takes the mount that `mounted`, the directory /sysroot, lies on.
    pub fn new(mounted: BorrowedFd<'a>) -> Result<Self, Refusal> {
        let read_only = INERT.union(MountAttrFlags::MOUNT_ATTR_RDONLY);
        let copy = clone_tree(mounted, read_only, MountAttrFlags::empty()).map_err(not_copied)?;
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

/// A private copy of the mount that `mounted`, the directory /sysroot, lies on, for writing. The filesystem is made
/// writable where it was mounted read-only; each mount of it decides for itself.
pub fn writable_copy(mounted: BorrowedFd<'_>, kernel: &Kernel) -> Result<OwnedFd, Refusal> {
    make_writable(mounted, kernel)?;
    clone_tree(mounted, INERT, MountAttrFlags::MOUNT_ATTR_RDONLY).map_err(not_copied)
}

/// Clears read-only from the filesystem of the physical root where it was mounted so.
pub fn make_writable(mounted: BorrowedFd<'_>, kernel: &Kernel) -> Result<(), Refusal> {
    let found =
        rustix::fs::fstatvfs(mounted).map_err(|reason| Refusal::of("physical root: statvfs").because(reason))?;
    if !found.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Ok(());
    }
    let mount = mounts::mount_of(mounted, kernel)?;
    let context = FsContext::pick("physical root", mounted)?;
    // Whatever is not set again goes back to its default. The first option says whether it is read-only.
    if mount.filesystem == FORGETS_OPTIONS {
        mount.options.iter().skip(1).try_for_each(|option| context.set_option(option))?;
    }
    context.set_flag("rw")?;
    Ok(context.reconfigure()?)
}
