//! sealroot boots exactly the composefs image that the signed kernel command line names, or nothing.
//!
//! One type per step; each step takes what the one before it made, so that none can be skipped:
//!
//! ```text
//! /proc/cmdline ─ cmdline ─→ BootRequest ┐
//! sealroot.toml ─ config ──→ Config ─────┼─ policy ─→ Policy
//! EFI variables ─ firmware → SecureBoot ─┤              │
//! SMBIOS table ── added ───→ AddedString ┘              │
//!                                                  repository ─→ UnverifiedImage
//!                                                                      │ verify
//!                                                                AcceptedImage
//!                                                                      │ image
//!                                                               InspectedImage
//!                                                                      │ objects
//!                                                                CheckedImage
//!                                                                      │ mount
//!                                                                DetachedRoot
//!                                                                      │ assemble (keep, set_aside)
//!                                                               AssembledRoot
//!                                                                      │ prove
//!                                                                 ProvenRoot
//!                                                                      │ place, tree
//!                                                          /sysroot, report ─→ gate
//! ```
//!
//! `ask` reads all inputs, once. [`policy`] decides and touches nothing; everything behind it touches the disk and decides nothing. [`boot`] is the
//! order of the steps, `sys` has the only `unsafe`.

pub mod action;
pub mod added;
mod ask;
pub mod assemble;
pub mod boot;
pub mod cmdline;
pub mod config;
pub mod digest;
mod elf;
pub mod enable;
pub mod erofs;
pub mod firmware;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod image;
pub mod inputs;
pub mod keep;
pub mod kmsg;
mod lookup;
pub mod manifest;
pub mod merkle;
pub mod mount;
mod names;
pub mod object;
pub mod objects;
pub mod openings;
pub mod place;
pub mod policy;
pub mod printable;
mod privileges;
pub mod prove;
pub mod refusal;
pub mod report;
pub mod repository;
pub mod set_aside;
pub mod stage;
pub mod stub;
mod sys;
mod timed;
pub mod tree;
#[cfg(feature = "uki")]
pub mod uki;
pub mod unmeasured;
pub mod verify;
pub mod whole_file;
