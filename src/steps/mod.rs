//! The flow: one file or folder for each stage that touches the disk, which takes what the one before it made. `enable` is a part of
//! measure, `keep` of assemble.

pub mod assemble;
pub mod enable;
pub mod etc_entries;
pub mod find;
pub mod gate;
pub mod keep;
pub mod look_at_state;
pub mod look_inside;
pub mod measure;
pub mod mount;
pub mod objects;
pub mod prove;
pub mod replace;
