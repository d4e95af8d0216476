//! `mount_setattr(2)`.

use std::ffi::c_long;
use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

/// `struct mount_attr` of `linux/mount.h`, in its first version (Linux 5.12).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// `MOUNT_ATTR_SIZE_VER0`
const _: () = assert!(size_of::<MountAttr>() == 32);

/// Makes a mount and everything mounted below it private, and sets and clears flags on all of them.
///
/// `mount` is a descriptor of a mount's root.
///
/// # Errors
/// The kernel's own.
pub fn make_private(mount: impl AsFd, set: MountAttrFlags, clear: MountAttrFlags) -> Result<(), Errno> {
    let attr = MountAttr {
        attr_set: u64::from(set.bits()),
        attr_clr: u64::from(clear.bits()),
        propagation: libc::MS_PRIVATE,
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    // SAFETY: the path is a terminated string, `attr` has the layout and the size that are passed, and the kernel only
    // reads both during the call.
    let result: c_long = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(super::last_errno()) }
}
