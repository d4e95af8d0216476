//! The tests, by part.

pub mod boot;
mod command;
mod dracut;
pub mod guest;
mod instructions;
mod stub;
mod uki;

use anyhow::Result;

use crate::trial::{Tier, Trial};

/// Every test of a tier whose name may contain the filter. The list of a part that cannot contain it is not made, since that
/// may take a build.
///
/// # Errors
/// A list cannot be made.
pub fn all(tier: Tier, filter: Option<&str>) -> Result<Vec<Trial>> {
    let parts = ["kernel", "rollback", "attack", "boot", "command", "dracut", "instructions", "stub", "uki"];
    let asked = filter.and_then(|word| word.split_once("::")).map(|(part, _)| part).filter(|part| parts.contains(part));
    let wanted = |part: &str| asked.is_none_or(|asked| asked == part);
    let mut trials = Vec::new();
    if wanted("kernel") {
        trials.extend(guest::trials(tier, filter)?);
    }
    for part in ["rollback", "attack", "boot"] {
        if wanted(part) {
            trials.extend(boot::trials(part));
        }
    }
    for trials_of in [command::trials, dracut::trials, instructions::trials, stub::trials, uki::trials] {
        trials.extend(trials_of());
    }
    trials.retain(|trial| trial.is_in(tier));
    trials.sort_by_key(Trial::turn);
    Ok(trials)
}
