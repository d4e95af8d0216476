//! The order of the steps: what PID 1 waits for.

mod action;
mod earlier;
mod recorder;
mod refuse;
pub mod report;
pub mod stage;
mod timed;

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use crate::ask::bypasses::Bypass;
use crate::ask::cmdline::CommandLine;
use crate::ask::config::Check;
use crate::ask::manifest::{self, MANIFEST};
use crate::ask::policy::{Decision, Policy, Settings};
use crate::ask::read;
use crate::ask::{self, ask};
use crate::disk::physical::{self, PhysicalRoot};
use crate::disk::whole_file::WholeFiles;
use crate::kernel::Kernel;
use crate::kernel::privileges;
use crate::kernel::workbench::{Need, Workbench};
use crate::refusal::{Refusal, chain};
use crate::steps::assemble::{self, AssembledRoot, assemble};
use crate::steps::etc_entries::EtcEntries;
use crate::steps::find::find;
use crate::steps::gate;
use crate::steps::keep::NOT_KEPT;
use crate::steps::look_inside::{self, ReadAhead};
use crate::steps::measure::measure;
use crate::steps::mount as sealed_root;
use crate::steps::objects::{self, CheckedImage};
use crate::steps::prove::prove;
use crate::steps::replace;
use crate::verity::Verification;
use crate::verity::unmeasured::Limits;
pub use earlier::{fsck, gate, refused};
pub use recorder::BootError;
use recorder::{At, Recorder};
pub use refuse::REFUSED;
use refuse::{Moment, refuse, refuse_at};
use report::{EarlierReport, Report, Verdict};
use stage::Stage;

/// The start of the line that says that the sealed root is in place.
pub const IN_PLACE: &str = "sealed root in place";
/// The start of the line that says that a root is in place that nobody verifies.
pub const UNVERIFIED: &str = "UNVERIFIED root in place";

/// `mount`: puts the sealed root at `sysroot`, or refuses.
///
/// # Errors
/// The boot is refused: nothing is mounted at `sysroot` any more, the report says why, and so does the log.
pub fn mount(sysroot: &Path) -> Result<(), BootError> {
    let mut report = Report::default();
    mount_sealed(sysroot, &mut report).inspect_err(|error| refuse(sysroot, &mut report, error))
}

/// `early`: refuses, before any unit or shell starts, if something that nobody signed was added to the command line or the
/// initramfs. For the rest, which needs modules and the disk, [`mount()`] comes later.
///
/// # Errors
/// The boot is refused, as for [`mount()`].
pub fn early(sysroot: &Path) -> Result<(), BootError> {
    if !earlier::is_initramfs() {
        return Ok(());
    }
    look_early().inspect_err(|error| refuse_at(Moment::Early, sysroot, &mut Report::default(), error))
}

fn look_early() -> Result<(), BootError> {
    ask::look_for_additions().at(Stage::Ask)?;
    // systemd calls its generators again when units have changed things.
    if report::was_compared() {
        return Ok(());
    }
    let Some(manifest) = read::manifest().at(Stage::Ask)? else { return Ok(()) };
    manifest::compare_root(&manifest).at(Stage::Ask)?;
    report::note_comparison().at(Stage::Ask)
}

fn mount_sealed(sysroot: &Path, report: &mut Report) -> Result<(), BootError> {
    let mut recorder = Recorder::start(report);
    privileges::drop_unneeded().at(Stage::Privileges)?;
    if let Some(earlier) = EarlierReport::read().at(Stage::Earlier)? {
        match earlier.verdict() {
            Verdict::Refused => return Err(BootError::before(Stage::Earlier, earlier.reason())),
            verdict @ (Verdict::Sealed | Verdict::Unverified) if earlier::is_in_place(sysroot, &earlier) => {
                gate::compare(sysroot, earlier.mounts(), &Kernel::new()).at(Stage::Earlier)?;
                let in_place = if verdict == Verdict::Sealed { IN_PLACE } else { UNVERIFIED };
                log::info!("{in_place} already at '{}'", sysroot.display());
                return Ok(());
            }
            Verdict::Sealed | Verdict::Unverified | Verdict::NotRequested => {}
        }
    }
    let asked = ask().at(Stage::Ask)?;
    if Path::new(MANIFEST).exists() && !report::was_compared() {
        let expected = format!("it to be compared with '{MANIFEST}' before any unit");
        return Err(Refusal::of("initramfs").expected(expected).found("that it was not")).at(Stage::Ask);
    }
    let open = asked.bypasses(read::physical_filesystem(sysroot));
    recorder.report.asked(asked.secure_boot(), asked.stub().map(str::to_owned), asked.added().to_vec());
    recorder.report.decided(asked.settings().clone(), open.clone());
    let policy = match recorder.stage(Stage::Ask, || asked.decide())? {
        Decision::Seal(policy) => policy,
        Decision::NothingToDo(_) => {
            recorder.report.not_requested();
            recorder.report.write().at(Stage::Ask)?;
            log::info!("no composefs karg and policy.karg = \"optional\": nothing to do");
            return Ok(());
        }
    };
    let root = build(sysroot, &policy, &mut recorder, asked.command_line())?;
    recorder.report.write().at(Stage::Replace)?;
    warn_of_bypasses(&open);
    let (point, source) = (sysroot.display(), root.source());
    match root.origin().verification() {
        Verification::Required => log::info!("{IN_PLACE} at '{point}': {source}"),
        Verification::AllowUnverified => log::warn!(
            "{UNVERIFIED} at '{point}': {source} ('?' in the karg, policy.unverified = \"allow-without-secure-boot\", \
             and the image has no fs-verity)"
        ),
    }
    Ok(())
}

