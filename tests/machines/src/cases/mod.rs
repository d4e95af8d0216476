//! The tests, by part.

mod dracut;
mod instructions;

use crate::trial::Trial;

/// Every test of every part.
pub fn all() -> Vec<Trial> {
    let parts = [dracut::trials(), instructions::trials()];
    parts.into_iter().flatten().collect()
}
