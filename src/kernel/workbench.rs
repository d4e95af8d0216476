//! A private place where mounts can be attached while the new root is built.
//!
//! Before Linux 6.15 a mount that is attached nowhere can neither be a layer nor carry other mounts. systemd makes `/`
//! shared, and a mount below a shared parent can neither be moved nor stay single, so the place is a tmpfs that is made
//! private. It is gone when the new root is in place. Newer kernels need no such place.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MoveMountFlags};

use super::Kernel;
use super::forms::BuildPlace;
use crate::kernel::lookup::LookupError;
use crate::refusal::Refusal;
use crate::sys::mount_attr;

/// Where it is, for as long as it is there.
const WORK: &str = "/run/sealroot/work";

/// Whether a root needs the private place even where the kernel does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// It does not: all of it ends up in the tree at /sysroot.
    IfKernelIsOlder,
    /// It does: a part will be attached nowhere in the end, and the kernel tells about attached mounts only.
    Always,
}

/// The private place, or the knowledge that none is needed.
#[derive(Debug)]
pub struct Workbench(Option<Place>);

#[derive(Debug)]
struct Place {
    tmpfs: OwnedFd,
    gone: bool,
}

/// A step with the place.
fn failed(step: &'static str) -> impl Fn(Errno) -> Refusal {
    move |reason| Refusal::of(format!("work directory '{WORK}': {step}")).because(reason)
}

impl Workbench {
    /// Sets the place up where `need` or this kernel asks for it, which is tried with `detached`, any detached mount.
    pub fn new(need: Need, detached: BorrowedFd<'_>, kernel: &Kernel) -> Result<Self, Refusal> {
        if kernel.forms().mounts == BuildPlace::Detached
            && (need == Need::Always
                || !can_build_on(detached).map_err(|reason| Refusal::of("copy of a detached mount").because(reason))?)
        {
            kernel.learn(|forms| forms.mounts = BuildPlace::Attached);
        }
        match kernel.forms().mounts {
            BuildPlace::Detached => Ok(Self(None)),
            BuildPlace::Attached => Place::new().map(|place| Self(Some(place))),
        }
    }

    /// Attaches a mount here, so that it can be a layer or carry others.
    pub fn hold(&self, mount: impl AsFd, name: &'static str) -> Result<(), Refusal> {
        let Self(Some(place)) = self else { return Ok(()) };
        rustix::fs::mkdirat(&place.tmpfs, name, Mode::RWXU)
            .map_err(LookupError::from)
            .and_then(|()| super::attach(mount, &place.tmpfs, name))
            .map_err(|reason| Refusal::of(format!("work directory '{WORK}/{name}'")).because(reason))
    }

    /// Whether what is held is attached, so that the kernel can be asked about it.
    pub fn is_attached(&self) -> bool {
        self.0.is_some()
    }

    /// Clears the place away, with all that is still attached to it.
    pub fn close(self) -> Result<(), Refusal> {
        let Self(Some(mut place)) = self else { return Ok(()) };
        place.gone = true;
        clear().map_err(failed("remove"))
    }
}

/// Whether a detached mount is as good as an attached one: since Linux 6.15, which in one go lets it be copied, be a
/// layer and carry others. The first of these has no other effect.
fn can_build_on(detached: BorrowedFd<'_>) -> Result<bool, Errno> {
    match super::copy_mount(detached) {
        Ok(_) => Ok(true),
        Err(Errno::INVAL) => Ok(false),
        Err(reason) => Err(reason),
    }
}

impl Place {
    /// What a run that was killed left here is cleared away.
    fn new() -> Result<Self, Refusal> {
        let path = Path::new(WORK);
        let tmpfs = super::tmpfs("0700", super::INERT)
            .map_err(|reason| Refusal::of(format!("work directory '{WORK}'")).because(reason))?;
        super::detach_all(path).map_err(failed("detach"))?;
        match rustix::fs::mkdir(path, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(reason) => return Err(failed("create")(reason)),
        }
        // From here on it is cleared away whatever happens.
        let place = Self { tmpfs, gone: false };
        let empty = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        rustix::mount::move_mount(&place.tmpfs, "", CWD, path, empty).map_err(failed("mount"))?;
        let none = MountAttrFlags::empty();
        mount_attr::make_private(&place.tmpfs, none, none).map_err(failed("make private"))?;
        Ok(place)
    }
}

fn clear() -> Result<(), Errno> {
    super::detach_all(Path::new(WORK))?;
    rustix::fs::rmdir(WORK)
}

impl Drop for Place {
    /// On the way to a refusal, whose own reason is the one to report.
    fn drop(&mut self) {
        if !self.gone {
            let _ = clear();
        }
    }
}
