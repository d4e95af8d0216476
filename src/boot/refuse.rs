//! What a refusal does: nothing that could be booted is left, the reason is where it will be looked for, and what is to follow
//! follows.

use std::path::Path;
use std::time::Duration;

use super::recorder::{BootError, Told};
use crate::ask::cmdline::CommandLine;
use crate::ask::config::{Config, OnFailure};
use crate::ask::firmware::{BootEntry, Tries};
use crate::ask::or_warn;
use crate::ask::policy::{self, Action, Resolved};
use crate::ask::read::{self, Firmware};
use crate::boot::action;
use crate::boot::report::{self, Report};
use crate::boot::timed;
use crate::kernel;
use crate::kernel::kmsg;
use crate::refusal::chain;
use crate::steps::keep::PLACE;

/// The start of the one line that says why a boot is refused.
pub const REFUSED: &str = "boot refused";

/// How long the reason stays on the screen before systemd has started anything: it gives its generators 90 s.
const GENERATOR_TIME: Duration = Duration::from_secs(30);
/// How long the disk may take before the reason is said.
const DETACH_TIME: Duration = Duration::from_secs(5);

/// Takes away what could be booted, leaves the reason where it will be looked for, and does what is to follow. Where the
/// machine is to stop this does not come back.
pub(super) fn refuse(sysroot: &Path, report: &mut Report, error: &BootError) {
    refuse_at(Moment::Late, sysroot, report, error);
}

/// When a boot is refused.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    /// By a generator, which systemd waits for only so long, and whose exit status it ignores.
    Early,
    /// By a unit.
    Late,
}

/// The same at a certain moment.
pub(super) fn refuse_at(moment: Moment, sysroot: &Path, report: &mut Report, error: &BootError) {
    // The first refusal of a boot is the one whose report stays. It was said loud enough, and had its time on the screen.
    let repeated = error.told() == Told::Before;
    let mut reason = chain(error);
    if let (false, Some(result)) = (repeated, report::failed_fsck()) {
        reason = format!("{reason}; before, systemd-fsck-root.service failed: {result}");
    }
    detach(sysroot);
    log::error!("{REFUSED}: {reason}");
    let (on_failure, delay) = failure_settings(report);
    let entry = match on_failure {
        OnFailure::Auto => or_warn(Firmware::open().and_then(|firmware| firmware.boot_entry())).flatten(),
        _ => None,
    };
    let (mut action, mut delay) =
        (policy::after_refusal(on_failure, entry.as_ref().map(BootEntry::tries)), Duration::from_secs(delay.into()));
    if moment == Moment::Early {
        delay = delay.min(GENERATOR_TIME);
        // An emergency mode on a command line that nobody signed is none: its shell may be what was asked for.
        if action == Action::Emergency {
            action = Action::Halt;
        }
    }
    report.refused(&reason, action);
    let delay = if repeated { Duration::ZERO } else { delay };
    if !repeated {
        if let Err(error) = report.write() {
            log::error!("{}", chain(&error));
        }
        let next = announce(on_failure, action, delay, entry.as_ref());
        log::error!(target: kmsg::EMERGENCY, "{REFUSED}: {reason}; {next}");
    }
    if let Err(error) = action::carry_out(action, delay, &format!("{REFUSED}: {reason}")) {
        log::error!("{}: {error}", action.name());
    }
}

/// Takes what is mounted there out of sight, and what was to be kept of /etc. The filesystem may then have to end its work on the disk, which is waited for
/// only a while.
fn detach(sysroot: &Path) {
    let (point, path) = (sysroot.display(), sysroot.to_owned());
    let work = move || kernel::detach_all(&path).and(kernel::detach_all(Path::new(PLACE)));
    match timed::within(DETACH_TIME, work) {
        Some(Ok(())) => {}
        Some(Err(error)) => log::error!("'{point}': could not be detached: {error}"),
        None => log::warn!("'{point}': expected the disk to answer within {} s, ignoring", DETACH_TIME.as_secs()),
    }
}

/// What the configuration says about refusals, whatever is wrong with the rest of it; where that cannot be read, the
/// defaults.
fn failure_settings(report: &Report) -> (OnFailure, u8) {
    let read = || {
        let ours = or_warn(read::config_on_refusal()).unwrap_or_default();
        Resolved::new(CommandLine::default(), ours, Config::default()).settings().clone()
    };
    let settings = report.settings().cloned().unwrap_or_else(read);
    (*settings.on_failure.value(), *settings.failure_delay.value())
}

/// What follows a refusal, for people, and why `auto` does not restart.
fn announce(on_failure: OnFailure, action: Action, delay: Duration, entry: Option<&BootEntry>) -> String {
    let next = format!("{} in {} s", action.name(), delay.as_secs());
    match (on_failure, action, entry) {
        (_, Action::Emergency, _) => "emergency mode follows".into(),
        (_, Action::Reboot, Some(entry)) => {
            format!("{next}, tries left of boot entry '{}': {}", entry.path(), entry.tries().left)
        }
        (OnFailure::Auto, Action::Halt, None) => format!("{next}, as no boot loader counts tries"),
        (OnFailure::Auto, Action::Halt, Some(entry)) => {
            let Tries { left, done } = entry.tries();
            format!("{next}, as boot entry '{}' has {left} tries left and {done} done", entry.path())
        }
        _ => next,
    }
}
