//! The two ioctls that the tests need and no crate wraps.
#![allow(unsafe_code, reason = "ioctls of a file that the test itself opened")]

use std::fs::File;

use rustix::ioctl::{self, Opcode, Setter, Updater, opcode};

/// `FIBMAP` of `linux/fs.h`
const FIBMAP: Opcode = opcode::none(0, 1);

/// `struct fsverity_enable_arg` of `linux/fsverity.h`
#[repr(C)]
struct FsverityEnableArg {
    version: u32,
    hash_algorithm: u32,
    block_size: u32,
    salt_size: u32,
    salt_ptr: u64,
    sig_size: u32,
    reserved1: u32,
    sig_ptr: u64,
    reserved2: [u64; 11],
}

/// The block of the filesystem that holds block `index` of a file. Blocks past the end count: fs-verity keeps its
/// Merkle tree and its descriptor there.
pub fn physical_block(file: &File, index: u32) -> u32 {
    let mut block = index;
    // SAFETY: FIBMAP reads and writes one int.
    let update = unsafe { Updater::<FIBMAP, u32>::new(&mut block) };
    // SAFETY: as above.
    unsafe { ioctl::ioctl(file, update) }.expect("FIBMAP");
    block
}

/// Enables fs-verity on a file that nobody has open for writing; 1 is SHA-256, 2 is SHA-512.
pub fn enable_verity(file: &File, hash_algorithm: u32) {
    let argument = FsverityEnableArg {
        version: 1,
        hash_algorithm,
        block_size: 4096,
        salt_size: 0,
        salt_ptr: 0,
        sig_size: 0,
        reserved1: 0,
        sig_ptr: 0,
        reserved2: [0; 11],
    };
    const ENABLE: Opcode = opcode::write::<FsverityEnableArg>(b'f', 133);
    // SAFETY: the structure has the layout that the opcode names, and the kernel only reads it.
    let setter = unsafe { Setter::<ENABLE, FsverityEnableArg>::new(argument) };
    // SAFETY: as above.
    unsafe { ioctl::ioctl(file, setter) }.expect("enable fs-verity");
}
