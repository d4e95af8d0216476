//! What needs a kernel with fs-verity, ext4, EROFS and overlayfs: the boot program run on real disks.
//!
//! Every test has a mount namespace and a disk of its own. `qemu/runner` starts this program in a virtual machine; it
//! also runs by hand, as root, on any machine whose kernel can:
//! `SEALROOT_FIXTURE=$(qemu/fixture) cargo test --test kernel -- --test-threads=1`. A test of a refusal requires the
//! exact message and that nothing is left at /sysroot.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test stops at the first surprise"
)]

mod actions;
mod command;
mod corruptions;
mod damaged;
mod disk;
mod enable;
mod expect;
mod f2fs;
mod filesystems;
mod gate;
mod good;
mod kernel;
mod kernels;
mod lab;
mod loop_devices;
mod objects;
mod privileges;
mod raw;
mod refused;
mod releases;
mod state;
mod too_old;
mod unverified;
