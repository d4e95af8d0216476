//! `statmount(2)` and `listmount(2)`.

use std::ffi::c_long;
use std::mem::{self, MaybeUninit};
use std::slice;

use rustix::io::Errno;

/// `STATMOUNT_*` of `linux/mount.h`: what is asked for, and what was answered.
pub mod mask {
    /// Flags of the filesystem.
    pub const SB_BASIC: u64 = 0x1;
    /// Identifiers and flags of the mount.
    pub const MNT_BASIC: u64 = 0x2;
    /// Where it is mounted.
    pub const MNT_POINT: u64 = 0x10;
    /// The filesystem's type.
    pub const FS_TYPE: u64 = 0x20;
    /// The filesystem's options (Linux 6.11).
    pub const MNT_OPTS: u64 = 0x80;
    /// The filesystem's source (Linux 6.13).
    pub const SB_SOURCE: u64 = 0x200;
}

/// The same on every architecture whose system calls are numbered as the kernel's generic table has them.
const SYS_STATMOUNT: c_long = 457;
/// As above.
const SYS_LISTMOUNT: c_long = 458;

/// Room for strings, in bytes: far more than the mounts that sealroot makes have. It lies on the stack.
const STRINGS: usize = 4096;
/// How many identifiers are taken off the kernel's list at once.
const BATCH: usize = 256;

/// `struct mnt_id_req` in its first version (Linux 6.8).
#[repr(C)]
struct Request {
    size: u32,
    spare: u32,
    mnt_id: u64,
    param: u64,
}

/// `MNT_ID_REQ_SIZE_VER0`
const _: () = assert!(size_of::<Request>() == 24);

/// `struct statmount` with room for its strings.
#[repr(C)]
struct Answer {
    fixed: Fixed,
    strings: [u8; STRINGS],
}

/// What is always answered.
#[repr(C)]
struct Fixed {
    size: u32,
    mnt_opts: u32,
    mask: u64,
    sb_dev: [u32; 2],
    sb_magic: u64,
    sb_flags: u32,
    fs_type: u32,
    mnt_id: u64,
    mnt_parent_id: u64,
    mnt_id_old: u32,
    mnt_parent_id_old: u32,
    mnt_attr: u64,
    /// `mnt_propagation` to `propagate_from`
    propagation: [u64; 4],
    mnt_root: u32,
    mnt_point: u32,
    mnt_ns_id: u64,
    fs_subtype: u32,
    sb_source: u32,
    /// What later kernels have more of, and what is spare.
    spare: [u64; 48],
}

const _: () = assert!(mem::offset_of!(Fixed, mnt_attr) == 64);
const _: () = assert!(mem::offset_of!(Fixed, sb_source) == 124);
const _: () = assert!(mem::offset_of!(Answer, strings) == 512);

/// What the kernel says about one mount.
#[derive(Clone, Debug)]
pub struct MountStatus {
    /// Which of the following were answered ([`mask`]).
    pub mask: u64,
    /// `MS_RDONLY`, `MS_SYNCHRONOUS`, `MS_DIRSYNC`, `MS_LAZYTIME`
    pub sb_flags: u32,
    /// `MOUNT_ATTR_*`
    pub mount_attributes: u64,
    /// The unique identifier.
    pub id: u64,
    /// The unique identifier of what it is attached to.
    pub parent: u64,
    /// Where, seen from the root of the process.
    pub point: Vec<u8>,
    /// The filesystem's type.
    pub filesystem: Vec<u8>,
    /// The filesystem's source.
    pub source: Vec<u8>,
    /// The filesystem's options, comma-separated, escaped as in mountinfo.
    pub options: Vec<u8>,
}

/// Asks for one mount of the caller's mount namespace, by its unique identifier.
///
/// # Errors
/// The kernel's own: `ENOSYS` before Linux 6.8, `ENOENT` where the mount is in no mount namespace or in another,
/// `EOVERFLOW` where its strings are longer than any should be.
pub fn statmount(id: u64, wanted: u64) -> Result<MountStatus, Errno> {
    let request = Request { size: size_of::<Request>() as u32, spare: 0, mnt_id: id, param: wanted };
    let mut answer = MaybeUninit::<Answer>::uninit();
    // SAFETY: `Fixed` is at the start of `Answer` and may be zero.
    unsafe { answer.as_mut_ptr().cast::<Fixed>().write_bytes(0, 1) };
    // SAFETY: the kernel reads `request`, whose layout and size are those of the structure, and writes at most as many
    // bytes to `answer` as are passed for its size.
    let result: c_long =
        unsafe { libc::syscall(SYS_STATMOUNT, &raw const request, answer.as_mut_ptr(), size_of::<Answer>(), 0) };
    if result != 0 {
        return Err(super::last_errno());
    }
    // SAFETY: `Fixed` is at the start of `Answer`, was zero before the call, and may have any bytes.
    let fixed = unsafe { answer.as_ptr().cast::<Fixed>().read() };
    let written = usize::try_from(fixed.size).ok().and_then(|size| size.checked_sub(size_of::<Fixed>()));
    let written = written.filter(|size| *size <= STRINGS).ok_or(Errno::OVERFLOW)?;
    let strings = answer.as_ptr().cast::<u8>().wrapping_add(size_of::<Fixed>());
    // SAFETY: `size` counts all bytes that the kernel has written, and the strings are what follows `Fixed`.
    let strings = unsafe { slice::from_raw_parts(strings, written) };
    let text = |flag: u64, offset: u32| match fixed.mask & flag {
        0 => Vec::new(),
        _ => {
            let bytes = usize::try_from(offset).ok().and_then(|start| strings.get(start..)).unwrap_or_default();
            bytes.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()
        }
    };
    Ok(MountStatus {
        mask: fixed.mask,
        sb_flags: fixed.sb_flags,
        mount_attributes: fixed.mnt_attr,
        id: fixed.mnt_id,
        parent: fixed.mnt_parent_id,
        point: text(mask::MNT_POINT, fixed.mnt_point),
        filesystem: text(mask::FS_TYPE, fixed.fs_type),
        source: text(mask::SB_SOURCE, fixed.sb_source),
        options: text(mask::MNT_OPTS, fixed.mnt_opts),
    })
}

/// The unique identifiers of all mounts below a mount, at any depth.
///
/// # Errors
/// The kernel's own; `E2BIG` where there are more than `most`.
pub fn listmount(id: u64, most: usize) -> Result<Vec<u64>, Errno> {
    let mut all = Vec::new();
    loop {
        let last = all.last().copied().unwrap_or(0);
        let request = Request { size: size_of::<Request>() as u32, spare: 0, mnt_id: id, param: last };
        let mut batch = [0_u64; BATCH];
        // SAFETY: as above; the kernel writes at most `BATCH` identifiers.
        let result: c_long = unsafe { libc::syscall(SYS_LISTMOUNT, &raw const request, batch.as_mut_ptr(), BATCH, 0) };
        let count = usize::try_from(result).map_err(|_| super::last_errno())?;
        all.extend_from_slice(batch.get(..count).ok_or(Errno::OVERFLOW)?);
        if all.len() > most {
            return Err(Errno::TOOBIG);
        }
        if count < BATCH {
            return Ok(all);
        }
    }
}
