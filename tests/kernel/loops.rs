//! Loop devices, by their ioctls: nothing is started for them.
#![allow(unsafe_code, reason = "ioctls of loop devices, with a structure of their size")]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::io::Errno;
use rustix::ioctl::{self, NoArg, Opcode, Setter};

/// `LOOP_*` of `linux/loop.h`
const CONFIGURE: Opcode = 0x4c0a;
const CLEAR: Opcode = 0x4c01;
const GET_FREE: Opcode = 0x4c82;
/// `LO_FLAGS_READ_ONLY` and `LO_FLAGS_AUTOCLEAR`
const READ_ONLY: u32 = 1;
const AUTOCLEAR: u32 = 4;

/// `struct loop_config` with its `struct loop_info64`, of which only the flags are used.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    numbers: [u64; 5],
    more_numbers: [u32; 3],
    lo_flags: u32,
    names: [u8; 160],
    lo_init: [u64; 2],
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<LoopConfig>() == 304);

/// What may be done with the file through the device.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Access {
    ReadOnly,
    Writable,
}

/// A loop device. It goes with the value.
pub struct LoopDevice(PathBuf);

impl LoopDevice {
    pub fn new(file: &str, access: Access) -> Self {
        Self(attach(file, access, 0, 0).0)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        // SAFETY: the ioctl takes no argument.
        let clear = unsafe { NoArg::<CLEAR>::new() };
        let device = File::open(&self.0).unwrap();
        // SAFETY: as above.
        let result = unsafe { ioctl::ioctl(device, clear) };
        assert!(thread::panicking() || result.is_ok(), "{}: {result:?}", self.0.display());
    }
}

/// A loop device that goes when nothing has it mounted or open any more; the descriptor keeps it until then.
pub fn until_unused(file: &str, access: Access) -> (PathBuf, File) {
    attach(file, access, AUTOCLEAR, 0)
}

/// The same with sectors of this size, in bytes.
pub fn with_sectors(file: &str, size: u32) -> (PathBuf, File) {
    attach(file, Access::Writable, AUTOCLEAR, size)
}

/// The descriptor is read-only: while a device is open for writing, not every kernel mounts it.
fn attach(file: &str, access: Access, flags: u32, block_size: u32) -> (PathBuf, File) {
    let is_writable = access == Access::Writable;
    let flags = flags | if is_writable { 0 } else { READ_ONLY };
    let backing = File::options().read(true).write(is_writable).open(file).unwrap();
    let control = File::open("/dev/loop-control").expect("loop devices");
    loop {
        // SAFETY: the ioctl takes no argument.
        let number = unsafe { libc::ioctl(control.as_raw_fd(), GET_FREE as _) };
        assert!(number >= 0, "a free loop device: {}", std::io::Error::last_os_error());
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let device = File::options().read(true).write(is_writable).open(&path).unwrap();
        match configure(&device, &backing, flags, block_size) {
            Ok(()) => return (path.clone(), File::open(&path).unwrap()),
            // Somebody else was quicker.
            Err(Errno::BUSY) => {}
            Err(error) => panic!("{}: {error}", path.display()),
        }
    }
}

fn configure(device: &File, backing: &File, lo_flags: u32, block_size: u32) -> Result<(), Errno> {
    let config = LoopConfig {
        fd: backing.as_raw_fd().try_into().unwrap(),
        block_size,
        numbers: [0; 5],
        more_numbers: [0; 3],
        lo_flags,
        names: [0; 160],
        lo_init: [0; 2],
        reserved: [0; 8],
    };
    // SAFETY: the opcode belongs to `struct loop_config`, whose layout `LoopConfig` has; the kernel only reads it.
    let setter = unsafe { Setter::<CONFIGURE, LoopConfig>::new(config) };
    // SAFETY: as above; the structure lives as long as the call.
    unsafe { ioctl::ioctl(device, setter) }
}
