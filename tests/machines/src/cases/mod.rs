//! The tests, by part.

mod command;
mod dracut;
mod instructions;
mod uki;

use crate::trial::Trial;

/// Every test of every part.
pub fn all() -> Vec<Trial> {
    let parts = [dracut::trials(), command::trials(), instructions::trials(), uki::trials()];
    parts.into_iter().flatten().collect()
}
