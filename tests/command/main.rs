//! The command `sealroot`, as far as that needs no machine: digests, images, how it answers. Neither root nor fs-verity is
//! needed; the images are those of `qemu/golden`. What needs fs-verity or a sealed system is in `tests/kernel`; what
//! needs root or unified kernel images is in `tests/machines`.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test stops at the first surprise"
)]

mod check_config;
mod contents;
mod dbx;
mod digests;
mod direction;
mod documented;
mod golden;
mod images;
mod install;
mod made;
mod manners;
mod refusals;
mod run;
mod signature;
mod state;
mod stub;
mod uki;
