//! The flow: one file for each stage of a boot, which takes what the one before it made.

pub mod assemble;
pub mod enable;
pub mod find;
pub mod gate;
pub mod look_inside;
pub mod measure;
pub mod mount;
pub mod objects;
pub mod prove;
pub mod replace;
pub mod set_aside;
