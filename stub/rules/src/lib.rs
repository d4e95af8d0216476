//! What a unified kernel image must be so that sealroot's boot stub starts it.
//!
//! The stub asks this of the image that it is itself a part of, as the firmware loaded it; `sealroot uki` asks it of the file, before
//! it is signed. The answer is the same code, so that what the command passes is what the stub starts.
//!
//! All input is bytes that somebody else wrote. Nothing here allocates, panics, or knows what firmware is.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod command_line;
pub mod initrd;
pub mod kernel;
pub mod payload;
pub mod pe;
pub mod problem;
#[cfg(test)]
mod samples;

pub use payload::Payload;
pub use problem::Problem;
