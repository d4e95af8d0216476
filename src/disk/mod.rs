//! The physical root, trusted in nothing.

pub mod layer;
pub mod object;
pub mod physical;
pub mod pool;
pub mod repository;
pub mod whole_file;
