//! Boots of a sealed Debian: how it must start, what must not start it, and how it falls back.

mod attack_boot;
mod attack_disk;
mod boots;
mod command;
pub mod expect;
mod rollback;
pub mod scenario;
pub mod world;

use scenario::Scenario;

use crate::trial::Trial;

/// The attack suite: what someone does who has the disk, the boot loader's files and the firmware's set-up, but no key. Every
/// disk also holds a complete operating system of its own, ready to be started, which must never run.
pub fn attacks() -> Vec<Scenario> {
    [
        attack_boot::asked(),
        attack_disk::image(),
        attack_disk::objects(),
        attack_disk::repository(),
        attack_disk::state(),
        attack_boot::units(),
        attack_boot::mounts(),
        attack_boot::nothing_happens(),
        attack_boot::open(),
        attack_boot::before(),
    ]
    .concat()
}

/// The tests of a part: `boot`, `attack` or `rollback`.
pub fn trials(part: &'static str) -> Vec<Trial> {
    let scenarios = match part {
        "boot" => [boots::boots(), command::command()].concat(),
        "attack" => attacks(),
        _ => rollback::rollback(),
    };
    scenarios.into_iter().flat_map(|scenario| scenario.trials(part)).collect()
}
