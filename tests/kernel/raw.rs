//! Ioctls, a seccomp filter and a raw statx, which the tests need and no crate wraps.
#![allow(unsafe_code, reason = "ioctls of files that the test itself opened, a filter of its own thread")]

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

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

/// `SECCOMP_IOCTL_NOTIF_RECV` and `SECCOMP_IOCTL_NOTIF_SEND` of `linux/seccomp.h`
const NOTIF_RECV: Opcode = opcode::read_write::<libc::seccomp_notif>(b'!', 0);
const NOTIF_SEND: Opcode = opcode::read_write::<libc::seccomp_notif_resp>(b'!', 1);

/// A system call that waits for an answer.
pub struct Call {
    id: u64,
    /// Who makes it.
    pub process: u32,
    /// Its number.
    pub number: i64,
    pub arguments: [u64; 6],
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug)]
pub enum Answer {
    /// The kernel does what it does.
    GoOn,
    /// It fails with this error number.
    Fail(i32),
    /// It is done, with this result.
    Done(i64),
}

/// From now on the kernel asks before this thread, and what it starts, makes one of these calls. Until somebody
/// answers, the call waits.
pub fn ask_before(calls: &[i64]) -> OwnedFd {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code.try_into().unwrap(), jt: 0, jf: 0, k };
    let (load, equal) = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K);
    // The number of the call is the first field of `struct seccomp_data`.
    let mut program = vec![statement(load, 0)];
    for (index, call) in calls.iter().enumerate() {
        // To the last statement, past the other calls and the one that allows.
        let skip = u8::try_from(calls.len() - index).unwrap();
        program.push(libc::sock_filter { jt: skip, ..statement(equal, (*call).try_into().unwrap()) });
    }
    program.push(statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW));
    program.push(statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_USER_NOTIF));
    let filter = libc::sock_fprog { len: program.len().try_into().unwrap(), filter: program.as_mut_ptr() };
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    // SAFETY: the kernel copies the program, which lives as long as the call.
    let fd = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const filter) };
    assert!(fd >= 0, "seccomp: {}", std::io::Error::last_os_error());
    // SAFETY: the kernel just made this descriptor, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(fd.try_into().unwrap()) }
}

/// The next call that waits; `None` where its caller was killed meanwhile.
pub fn waiting_call(listener: &OwnedFd) -> Option<Call> {
    // SAFETY: a structure of numbers, for which zero is a value; the kernel requires it to be zero.
    let mut question: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the opcode belongs to the structure.
    let receive = unsafe { Updater::<NOTIF_RECV, libc::seccomp_notif>::new(&mut question) };
    // SAFETY: as above.
    match unsafe { ioctl::ioctl(listener, receive) } {
        Ok(()) => {}
        Err(rustix::io::Errno::NOENT) => return None,
        Err(error) => panic!("receive: {error}"),
    }
    let libc::seccomp_notif { id, pid, data, .. } = question;
    Some(Call { id, process: pid, number: data.nr.into(), arguments: data.args })
}

/// Answers a call, unless its caller was killed meanwhile.
pub fn answer(listener: &OwnedFd, call: &Call, answer: Answer) {
    let nothing = libc::seccomp_notif_resp { id: call.id, val: 0, error: 0, flags: 0 };
    let mut response = match answer {
        Answer::GoOn => {
            libc::seccomp_notif_resp { flags: libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE.try_into().unwrap(), ..nothing }
        }
        Answer::Fail(error) => libc::seccomp_notif_resp { error: -error, ..nothing },
        Answer::Done(value) => libc::seccomp_notif_resp { val: value, ..nothing },
    };
    // SAFETY: the opcode belongs to the structure.
    let send = unsafe { Updater::<NOTIF_SEND, libc::seccomp_notif_resp>::new(&mut response) };
    // SAFETY: as above.
    match unsafe { ioctl::ioctl(listener, send) } {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(error) => panic!("answer: {error}"),
    }
}

/// What `statx` of an open file writes, asked with `mask`.
pub fn statx(file: &File, mask: u32) -> [u8; size_of::<libc::statx>()] {
    let mut found = [0; size_of::<libc::statx>()];
    let flags = libc::AT_EMPTY_PATH | libc::AT_NO_AUTOMOUNT;
    // SAFETY: the path is a terminated string, and there is room for the structure.
    let result =
        unsafe { libc::syscall(libc::SYS_statx, file.as_raw_fd(), c"".as_ptr(), flags, mask, found.as_mut_ptr()) };
    assert_eq!(result, 0, "statx: {}", std::io::Error::last_os_error());
    found
}
