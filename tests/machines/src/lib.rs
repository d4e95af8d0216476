//! Disks, machines and consoles: what the tests that start a machine are made of.
//!
//! The scripts of `qemu/` build what is slow and worth keeping ([`builders`]): kernels, a Debian, its repository, disks,
//! initramfs. A [`disk::Disk`] is a copy that a test may damage; a machine starts from it ([`native`], [`emulated`],
//! [`firmware`]) and says on its [`console`] what came of it; a [`guest`] runs a job. The tests themselves are in [`cases`],
//! as tables where they are many; `tests/trials.rs` runs them.

pub mod archive;
pub mod builders;
pub mod cases;
pub mod console;
pub mod disk;
pub mod emulated;
pub mod firmware;
pub mod guest;
mod hidden;
pub mod native;
pub mod process;
pub mod processors;
pub mod trial;
