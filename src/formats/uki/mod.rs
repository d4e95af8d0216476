//! Reading unified kernel images and what they carry, for looking at one before it is booted. The boot program has no
//! part in this.

pub mod authenticode;
mod bounded;
pub mod initramfs;
pub mod pe;
