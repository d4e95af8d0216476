//! An image mounted as EROFS: from the file itself, or from a read-only loop device over it.
//!
//! Either way the kernel reads the image through its file, and checks it by fs-verity as it does.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use thiserror::Error;

use super::kernel::ErofsSource;
use super::{FsContext, FsError, INERT, Kernel};
use crate::lookup;
use crate::sys::loop_device;

const LOOP_CONTROL: &str = "/dev/loop-control";
/// How often a loop device that somebody else took first is replaced by another.
const ATTEMPTS: usize = 64;
/// How often, and after which pause, the nodes of new loop devices are looked for: two seconds.
const NODE_ATTEMPTS: usize = 200;
const NODE_PAUSE: Duration = Duration::from_millis(10);

/// Why an image could not be mounted.
#[derive(Debug, Error)]
pub enum ErofsError {
    /// The kernel's own mount.
    #[error(transparent)]
    Filesystem(#[from] FsError),
    /// No loop devices.
    #[error(
        "erofs: '{LOOP_CONTROL}': expected the module 'loop' in the initramfs (the dracut module 'sealroot' puts it \
         there) or CONFIG_BLK_DEV_LOOP=y, found neither (needed where EROFS cannot be mounted from a file, as before \
         Linux 6.12)"
    )]
    NoLoopDevices(#[source] Errno),
    /// The loop device that a kernel without EROFS from files needs.
    #[error("erofs: loop device '{name}': {step}")]
    Loop {
        /// The device.
        name: String,
        /// What was tried.
        step: &'static str,
        /// The kernel's reason.
        #[source]
        reason: Errno,
    },
}

/// Mounts an image, attached nowhere.
pub(super) fn mount(image: BorrowedFd<'_>, kernel: &Kernel) -> Result<OwnedFd, ErofsError> {
    if kernel.forms().erofs == ErofsSource::File {
        match mount_source(image) {
            // Before Linux 6.12, and where CONFIG_EROFS_FS_BACKED_BY_FILE is off.
            Err(error) if error.reason() == Errno::NOTBLK => kernel.learn(|forms| forms.erofs = ErofsSource::Loop),
            result => return Ok(result?),
        }
    }
    let control = match open(LOOP_CONTROL, OFlags::RDWR) {
        Ok(control) => control,
        Err(reason @ (Errno::NOENT | Errno::NXIO | Errno::NODEV)) => return Err(ErofsError::NoLoopDevices(reason)),
        Err(reason) => return Err(ErofsError::Loop { name: LOOP_CONTROL.into(), step: "open", reason }),
    };
    // The device clears itself when it is closed here, unless it is mounted by then.
    let device = attach_loop_device(control.as_fd(), image)?;
    Ok(mount_source(device.as_fd())?)
}

fn mount_source(source: BorrowedFd<'_>) -> Result<OwnedFd, FsError> {
    let context = FsContext::open("erofs")?;
    context.set_string("source", &lookup::proc_path(source))?;
    context.set_flag("ro")?;
    context.mount(INERT.union(MountAttrFlags::MOUNT_ATTR_RDONLY))
}

fn attach_loop_device(control: BorrowedFd<'_>, image: BorrowedFd<'_>) -> Result<OwnedFd, ErofsError> {
    let mut attempts = ATTEMPTS;
    let mut node_attempts = NODE_ATTEMPTS;
    loop {
        let number = loop_device::free_number(control).map_err(|reason| ErofsError::Loop {
            name: LOOP_CONTROL.into(),
            step: "find a free device",
            reason,
        })?;
        let name = format!("/dev/loop{number}");
        let failed = |step| {
            let name = name.clone();
            move |reason| ErofsError::Loop { name, step, reason }
        };
        let device = open_node(&name, &mut node_attempts).map_err(failed("open"))?;
        match loop_device::configure(&device, image) {
            Ok(()) => return Ok(device),
            Err(Errno::BUSY) if attempts > 0 => attempts -= 1,
            Err(reason) => return Err(failed("configure")(reason)),
        }
    }
}

/// Opens the node of a device that may be new: where /dev is no devtmpfs, it is there only when udev has made it.
fn open_node(name: &str, attempts: &mut usize) -> Result<OwnedFd, Errno> {
    loop {
        match open(name, OFlags::RDONLY) {
            Err(Errno::NOENT) if *attempts > 0 => {
                *attempts -= 1;
                thread::sleep(NODE_PAUSE);
            }
            result => return result,
        }
    }
}

fn open(name: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::open(name, flags | OFlags::CLOEXEC, Mode::empty())
}
