//! fs-verity: digests, what the kernel says of a file, and what is computed without it.

pub mod ask_kernel;
pub mod digest;
pub mod merkle;
pub mod unmeasured;

/// What is asked of the kernel for every byte that is read from the new root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verification {
    /// Verification by fs-verity, or no boot.
    Required,
    /// Nothing, where the image has no fs-verity.
    AllowUnverified,
}
