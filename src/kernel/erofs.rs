//! An image mounted as EROFS: from the file itself, or from a read-only loop device over it.
//!
//! Either way the kernel reads the image through its file, and checks it by fs-verity as it does.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::forms::ErofsSource;
use super::{FsContext, FsError, INERT, Kernel};
use crate::kernel::lookup;
use crate::refusal::Refusal;
use crate::sys::loop_device;

const LOOP_CONTROL: &str = "/dev/loop-control";
/// How often a loop device that somebody else took first is replaced by another.
const ATTEMPTS: usize = 64;
/// How often, and after which pause, the nodes of new loop devices are looked for: two seconds.
const NODE_ATTEMPTS: usize = 200;
const NODE_PAUSE: Duration = Duration::from_millis(10);

/// A step with a loop device, or with what gives one.
fn failed(name: &str, step: &'static str) -> impl Fn(Errno) -> Refusal {
    move |reason| Refusal::of(format!("erofs: loop device '{name}': {step}")).because(reason)
}

/// A kernel without loop devices.
fn no_loop_devices(reason: Errno) -> Refusal {
    Refusal::of(format!("erofs: '{LOOP_CONTROL}'"))
        .expected(
            "the module 'loop' in the initramfs (the dracut module 'sealroot' puts it there) or CONFIG_BLK_DEV_LOOP=y",
        )
        .found("neither (needed where EROFS cannot be mounted from a file, as before Linux 6.12)")
        .because(reason)
}

/// Mounts an image, attached nowhere.
pub(crate) fn mount(image: BorrowedFd<'_>, kernel: &Kernel) -> Result<OwnedFd, Refusal> {
    if kernel.forms().erofs == ErofsSource::File {
        match mount_source(image) {
            // Before Linux 6.12, and where CONFIG_EROFS_FS_BACKED_BY_FILE is off.
            Err(error) if error.reason() == Errno::NOTBLK => kernel.learn(|forms| forms.erofs = ErofsSource::Loop),
            result => return Ok(result?),
        }
    }
    let control = match open(LOOP_CONTROL, OFlags::RDWR) {
        Ok(control) => control,
        Err(reason @ (Errno::NOENT | Errno::NXIO | Errno::NODEV)) => return Err(no_loop_devices(reason)),
        Err(reason) => return Err(failed(LOOP_CONTROL, "open")(reason)),
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

fn attach_loop_device(control: BorrowedFd<'_>, image: BorrowedFd<'_>) -> Result<OwnedFd, Refusal> {
    let mut attempts = ATTEMPTS;
    let mut node_attempts = NODE_ATTEMPTS;
    loop {
        let number = loop_device::free_number(control).map_err(failed(LOOP_CONTROL, "find a free device"))?;
        let name = format!("/dev/loop{number}");
        let device = open_node(&name, &mut node_attempts).map_err(failed(&name, "open"))?;
        match loop_device::configure(&device, image) {
            Ok(()) => return Ok(device),
            Err(Errno::BUSY) if attempts > 0 => attempts -= 1,
            Err(reason) => return Err(failed(&name, "configure")(reason)),
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
