//! Devices of the device mapper, by its ioctls: no busybox has `dmsetup`.
#![allow(unsafe_code, reason = "ioctls of the device mapper's control node, with structures of their size")]

use std::fs::File;
use std::path::PathBuf;
use std::thread;

use rustix::io::Errno;
use rustix::ioctl::{self, Opcode, Updater, opcode};

/// `struct dm_ioctl` of `linux/dm-ioctl.h`
#[repr(C)]
struct DmIoctl {
    version: [u32; 3],
    data_size: u32,
    data_start: u32,
    target_count: u32,
    open_count: i32,
    flags: u32,
    event_nr: u32,
    padding: u32,
    dev: u64,
    name: [u8; 128],
    uuid: [u8; 129],
    data: [u8; 7],
}

const _: () = assert!(size_of::<DmIoctl>() == 312);

/// `struct dm_target_spec`, and the room for its parameters.
#[repr(C)]
struct Target {
    sector_start: u64,
    length: u64,
    status: i32,
    next: u32,
    target_type: [u8; 16],
    parameters: [u8; 256],
}

#[repr(C)]
struct Request {
    header: DmIoctl,
    target: Target,
}

const CREATE: Opcode = opcode::read_write::<DmIoctl>(0xfd, 3);
const REMOVE: Opcode = opcode::read_write::<DmIoctl>(0xfd, 4);
const SUSPEND: Opcode = opcode::read_write::<DmIoctl>(0xfd, 6);
const LOAD: Opcode = opcode::read_write::<DmIoctl>(0xfd, 9);
/// `DM_SUSPEND_FLAG`, `DM_SKIP_LOCKFS_FLAG` and `DM_NOFLUSH_FLAG`
const SUSPENDED: u32 = 1 << 1;
const SKIP_LOCKFS: u32 = 1 << 10;
const NO_FLUSH: u32 = 1 << 11;

/// A device with one target over all of it. It goes with the value.
pub struct Mapped {
    name: &'static str,
    pub path: PathBuf,
}

impl Mapped {
    /// Makes a device of so many sectors of 512 bytes.
    pub fn new(name: &'static str, sectors: u64, kind: &str, parameters: &str) -> Self {
        let number = control::<CREATE>(name, Target::none()).dev;
        let mapped = Self { name, path: format!("/dev/dm-{}", rustix::fs::minor(number)).into() };
        control::<LOAD>(name, Target::new(sectors, kind, parameters));
        // Without the flag to suspend, the call resumes: what was loaded becomes the device.
        control::<SUSPEND>(name, Target::none());
        mapped
    }
}

impl Mapped {
    /// From now on the device answers nothing. What is mounted on it is not told.
    pub fn suspend(&self) {
        call_with::<SUSPEND>(self.name, Target::none(), SUSPENDED | SKIP_LOCKFS | NO_FLUSH).expect("suspend");
    }

    /// It answers again, and what waits gets its answer.
    pub fn resume(&self) {
        control::<SUSPEND>(self.name, Target::none());
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        let result = call::<REMOVE>(self.name, Target::none());
        assert!(thread::panicking() || result.is_ok(), "device mapper: {}: {:?}", self.name, result.err());
    }
}

impl Target {
    fn none() -> Self {
        Self { sector_start: 0, length: 0, status: 0, next: 0, target_type: [0; 16], parameters: [0; 256] }
    }

    fn new(sectors: u64, kind: &str, parameters: &str) -> Self {
        Self { length: sectors, target_type: text(kind), parameters: text(parameters), ..Self::none() }
    }
}

/// Text and zeros, of which there is one at least.
fn text<const SIZE: usize>(text: &str) -> [u8; SIZE] {
    let mut bytes = [0; SIZE];
    bytes[..SIZE - 1][..text.len()].copy_from_slice(text.as_bytes());
    bytes
}

fn control<const CALL: Opcode>(name: &str, target: Target) -> DmIoctl {
    call::<CALL>(name, target).unwrap_or_else(|error| panic!("device mapper: {name}: {CALL:#x}: {error}"))
}

fn call<const CALL: Opcode>(name: &str, target: Target) -> Result<DmIoctl, Errno> {
    call_with::<CALL>(name, target, 0)
}

fn call_with<const CALL: Opcode>(name: &str, target: Target, flags: u32) -> Result<DmIoctl, Errno> {
    let header = DmIoctl {
        version: [4, 0, 0],
        data_size: size_of::<Request>() as u32,
        data_start: size_of::<DmIoctl>() as u32,
        target_count: u32::from(target.length > 0),
        open_count: 0,
        flags,
        event_nr: 0,
        padding: 0,
        dev: 0,
        name: text(name),
        uuid: [0; 129],
        data: [0; 7],
    };
    let mut request = Request { header, target };
    let node = File::options().read(true).write(true).open("/dev/mapper/control").expect("the device mapper");
    // SAFETY: `data_size` says how much the kernel may read and write, which is all of the structure.
    let update = unsafe { Updater::<CALL, Request>::new(&mut request) };
    // SAFETY: as above.
    unsafe { ioctl::ioctl(node, update) }?;
    Ok(request.header)
}
