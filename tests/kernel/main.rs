//! What needs a kernel with fs-verity, ext4, EROFS and overlayfs: the boot program run on real disks.
//!
//! Every test has a mount namespace and a disk of its own. This program runs as root inside a test machine, native or
//! emulated, which has the fixture's disks; it also runs by hand, as root, on any machine whose kernel can:
//! `SEALROOT_FIXTURE=$(qemu/fixture) cargo test --features guest --test kernel -- --test-threads=1`. Elsewhere every
//! test fails. A test of a refusal requires the exact message and that nothing is left at /sysroot.
//!
//! `SEALROOT_SEED`, `SEALROOT_DISKS` and `SEALROOT_CUTS` choose the random damage and the random power cuts.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test stops at the first surprise"
)]

mod access_lists;
mod actions;
mod bootc;
mod btrfs;
mod command;
mod corruptions;
mod crafted;
mod damage;
mod damaged;
mod device_mapper;
mod disk;
mod enable;
mod expect;
mod f2fs;
mod filesystems;
mod gate;
mod good;
mod hanging;
mod hostile;
mod hostile_repository;
mod keep;
mod kernel;
mod kernels;
mod lab;
mod left_behind;
mod limited;
mod loop_devices;
mod loops;
mod modules;
mod names;
mod objects;
mod places;
mod power_cuts;
mod privileges;
mod random;
mod raw;
mod recording;
mod refused;
mod releases;
mod state;
mod too_old;
mod unverified;
mod watchdog;
