//! The new root takes the place of the physical one at /sysroot.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, major, makedev, minor};
use rustix::io::Errno;
use rustix::mount::MoveMountFlags;
use thiserror::Error;

use crate::mount::table::{self, TableError};
use crate::mount::workbench::{Workbench, WorkbenchError};
use crate::mount::{self, Kernel};
use crate::prove::ProvenRoot;

/// Where systemd looks for the block device below a root that is none (systemd-gpt-auto-generator(8)).
const VOLATILE_ROOT: &str = "/run/systemd/volatile-root";

/// Why the new root could not take its place.
#[derive(Debug, Error)]
pub enum PlaceError {
    /// The physical root cannot be opened.
    #[error("'{}'", path.display())]
    Sysroot {
        /// Its path.
        path: PathBuf,
        /// The kernel's reason.
        #[source]
        reason: Errno,
    },
    /// Nothing is mounted there.
    #[error("'{}': expected the physical root to be mounted, found no mount", path.display())]
    NotMounted {
        /// Its path.
        path: PathBuf,
    },
    /// A system call on the way.
    #[error("'{}': {step}", path.display())]
    Kernel {
        /// Where.
        path: PathBuf,
        /// What was tried.
        step: &'static str,
        /// The kernel's reason.
        #[source]
        reason: Errno,
    },
    /// The place to work in is still there.
    #[error(transparent)]
    Workbench(#[from] WorkbenchError),
}

/// Opens the physical root, which must be a mount.
pub fn open_physical_root(path: &Path) -> Result<OwnedFd, PlaceError> {
    let failed = |reason| PlaceError::Sysroot { path: path.into(), reason };
    if !mount::is_mount_point(path).map_err(failed)? {
        return Err(PlaceError::NotMounted { path: path.into() });
    }
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(failed)
}

/// Detaches what is mounted at `path`, puts the new root there and clears the workbench away.
pub fn place(root: &ProvenRoot, path: &Path, workbench: Workbench) -> Result<(), PlaceError> {
    let failed = |step| move |reason| PlaceError::Kernel { path: path.into(), step, reason };
    mount::detach_all(path).map_err(failed("detach"))?;
    rustix::mount::move_mount(root.root(), "", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(failed("move the new root here"))?;
    Ok(workbench.close()?)
}

/// Why systemd will not find the physical root's block device. It can boot without.
#[derive(Debug, Error)]
pub enum VolatileRootError {
    /// The mount could not be looked up.
    #[error("'{VOLATILE_ROOT}'")]
    Table(#[from] TableError),
    /// The mount has no block device.
    #[error("'{VOLATILE_ROOT}': expected the physical root on a block device, found '{found}'")]
    NoDevice {
        /// The mount's source.
        found: String,
    },
    /// The link could not be made.
    #[error("'{VOLATILE_ROOT}'")]
    Link(#[source] io::Error),
}

/// Leaves the link by which systemd finds the block device of the physical root once / is an overlay. A link that is
/// there already stays.
pub fn link_volatile_root(physical_root: BorrowedFd<'_>, kernel: &Kernel) -> Result<(), VolatileRootError> {
    let found = rustix::fs::fstat(physical_root).map_err(|reason| VolatileRootError::Link(reason.into()))?;
    let device = match major(found.st_dev) {
        // Filesystems that span devices, like btrfs, have a number of their own.
        0 => source_device(physical_root, kernel)?,
        _ => found.st_dev,
    };
    let target = format!("/dev/block/{}:{}", major(device), minor(device));
    let link = || std::os::unix::fs::symlink(&target, VOLATILE_ROOT);
    let made = link().or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => std::fs::create_dir_all("/run/systemd").and_then(|()| link()),
        _ => Err(error),
    });
    match made {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result.map_err(VolatileRootError::Link),
    }
}

fn source_device(physical_root: BorrowedFd<'_>, kernel: &Kernel) -> Result<u64, VolatileRootError> {
    let source = table::mount_of(physical_root, kernel)?.source;
    match std::fs::metadata(&source) {
        Ok(found) if source.starts_with("/dev/") && found.rdev() != makedev(0, 0) => Ok(found.rdev()),
        _ => Err(VolatileRootError::NoDevice { found: source }),
    }
}
