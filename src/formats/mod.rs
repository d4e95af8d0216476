//! The bytes of others: images, programs, unified kernel images; and names and texts.

pub mod composefs;
pub mod elf;
pub mod erofs;
pub(crate) mod names;
pub mod printable;
#[cfg(feature = "uki")]
pub mod uki;
