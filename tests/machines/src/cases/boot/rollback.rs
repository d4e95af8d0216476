//! Rollback without hands: systemd-boot counts the tries of a sealed deployment that sealroot refuses, and falls back to the one
//! before it, under Secure Boot, all in one run of one machine with its own firmware variables.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::expect::Expected;
use super::scenario::{Scenario, case};
use super::world::World;
use crate::builders;
use crate::console::Event;

const REFUSED: &str =
    "look-inside: image 'images/{other}': expected content that belongs to its digest, found damage: <errno 5>";

/// The newer of two deployments is damaged, or the only one.
pub fn rollback() -> Vec<Scenario> {
    let damaged = |name| case(name).firmware_only().reboots().loader("").flip_object("{other_object}");
    vec![
        // The older one is good, and still has to prove it.
        damaged("to_the_older_deployment")
            .boundary()
            .limit(600)
            .on_esp(newer, "EFI/Linux/new+2.efi")
            .on_esp(older, "EFI/Linux/old+3.efi")
            .comes(Expected::Events(fallen_back))
            .must("report-verdict", "sealed")
            .must("report-digest", "{digest}")
            .must("canary", "{CANARY_SHA256SUM}")
            .must("report", ".*\"secure_boot\":\"enforced\".*")
            .must("boot-assessment", "good")
            .entries(&["new+0-2.efi", "old.efi"]),
        // There is no other entry: systemd-boot starts an exhausted one again, and sealroot ends that.
        damaged("without_an_older_deployment")
            .on_esp(newer, "EFI/Linux/only+0-8.efi")
            .comes(Expected::Events(ended))
            .entries(&["only+0-10.efi"]),
    ]
}

fn newer(world: &World, _: &Scenario, _: &Path) -> Result<PathBuf> {
    let karg = world.fill("composefs.digest=v1-sha512-12:{other}")?;
    builders::built("uki", &["--version", "2", &karg])
}

fn older(world: &World, _: &Scenario, _: &Path) -> Result<PathBuf> {
    // The EFI system partition is mounted where systemd finds it.
    builders::built("uki", &["--version", "1", &world.fill("{karg}")?, "systemd.gpt_auto=yes"])
}

/// A refusal of an entry with so many tries left, and the restart.
fn refused(world: &World, entry: &str, left: u32) -> Result<[Event; 3]> {
    let then = format!("reboot in 0 s, tries left of boot entry '\\EFI\\Linux\\{entry}': {left}");
    Ok([Event::Refused(world.fill(REFUSED)?), Event::Then(then), Event::Restart])
}

fn fallen_back(world: &World) -> Result<Vec<Event>> {
    let sealed = Event::Sealed(world.fill("composefs:{digest}")?);
    let refusals = [refused(world, "new+1-1.efi", 1)?, refused(world, "new+0-2.efi", 0)?];
    Ok(refusals.into_iter().flatten().chain([sealed, Event::Blessed, Event::PowerOff]).collect())
}

fn ended(world: &World) -> Result<Vec<Event>> {
    let then = "halt in 0 s, as boot entry '\\EFI\\Linux\\only+0-10.efi' has 0 tries left and 10 done".into();
    let last = [Event::Refused(world.fill(REFUSED)?), Event::Then(then), Event::Halt];
    Ok(refused(world, "only+0-9.efi", 0)?.into_iter().chain(last).collect())
}
