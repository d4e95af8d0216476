//! The tests, by part.

use crate::trial::Trial;

/// Every test of every part.
pub fn all() -> Vec<Trial> {
    Vec::new()
}