/// The flow of the crate, from the disk to /sysroot. Gives back the new root.
fn build(
    sysroot: &Path,
    policy: &Policy,
    recorder: &mut Recorder<'_>,
    command_line: &CommandLine,
) -> Result<AssembledRoot, BootError> {
    let settings = policy.settings();
    let limits = Limits::start();
    let (mounted, found) = recorder.stage(Stage::Find, || {
        let mounted = physical::open(sysroot)?;
        let found = find(&mounted, policy.images())?;
        Ok((mounted, found))
    })?;
    recorder.report.found(found.requested());
    let kernel = Kernel::new();
    let accepted = recorder.stage(Stage::Measure, || measure(&found, policy, mounted.as_fd(), &kernel, &limits))?;
    let check = *settings.check.value();
    let read_ahead = match check {
        Check::Digest => ReadAhead::Headers,
        Check::Image | Check::Objects | Check::Data => ReadAhead::Everything,
    };
    let files = WholeFiles::new();
    let mount_points = assemble::mount_points(settings);
    let (inspected, settings) = recorder.stage(Stage::LookInside, || {
        let inspected = look_inside::inspect(accepted, read_ahead, &files, &mount_points)?;
        let settings = inspected.settle(settings)?;
        Ok((inspected, settings))
    })?;
    let settings = &settings;
    recorder.report.looked_inside(inspected.format(), settings.clone());
    let look_at_objects = || objects::check(inspected, check, &mounted, &files, &limits);
    let checked = if check >= Check::Objects {
        recorder.stage(Stage::Objects, look_at_objects)?
    } else {
        look_at_objects().at(Stage::Objects)?
    };
    report::create_directory().at(Stage::Mount)?;
    let mut not_kept = EtcEntries::default();
    let mut attempt = construct(&checked, mounted.as_fd(), settings, &kernel, &mut not_kept, recorder);
    // Some kernels up to 6.18.5 count an EROFS that is mounted from a file as a level of stacking, and have none left
    // for the overlay over /etc then.
    if let Err(first) = attempt {
        attempt = if assemble::may_be_stacking(first.reason()) && kernel.fall_back_to_loop() {
            construct(&checked, mounted.as_fd(), settings, &kernel, &mut not_kept, recorder)
                .map_err(|second| first.and(&second))
        } else {
            Err(first)
        };
    }
    recorder.report.kernel(kernel.forms());
    if !not_kept.is_empty() {
        log::warn!("{}", not_kept.describe(NOT_KEPT));
        recorder.report.not_kept(not_kept);
    }
    let (mut assembled, workbench) = attempt?;
    let left_behind = assembled.take_left_behind();
    if !left_behind.is_empty() {
        log::warn!("{}", left_behind.describe(assemble::LEFT_BEHIND));
        recorder.report.left_behind(left_behind);
    }
    let proven = recorder.stage(Stage::Prove, || prove(assembled, command_line, &files))?;
    for result in [replace::link_volatile_root(mounted.as_fd(), &kernel), replace::ask_for_labels(&proven)] {
        if let Err(error) = result {
            log::warn!("{}, ignoring", chain(&error));
        }
    }
    let mounts = recorder.stage(Stage::Replace, || {
        // The kernel tells about attached mounts only: what was built on no workbench is asked about when it is in place.
        let promised = (!workbench.is_attached()).then(|| proven.root().origin());
        replace::replace(&proven, sysroot, workbench, &kernel)?;
        gate::record(sysroot, proven.root().own_mounts(), promised, &kernel)
    })?;
    recorder.report.kernel(kernel.forms());
    recorder.report.in_place(proven.root().origin().verification(), proven.init(), mounts);
    Ok(proven.into_root())
}

/// Builds the new root on a workbench of its own, which goes with it where that fails.
fn construct(
    image: &CheckedImage,
    mounted: BorrowedFd<'_>,
    settings: &Settings,
    kernel: &Kernel,
    not_kept: &mut EtcEntries,
    recorder: &mut Recorder<'_>,
) -> Result<(AssembledRoot, Workbench), BootError> {
    let (physical, workbench, detached) = recorder.stage(Stage::Mount, || {
        let physical = PhysicalRoot::new(mounted)?;
        // A transient root hides the sealed one, which is in no tree then.
        let need = if *settings.transient_root.value() { Need::Always } else { Need::IfKernelIsOlder };
        let workbench = Workbench::new(need, physical.copy(), kernel)?;
        let detached = sealed_root::mount(image, &physical, &workbench, kernel)?;
        Ok((physical, workbench, detached))
    })?;
    let assembled =
        recorder.stage(Stage::Assemble, || assemble(detached, &physical, settings, &workbench, kernel, not_kept))?;
    Ok((assembled, workbench))
}

fn warn_of_bypasses(bypasses: &[Bypass]) {
    if !bypasses.is_empty() {
        let ways: Vec<_> = bypasses.iter().map(|bypass| format!("{} ({})", bypass.name(), bypass.remedy())).collect();
        log::warn!("ways around the seal are open, with what closes each: {}", ways.join(", "));
    }
}
