//! Boots of a sealed Debian: how it must start, what must not start it, and how it falls back.

mod attack_boot;
mod attack_disk;
mod attack_strings;
mod boots;
mod command;
pub mod expect;
mod library;
mod play;
mod rollback;
pub mod scenario;
pub mod world;

use anyhow::{Context, Result};
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
        attack_disk::etc(),
        attack_boot::units(),
        attack_boot::initramfs(),
        attack_boot::mounts(),
        attack_boot::nothing_happens(),
        attack_boot::open(),
        attack_boot::before(),
        attack_strings::all(),
    ]
    .concat()
}

/// What `qemu/demo` shows: the sealed system, and four of the attacks.
///
/// # Errors
/// One of them is gone.
pub fn demonstrated() -> Result<Vec<Scenario>> {
    let all = [boots::boots(), attacks()].concat();
    let wanted = ["sha512_v1", "image_xattrs_flipped", "image_replaced", "object_flipped", "unsigned_uki"];
    let named = |name: &&str| all.iter().find(|scenario| scenario.name == *name).cloned();
    wanted.iter().map(|name| named(name).with_context(|| format!("no scenario is named '{name}'"))).collect()
}

/// The tests of a part: `boot`, `attack` or `rollback`.
pub fn trials(part: &'static str) -> Vec<Trial> {
    let scenarios = match part {
        "boot" => [
            boots::boots(),
            boots::newer_systemd(),
            boots::slow(),
            boots::keeps(),
            boots::selinux(),
            command::command(),
        ]
        .concat(),
        "attack" => attacks(),
        _ => rollback::rollback(),
    };
    scenarios.into_iter().flat_map(|scenario| scenario.trials(part)).collect()
}
