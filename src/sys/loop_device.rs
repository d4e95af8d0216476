//! `LOOP_CTL_GET_FREE` and `LOOP_CONFIGURE` of `linux/loop.h`.

use std::ffi::c_void;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;

use rustix::io::Errno;
use rustix::ioctl::{self, Ioctl, IoctlOutput, Opcode, Setter};

const LOOP_CTL_GET_FREE: Opcode = 0x4c82;
const LOOP_CONFIGURE: Opcode = 0x4c0a;
/// `LO_FLAGS_READ_ONLY`
const READ_ONLY: u32 = 1;
/// `LO_FLAGS_AUTOCLEAR`
const AUTOCLEAR: u32 = 4;

/// `struct loop_config` with its `struct loop_info64`, of which only the flags are used.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    /// `lo_device` to `lo_sizelimit`
    numbers: [u64; 5],
    /// `lo_number` to `lo_encrypt_key_size`
    more_numbers: [u32; 3],
    lo_flags: u32,
    /// `lo_file_name` to `lo_encrypt_key`
    names: [u8; 160],
    lo_init: [u64; 2],
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<LoopConfig>() == 304);

struct GetFree;

// SAFETY: the ioctl takes no argument and answers with its result.
unsafe impl Ioctl for GetFree {
    type Output = u32;

    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        LOOP_CTL_GET_FREE
    }

    fn as_ptr(&mut self) -> *mut c_void {
        ptr::null_mut()
    }

    unsafe fn output_from_ptr(output: IoctlOutput, _: *mut c_void) -> Result<u32, Errno> {
        u32::try_from(output).map_err(|_| Errno::RANGE)
    }
}

/// The number of a loop device that was free when the kernel answered. `control` is `/dev/loop-control`.
///
/// # Errors
/// The kernel's own.
pub fn free_number(control: impl AsFd) -> Result<u32, Errno> {
    // SAFETY: see `GetFree`.
    unsafe { ioctl::ioctl(control, GetFree) }
}

/// Makes a free loop device a read-only view of a file, until nothing has it open or mounted any more.
///
/// Buffered: `LO_FLAGS_DIRECT_IO` would change nothing. A file with fs-verity is checked in the page cache, and so every
/// filesystem that has fs-verity turns a direct read of such a file into a buffered one ("Accessing verity files" in
/// the kernel's `Documentation/filesystems/fsverity.rst`).
///
/// # Errors
/// The kernel's own; `EBUSY` where somebody else was quicker.
pub fn configure(device: impl AsFd, file: impl AsFd) -> Result<(), Errno> {
    let config = LoopConfig {
        fd: u32::try_from(file.as_fd().as_raw_fd()).map_err(|_| Errno::BADF)?,
        block_size: 0,
        numbers: [0; 5],
        more_numbers: [0; 3],
        lo_flags: READ_ONLY | AUTOCLEAR,
        names: [0; 160],
        lo_init: [0; 2],
        reserved: [0; 8],
    };
    // SAFETY: the opcode belongs to `struct loop_config`, whose layout `LoopConfig` has; the kernel only reads it.
    let setter = unsafe { Setter::<LOOP_CONFIGURE, LoopConfig>::new(config) };
    // SAFETY: as above; the structure lives as long as the call.
    unsafe { ioctl::ioctl(device, setter) }
}
