//! `FS_IOC_MEASURE_VERITY` and `FS_IOC_ENABLE_VERITY` of `linux/fsverity.h`.

use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::ioctl::{self, Opcode, Setter, Updater};

/// Room for the largest digest that fs-verity knows, in bytes.
const MAX_DIGEST: usize = 64;

/// `struct fsverity_digest` with room for a digest behind it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct FsverityDigest {
    digest_algorithm: u16,
    digest_size: u16,
    digest: [u8; MAX_DIGEST],
}

const _: () = assert!(size_of::<FsverityDigest>() == 4 + MAX_DIGEST);

/// `_IOWR('f', 134, struct fsverity_digest)`, whose flexible array counts nothing.
const FS_IOC_MEASURE_VERITY: Opcode = ioctl::opcode::read_write::<[u16; 2]>(b'f', 134);

/// `struct fsverity_enable_arg`
#[repr(C)]
#[derive(Clone, Copy, Debug)]
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

const _: () = assert!(size_of::<FsverityEnableArg>() == 128);

/// `_IOW('f', 133, struct fsverity_enable_arg)`
const FS_IOC_ENABLE_VERITY: Opcode = ioctl::opcode::write::<FsverityEnableArg>(b'f', 133);

/// What the kernel says a file's fs-verity digest is.
#[derive(Clone, Debug)]
pub struct Measurement {
    /// `FS_VERITY_HASH_ALG_*`
    pub algorithm: u16,
    /// The digest, as long as the kernel said.
    pub digest: Vec<u8>,
}

/// Asks the kernel for the fs-verity digest of an open file.
///
/// # Errors
/// The kernel's own: `ENODATA` where the file has no fs-verity, `ENOTTY` or `EOPNOTSUPP` where the filesystem or the
/// kernel knows none. A size beyond the buffer, which no kernel answers, is `EOVERFLOW`.
pub fn measure(file: impl AsFd) -> Result<Measurement, Errno> {
    let mut answer = FsverityDigest { digest_algorithm: 0, digest_size: MAX_DIGEST as u16, digest: [0; MAX_DIGEST] };
    // SAFETY: the opcode belongs to `struct fsverity_digest`, whose layout `FsverityDigest` has; the kernel writes at
    // most `digest_size` bytes behind the header, for which `digest` has room.
    let update = unsafe { Updater::<FS_IOC_MEASURE_VERITY, FsverityDigest>::new(&mut answer) };
    // SAFETY: as above; the pointer is valid for the duration of the call.
    unsafe { ioctl::ioctl(file, update) }?;
    let digest = answer.digest.get(..usize::from(answer.digest_size)).ok_or(Errno::OVERFLOW)?;
    Ok(Measurement { algorithm: answer.digest_algorithm, digest: digest.to_vec() })
}

/// Has the kernel build the Merkle tree of an open file, which nobody can write to from then on: blocks of `block_size`
/// bytes, no salt, no signature.
///
/// # Errors
/// The kernel's own: `EEXIST` where the file has fs-verity already, `ETXTBSY` where somebody has it open for writing,
/// `EROFS` where the mount is read-only.
pub fn enable(file: impl AsFd, algorithm: u8, block_size: u32) -> Result<(), Errno> {
    let argument = FsverityEnableArg {
        version: 1,
        hash_algorithm: algorithm.into(),
        block_size,
        salt_size: 0,
        salt_ptr: 0,
        sig_size: 0,
        reserved1: 0,
        sig_ptr: 0,
        reserved2: [0; 11],
    };
    // SAFETY: the opcode belongs to `struct fsverity_enable_arg`, whose layout `FsverityEnableArg` has; the sizes of salt
    // and signature are zero, so the kernel follows no pointer.
    let set = unsafe { Setter::<FS_IOC_ENABLE_VERITY, FsverityEnableArg>::new(argument) };
    // SAFETY: as above; the kernel only reads the argument.
    unsafe { ioctl::ioctl(file, set) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_opcodes_are_the_uapis() {
        assert_eq!(FS_IOC_MEASURE_VERITY, 0xc004_6686);
        assert_eq!(FS_IOC_ENABLE_VERITY, 0x4080_6685);
    }
}
