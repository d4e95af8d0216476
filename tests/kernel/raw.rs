//! Two ioctls and a seccomp filter, which the tests need and no crate wraps.
#![allow(unsafe_code, reason = "ioctls of files that the test itself opened, a filter of its own thread")]

use std::fs::File;
use std::os::fd::{FromRawFd, OwnedFd};

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

/// `FSCONFIG_CMD_CREATE` of `linux/mount.h`
const CMD_CREATE: u32 = 6;

/// `SECCOMP_IOCTL_NOTIF_RECV` and `SECCOMP_IOCTL_NOTIF_SEND` of `linux/seccomp.h`
const NOTIF_RECV: Opcode = opcode::read_write::<libc::seccomp_notif>(b'!', 0);
const NOTIF_SEND: Opcode = opcode::read_write::<libc::seccomp_notif_resp>(b'!', 1);

/// From now on the kernel asks before this thread, and what it starts, creates a filesystem
/// (`fsconfig(…, FSCONFIG_CMD_CREATE, …)`). Until somebody answers, the call waits.
pub fn ask_before_create() -> OwnedFd {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code.try_into().unwrap(), jt: 0, jf: 0, k };
    let (load, equal) = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K);
    let unless = |skip: u8, k: u32| libc::sock_filter { jf: skip, ..statement(equal, k) };
    // The offsets are those of `struct seccomp_data`: the number of the call, and the low half of the second argument.
    let mut program = [
        statement(load, 0),
        unless(3, libc::SYS_fsconfig.try_into().unwrap()),
        statement(load, 24),
        unless(1, CMD_CREATE),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_USER_NOTIF),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: program.len().try_into().unwrap(), filter: program.as_mut_ptr() };
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    // SAFETY: the kernel copies the program, which lives as long as the call.
    let fd = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const filter) };
    assert!(fd >= 0, "seccomp: {}", std::io::Error::last_os_error());
    // SAFETY: the kernel just made this descriptor, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(fd.try_into().unwrap()) }
}

/// Answers one question that is there: the call goes on, or fails with `error`.
pub fn answer_create(listener: &OwnedFd, error: Option<i32>) {
    // SAFETY: a structure of numbers, for which zero is a value; the kernel requires it to be zero.
    let mut question: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the opcode belongs to the structure.
    let receive = unsafe { Updater::<NOTIF_RECV, libc::seccomp_notif>::new(&mut question) };
    // SAFETY: as above.
    unsafe { ioctl::ioctl(listener, receive) }.expect("receive");
    let flags = if error.is_none() { libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE.try_into().unwrap() } else { 0 };
    let mut answer = libc::seccomp_notif_resp { id: question.id, val: 0, error: -error.unwrap_or(0), flags };
    // SAFETY: the opcode belongs to the structure.
    let send = unsafe { Updater::<NOTIF_SEND, libc::seccomp_notif_resp>::new(&mut answer) };
    // SAFETY: as above.
    unsafe { ioctl::ioctl(listener, send) }.expect("send");
}
