//! A private place where mounts can be attached while the new root is built.
//!
//! Before Linux 6.15 a mount that is attached nowhere can neither be a layer nor carry other mounts. systemd makes `/`
//! shared, and a mount below a shared parent can neither be moved nor stay single, so the place is a tmpfs that is made
//! private. It is gone when the new root is in place.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MoveMountFlags};
use thiserror::Error;

use super::FsError;
use crate::lookup::LookupError;
use crate::sys::mount_attr;

/// Where it is, for as long as it is there.
const WORK: &str = "/run/sealroot/work";

/// The private place.
#[derive(Debug)]
pub struct Workbench {
    tmpfs: OwnedFd,
    gone: bool,
}

/// Why there is no place to work in.
#[derive(Debug, Error)]
pub enum WorkbenchError {
    /// Its filesystem.
    #[error("work directory '{WORK}'")]
    Filesystem(#[from] FsError),
    /// Its directory or its mount.
    #[error("work directory '{WORK}': {step}")]
    Kernel {
        /// What was tried.
        step: &'static str,
        /// The kernel's reason.
        #[source]
        reason: Errno,
    },
    /// A mount could not be attached to it.
    #[error("work directory '{WORK}/{name}'")]
    Hold {
        /// The mount's name.
        name: &'static str,
        /// Why.
        #[source]
        reason: LookupError,
    },
}

impl Workbench {
    /// Sets the place up. What a run that was killed left there is cleared away.
    pub fn new() -> Result<Self, WorkbenchError> {
        let failed = |step| move |reason| WorkbenchError::Kernel { step, reason };
        let path = Path::new(WORK);
        let tmpfs = super::tmpfs("0700", super::INERT)?;
        super::detach_all(path).map_err(failed("detach"))?;
        match rustix::fs::mkdir(path, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(reason) => return Err(failed("create")(reason)),
        }
        // From here on it is cleared away whatever happens.
        let workbench = Self { tmpfs, gone: false };
        let empty = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        rustix::mount::move_mount(&workbench.tmpfs, "", CWD, path, empty).map_err(failed("mount"))?;
        let none = MountAttrFlags::empty();
        mount_attr::make_private(&workbench.tmpfs, none, none).map_err(failed("make private"))?;
        Ok(workbench)
    }

    /// Attaches a mount here, so that it can be a layer or carry others.
    pub fn hold(&self, mount: impl AsFd, name: &'static str) -> Result<(), WorkbenchError> {
        rustix::fs::mkdirat(&self.tmpfs, name, Mode::RWXU)
            .map_err(LookupError::from)
            .and_then(|()| super::attach(mount, &self.tmpfs, name))
            .map_err(|reason| WorkbenchError::Hold { name, reason })
    }

    /// Clears the place away, with all that is still attached to it.
    pub fn close(mut self) -> Result<(), WorkbenchError> {
        self.gone = true;
        clear().map_err(|reason| WorkbenchError::Kernel { step: "remove", reason })
    }
}

fn clear() -> Result<(), Errno> {
    super::detach_all(Path::new(WORK))?;
    rustix::fs::rmdir(WORK)
}

impl Drop for Workbench {
    /// On the way to a refusal, whose own reason is the one to report.
    fn drop(&mut self) {
        if !self.gone {
            let _ = clear();
        }
    }
}
