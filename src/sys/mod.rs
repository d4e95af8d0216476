//! The only `unsafe` of the crate: ioctls, system calls and instructions that no crate wraps, behind typed calls.
#![allow(unsafe_code, reason = "this is the place for it")]

use rustix::io::Errno;

pub mod loop_device;
pub mod mount_attr;
#[cfg(all(target_env = "musl", panic = "abort"))]
mod no_unwinder;
#[cfg(all(feature = "cli", target_arch = "x86_64"))]
pub mod sha512_lanes;
pub mod statmount;
pub mod verity;

/// Why the system call that was just made failed.
fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
