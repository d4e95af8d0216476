//! sealroot boots exactly the composefs image that the signed kernel command line names, or nothing.
//!
//! One type per step; each step takes what the one before it made, so that none can be skipped. The stages of a boot are the
//! files of [`steps`]:
//!
//! ```text
//! /proc/cmdline ─ cmdline ─→ BootRequest ┐
//! sealroot.toml ─ config ──→ Config ─────┼─ policy ─→ Policy                  ask
//! EFI variables ─ firmware → SecureBoot ─┤              │
//! SMBIOS table ── added ───→ AddedString ┘              │ find               steps
//!                                                 UnverifiedImage
//!                                                       │ measure (enable)
//!                                                 AcceptedImage
//!                                                       │ look_inside
//!                                                 InspectedImage
//!                                                       │ objects
//!                                                 CheckedImage
//!                                                       │ mount
//!                                                 DetachedRoot
//!                                                       │ assemble (keep)
//!                                                 AssembledRoot
//!                                                       │ prove
//!                                                 ProvenRoot
//!                                                       │ replace
//!                                                 /sysroot, report ─→ gate
//! ```
//!
//! | folder | what is in it |
//! |---|---|
//! | [`boot`] | the order of the steps, the report, what follows a refusal |
//! | [`steps`] | one file or folder for each stage that touches the disk |
//! | [`ask`] | what is asked and what is allowed: reads all inputs once, decides, and touches no disk |
//! | [`disk`] | the physical root, trusted in nothing |
//! | [`kernel`] | one handle on what this kernel can do: look-ups, mounts, its own table of them |
//! | [`formats`] | the bytes of others |
//! | [`verity`] | digests, the kernel's word on them |
//! | `sys` | the only `unsafe` |
//!
//! A folder uses those below it in this table, and none above; all use [`refusal`], the one error.

pub mod ask;
pub mod boot;
pub mod disk;
pub mod formats;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod kernel;
pub mod refusal;
pub mod steps;
mod sys;
pub mod verity;
