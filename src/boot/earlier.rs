//! What comes after an earlier run in the same boot: the gate, a failure to carry out, a root that is in place.

use std::path::Path;

use super::recorder::{At, BootError};
use super::refuse::refuse;
use crate::ask::ask;
use crate::ask::policy::Decision;
use crate::boot::report::{self, EarlierReport, Report, Verdict};
use crate::boot::stage::Stage;
use crate::kernel::Kernel;
use crate::kernel::privileges;
use crate::refusal::Refusal;
use crate::steps::gate;
use crate::verity::Verification;

/// What every initramfs of systemd's has.
const INITRD_RELEASE: &str = "/etc/initrd-release";

/// Whether this is an initramfs, and no booted system.
pub(super) fn is_initramfs() -> bool {
    Path::new(INITRD_RELEASE).exists()
}

/// `fsck`: remembers for the refusal to come that the check of the physical root failed. `result` is systemd's word for it
/// (`SERVICE_RESULT` of systemd.exec(5)), which it gives whenever the check has ended.
///
/// # Errors
/// It cannot be remembered.
pub fn fsck(result: Option<&str>) -> Result<(), BootError> {
    match result {
        Some(result) if result != "success" && is_initramfs() => report::note_fsck(result).at(Stage::Earlier),
        _ => Ok(()),
    }
}

/// `gate`: looks whether what stands at `sysroot` is still what `mount` left there.
///
/// # Errors
/// As for [`super::mount()`].
pub fn gate(sysroot: &Path) -> Result<(), BootError> {
    look_again(sysroot).inspect_err(|error| refuse(sysroot, &mut Report::default(), error))
}

/// `refused`: carries out what the configuration says about failures, for a run that could not do so itself: one that
/// was killed, or that never began.
///
/// # Errors
/// Always: the boot is refused.
pub fn refused(sysroot: &Path) -> BootError {
    let no_verdict = || {
        Refusal::of("")
            .expected("a verdict")
            .found("none: the boot program was killed, or the physical root was never mounted")
    };
    let error = match EarlierReport::read() {
        Ok(Some(earlier)) if earlier.verdict() == Verdict::Refused => {
            BootError::before(Stage::Earlier, earlier.reason())
        }
        Ok(_) => BootError::new(Stage::Earlier, no_verdict()),
        Err(reason) => BootError::new(Stage::Earlier, reason),
    };
    refuse(sysroot, &mut Report::default(), &error);
    error
}

/// The mount at `sysroot` is the one that an earlier run reported. Another one, after a restart of sysroot.mount, is
/// a new physical root: it gets all the checks. (Where identifiers are used again, it can also look like the old one,
/// changed: a refusal.)
pub(super) fn is_in_place(sysroot: &Path, earlier: &EarlierReport) -> bool {
    match (gate::root_id(sysroot, &Kernel::new()), earlier.mounts().first()) {
        (Ok(id), Some(root)) => id == root.id(),
        _ => false,
    }
}

fn look_again(sysroot: &Path) -> Result<(), BootError> {
    privileges::drop_unneeded().at(Stage::Privileges)?;
    let earlier = EarlierReport::read().at(Stage::Gate)?.ok_or_else(no_report).at(Stage::Gate)?;
    let compare = || gate::compare(sysroot, earlier.mounts(), &Kernel::new()).at(Stage::Gate);
    match earlier.verdict() {
        Verdict::Sealed => compare(),
        Verdict::Refused => Err(BootError::before(Stage::Gate, earlier.reason())),
        // The report alone does not open the gate: what it says must follow from the inputs once more.
        Verdict::Unverified => match decide_again()? {
            Decision::Seal(policy) if policy.verification() == Verification::AllowUnverified => compare(),
            _ => Err(not_sealed("a report of an unverified one")).at(Stage::Gate),
        },
        Verdict::NotRequested => match decide_again()? {
            Decision::NothingToDo(_) => Ok(()),
            Decision::Seal(_) => Err(not_sealed("a report that none was asked for")).at(Stage::Gate),
        },
    }
}

fn decide_again() -> Result<Decision, BootError> {
    ask().and_then(|asked| asked.decide()).at(Stage::Gate)
}

fn no_report() -> Refusal {
    Refusal::of("no report of a sealed root: the boot program did not run, or did not finish")
}

fn not_sealed(found: &str) -> Refusal {
    Refusal::of("").expected("a sealed root").found(found)
}
