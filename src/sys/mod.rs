//! The only `unsafe` of the crate: ioctls and system calls that no crate wraps, behind typed calls.
#![allow(unsafe_code, reason = "this is the place for it")]

pub mod loop_device;
pub mod mount_attr;
pub mod verity;
