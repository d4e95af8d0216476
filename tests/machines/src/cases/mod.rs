//! The tests, by part.

mod dracut;

use crate::trial::Trial;

/// Every test of every part.
pub fn all() -> Vec<Trial> {
    let parts = [
        dracut::trials(), //
    ];
    parts.into_iter().flatten().collect()
}
