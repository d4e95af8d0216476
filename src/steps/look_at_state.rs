//! A look at the state of a deployment before it is booted: what `assemble` would refuse of it, in its words. Nothing is written.

use std::os::fd::{AsFd, OwnedFd};

use crate::ask::config::StateMount;
use crate::ask::policy::Settings;
use crate::disk::layer::Ownership;
use crate::refusal::Refusal;
use crate::steps::assemble::{self, Place};
use crate::verity::digest::ImageDigest;

/// What is wrong with the state of a deployment.
#[derive(Debug, Default)]
pub struct StateFindings {
    /// What a boot would refuse, or could not use.
    pub refused: Vec<Refusal>,
    /// What a boot would take, though hardly anybody means it.
    pub doubtful: Vec<Refusal>,
}

/// Whether any of it stays on the physical root.
pub fn needs_state(settings: &Settings) -> bool {
    [settings.etc.value(), settings.var.value()].into_iter().any(|mount| stays(*mount))
}

fn stays(mount: StateMount) -> bool {
    matches!(mount, StateMount::Overlay | StateMount::Bind)
}

/// Looks at what a physical root keeps for the image with this digest. `sealed` gives the ownership of a directory of the image.
pub fn look_at_state(
    physical: impl AsFd,
    digest: ImageDigest,
    settings: &Settings,
    sealed: impl Fn(&'static str) -> Result<Ownership, Refusal>,
) -> StateFindings {
    let mut findings = StateFindings::default();
    for (place, mount) in [(Place::Etc, *settings.etc.value()), (Place::Var, *settings.var.value())] {
        if !stays(mount) {
            continue;
        }
        let (name, state) = match assemble::state_directory(&physical, digest, place) {
            Ok(found) => found,
            Err(refusal) => {
                findings.refused.push(refusal);
                continue;
            }
        };
        let found = match mount {
            StateMount::Bind => files(&state, &name, place, &mut findings.doubtful),
            _ => sealed(place.name()).and_then(|like| {
                layers(&state, &name, place, like, place == Place::Etc && settings.etc_keep.value().is_some())
            }),
        };
        findings.refused.extend(found.err());
    }
    findings
}

/// Of an overlay, which may be in memory but for what is kept.
fn layers(state: &OwnedFd, name: &str, place: Place, like: Ownership, in_memory: bool) -> Result<(), Refusal> {
    assemble::expect_layers(state, name, place)?;
    let existing = |layer, expected| {
        assemble::existing_layer(state, name, layer, expected, |found| assemble::may_become(found, expected))
    };
    existing("upper", like)?;
    if in_memory {
        return Ok(());
    }
    match existing("work", Ownership { mode: 0o700, ..like })? {
        Some((work, _)) => assemble::expect_nothing_lost(&work, name),
        None => Ok(()),
    }
}

/// Of a directory that is mounted as it is.
fn files(state: &OwnedFd, name: &str, place: Place, doubtful: &mut Vec<Refusal>) -> Result<(), Refusal> {
    if !assemble::expect_files(state, name, place)? && place == Place::Etc {
        doubtful.push(assemble::no_files(name, place).found("none"));
    }
    Ok(())
}
