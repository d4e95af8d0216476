//! The order of the steps, for each command of the boot program, and what a refusal does.

use std::error::Error;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use thiserror::Error;

use crate::ask::{self, ask, known};
use crate::assemble::{self, AssembleError, AssembledRoot, assemble};
use crate::cmdline::CommandLine;
use crate::config::{Check, Config, OnFailure};
use crate::firmware::BootEntry;
use crate::image::{self, ReadAhead};
use crate::inputs::{self, Firmware};
use crate::manifest::{self, MANIFEST};
use crate::mount::Kernel;
use crate::mount::root::PhysicalRoot;
use crate::mount::workbench::{Need, Workbench};
use crate::objects::{self, CheckedImage};
use crate::openings::Opening;
use crate::policy::{self, Action, Decision, Policy, Settings, Verification};
use crate::prove::prove;
use crate::refusal::chain;
use crate::report::{CheckRecord, EarlierReport, Report, Verdict};
use crate::repository::Repository;
use crate::set_aside::SetAside;
use crate::stage::Stage;
use crate::unmeasured::Limits;
use crate::verify::verify;
use crate::whole_file::WholeFiles;
use crate::{action, kmsg, mount, place, privileges, report, timed, tree};

/// The start of the one line that says why a boot is refused.
pub const REFUSED: &str = "boot refused";
/// The start of the line that says that the sealed root is in place.
pub const IN_PLACE: &str = "sealed root in place";
/// The start of the line that says that a root is in place that nobody verifies.
pub const UNVERIFIED: &str = "UNVERIFIED root in place";

/// How long the reason stays on the screen before systemd has started anything: it gives its generators 90 s.
const GENERATOR_TIME: Duration = Duration::from_secs(30);
/// How long the disk may take before the reason is said.
const DETACH_TIME: Duration = Duration::from_secs(5);
/// What every initramfs of systemd's has.
const INITRD_RELEASE: &str = "/etc/initrd-release";

/// Why a boot is refused: the step, and what went wrong in it.
#[derive(Debug, Error)]
#[error("{stage}")]
pub struct BootError {
    stage: Stage,
    #[source]
    reason: Cause,
}

/// The error of a step, whichever that is.
type Cause = Box<dyn Error + Send + Sync>;

impl BootError {
    /// With the reason of a second attempt on a loop device, where that is another one.
    fn and(self, second: Self) -> Self {
        let (first, second) = (chain(&*self.reason), chain(&second));
        if second == format!("{}: {first}", self.stage) {
            return self;
        }
        Self { stage: self.stage, reason: Refusal::Twice { first, second }.into() }
    }

    fn may_be_stacking(&self) -> bool {
        self.reason.downcast_ref().is_some_and(AssembleError::may_be_stacking)
    }
}

/// What no other module's error says.
#[derive(Debug, Error)]
enum Refusal {
    #[error("refused before: {reason}")]
    Before { reason: String },
    #[error("{first}; with the image on a loop device: {second}")]
    Twice { first: String, second: String },
    #[error("no report of a sealed root: the boot program did not run, or did not finish")]
    NoReport,
    #[error("expected a sealed root, found {found}")]
    NotSealed { found: &'static str },
    #[error("expected a verdict, found none: the boot program was killed, or the physical root was never mounted")]
    NoVerdict,
    #[error("initramfs: expected it to be compared with '{MANIFEST}' before any unit, found that it was not")]
    NotCompared,
}

/// Names the stage of an error.
trait At<T> {
    fn at(self, stage: Stage) -> Result<T, BootError>;
}

impl<T, E: Into<Cause>> At<T> for Result<T, E> {
    fn at(self, stage: Stage) -> Result<T, BootError> {
        self.map_err(|reason| BootError { stage, reason: reason.into() })
    }
}

/// Runs the stages: each is timed for the report, and its error bears its name.
struct Recorder<'a> {
    report: &'a mut Report,
    since: Instant,
}

impl<'a> Recorder<'a> {
    fn start(report: &'a mut Report) -> Self {
        Self { report, since: Instant::now() }
    }

    /// One stage, with what was done since the one before.
    fn stage<T, E>(&mut self, stage: Stage, run: impl FnOnce() -> Result<T, E>) -> Result<T, BootError>
    where
        E: Into<Cause>,
    {
        let result = run().at(stage)?;
        self.passed(stage);
        Ok(result)
    }

    fn passed(&mut self, stage: Stage) {
        let now = Instant::now();
        let microseconds = u64::try_from(now.duration_since(self.since).as_micros()).unwrap_or(u64::MAX);
        self.report.checked(CheckRecord::new(stage, microseconds));
        self.since = now;
    }
}

/// `mount`: puts the sealed root at `sysroot`, or refuses.
///
/// # Errors
/// The boot is refused: nothing is mounted at `sysroot` any more, the report says why, and so does the log.
pub fn mount(sysroot: &Path) -> Result<(), BootError> {
    let mut report = Report::default();
    mount_sealed(sysroot, &mut report).inspect_err(|error| refuse(sysroot, &mut report, error))
}

/// `early`: refuses a boot whose signed image something was added to, to the command line or to the initramfs, before systemd
/// starts any unit: a shell that was asked for is not reached. For the rest, which needs modules and the disk, [`mount()`] comes later.
///
/// # Errors
/// The boot is refused, as for [`mount()`].
pub fn early(sysroot: &Path) -> Result<(), BootError> {
    if !Path::new(INITRD_RELEASE).exists() {
        return Ok(());
    }
    look_early().inspect_err(|error| refuse_at(Moment::Early, sysroot, &mut Report::default(), error))
}

/// `fsck`: remembers for the refusal to come that the check of the physical root failed. `result` is systemd's word for it
/// (`SERVICE_RESULT` of systemd.exec(5)), which it gives whenever the check has ended.
///
/// # Errors
/// It cannot be remembered.
pub fn fsck(result: Option<&str>) -> Result<(), BootError> {
    match result {
        Some(result) if result != "success" && Path::new(INITRD_RELEASE).exists() => {
            report::note_fsck(result).at(Stage::Earlier)
        }
        _ => Ok(()),
    }
}

/// `gate`: looks whether what stands at `sysroot` is still what `mount` left there.
///
/// # Errors
/// As for [`mount()`].
pub fn gate(sysroot: &Path) -> Result<(), BootError> {
    look_again(sysroot).inspect_err(|error| refuse(sysroot, &mut Report::default(), error))
}

/// `refused`: carries out what the configuration says about failures, for a run that could not do so itself: one that
/// was killed, or that never began.
///
/// # Errors
/// Always: the boot is refused.
pub fn refused(sysroot: &Path) -> BootError {
    let reason = match EarlierReport::read() {
        Ok(Some(earlier)) if earlier.verdict() == Verdict::Refused => {
            Refusal::Before { reason: earlier.reason().into() }.into()
        }
        Ok(_) => Refusal::NoVerdict.into(),
        Err(error) => error.into(),
    };
    let error = BootError { stage: Stage::Earlier, reason };
    refuse(sysroot, &mut Report::default(), &error);
    error
}

fn look_early() -> Result<(), BootError> {
    ask::look_for_additions().at(Stage::Ask)?;
    // systemd calls its generators again when units have changed things.
    if report::was_compared() {
        return Ok(());
    }
    let Some(manifest) = inputs::manifest().at(Stage::Ask)? else { return Ok(()) };
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    manifest::compare(root.at(Stage::Ask)?.as_fd(), &manifest).at(Stage::Ask)?;
    report::note_comparison().at(Stage::Ask)
}

fn mount_sealed(sysroot: &Path, report: &mut Report) -> Result<(), BootError> {
    let mut recorder = Recorder::start(report);
    privileges::drop_unneeded().at(Stage::Privileges)?;
    if let Some(earlier) = EarlierReport::read().at(Stage::Earlier)? {
        match earlier.verdict() {
            Verdict::Refused => return Err(Refusal::Before { reason: earlier.reason().into() }).at(Stage::Earlier),
            verdict @ (Verdict::Sealed | Verdict::Unverified) if is_in_place(sysroot, &earlier) => {
                tree::compare(sysroot, earlier.mounts(), &Kernel::new()).at(Stage::Earlier)?;
                let in_place = if verdict == Verdict::Sealed { IN_PLACE } else { UNVERIFIED };
                log::info!("{in_place} already at '{}'", sysroot.display());
                return Ok(());
            }
            Verdict::Sealed | Verdict::Unverified | Verdict::NotRequested => {}
        }
    }
    let asked = ask().at(Stage::Ask)?;
    if Path::new(MANIFEST).exists() && !report::was_compared() {
        return Err(Refusal::NotCompared).at(Stage::Ask);
    }
    let open = asked.openings(inputs::physical_filesystem(sysroot));
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
    warn_of_openings(&open);
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
        let mounted = place::open_physical_root(sysroot)?;
        let found = Repository::open(&mounted)?.find(policy.images())?;
        Ok::<_, Cause>((mounted, found))
    })?;
    recorder.report.found(found.requested());
    let kernel = Kernel::new();
    let accepted = recorder.stage(Stage::Measure, || verify(&found, policy, mounted.as_fd(), &kernel, &limits))?;
    let check = *settings.check.value();
    let read_ahead = match check {
        Check::Digest => ReadAhead::Headers,
        Check::Image | Check::Objects | Check::Data => ReadAhead::Everything,
    };
    let files = WholeFiles::new();
    let mount_points = assemble::mount_points(settings);
    let inspected =
        recorder.stage(Stage::LookInside, || image::inspect(accepted, read_ahead, &files, &mount_points))?;
    let look_at_objects = || objects::check(inspected, check, &mounted, &files, &limits);
    let checked = if check >= Check::Objects {
        recorder.stage(Stage::Objects, look_at_objects)?
    } else {
        look_at_objects().at(Stage::Objects)?
    };
    report::create_directory().at(Stage::Mount)?;
    let mut aside = SetAside::default();
    let mut attempt = construct(&checked, mounted.as_fd(), settings, &kernel, &mut aside, recorder);
    // Some kernels up to 6.18.5 count an EROFS that is mounted from a file as a level of stacking, and have none left
    // for the overlay over /etc then.
    if let Err(first) = attempt {
        attempt = if first.may_be_stacking() && kernel.fall_back_to_loop() {
            construct(&checked, mounted.as_fd(), settings, &kernel, &mut aside, recorder)
                .map_err(|second| first.and(second))
        } else {
            Err(first)
        };
    }
    recorder.report.kernel(kernel.forms());
    if !aside.is_empty() {
        log::warn!("{aside}");
        recorder.report.set_aside(aside);
    }
    let (assembled, workbench) = attempt?;
    let proven = recorder.stage(Stage::Prove, || prove(assembled, command_line, &files))?;
    if let Err(error) = place::link_volatile_root(mounted.as_fd(), &kernel) {
        log::warn!("{}, ignoring", chain(&error));
    }
    let mounts = recorder.stage(Stage::Replace, || {
        // The kernel tells about attached mounts only: what was built on no workbench is asked about when it is in place.
        let promised = (!workbench.is_attached()).then(|| proven.root().origin());
        place::place(&proven, sysroot, workbench)?;
        Ok::<_, Cause>(tree::record(sysroot, proven.root().own_mounts(), promised, &kernel)?)
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
    aside: &mut SetAside,
    recorder: &mut Recorder<'_>,
) -> Result<(AssembledRoot, Workbench), BootError> {
    let (physical, workbench, detached) = recorder.stage(Stage::Mount, || {
        let physical = PhysicalRoot::new(mounted)?;
        // A transient root hides the sealed one, which is in no tree then.
        let need = if *settings.transient_root.value() { Need::Always } else { Need::IfKernelIsOlder };
        let workbench = Workbench::new(need, physical.copy(), kernel)?;
        let detached = mount::root::mount(image, &physical, &workbench, kernel)?;
        Ok::<_, Cause>((physical, workbench, detached))
    })?;
    let assembled =
        recorder.stage(Stage::Assemble, || assemble(detached, &physical, settings, &workbench, kernel, aside))?;
    Ok((assembled, workbench))
}

/// The mount at `sysroot` is the one that an earlier run reported. Another one, after a restart of sysroot.mount, is
/// a new physical root: it gets all the checks. (Where identifiers are used again, it can also look like the old one,
/// changed: a refusal.)
fn is_in_place(sysroot: &Path, earlier: &EarlierReport) -> bool {
    match (tree::root_id(sysroot, &Kernel::new()), earlier.mounts().first()) {
        (Ok(id), Some(root)) => id == root.id(),
        _ => false,
    }
}

fn look_again(sysroot: &Path) -> Result<(), BootError> {
    privileges::drop_unneeded().at(Stage::Privileges)?;
    let earlier = EarlierReport::read().at(Stage::Gate)?.ok_or(Refusal::NoReport).at(Stage::Gate)?;
    let compare = || tree::compare(sysroot, earlier.mounts(), &Kernel::new()).at(Stage::Gate);
    match earlier.verdict() {
        Verdict::Sealed => compare(),
        Verdict::Refused => Err(Refusal::Before { reason: earlier.reason().into() }).at(Stage::Gate),
        // The report alone does not open the gate: what it says must follow from the inputs once more.
        Verdict::Unverified => match decide_again()? {
            Decision::Seal(policy) if policy.verification() == Verification::AllowUnverified => compare(),
            _ => Err(Refusal::NotSealed { found: "a report of an unverified one" }).at(Stage::Gate),
        },
        Verdict::NotRequested => match decide_again()? {
            Decision::NothingToDo(_) => Ok(()),
            Decision::Seal(_) => Err(Refusal::NotSealed { found: "a report that none was asked for" }).at(Stage::Gate),
        },
    }
}

fn decide_again() -> Result<Decision, BootError> {
    ask().and_then(|asked| asked.decide()).at(Stage::Gate)
}

fn warn_of_openings(openings: &[Opening]) {
    if !openings.is_empty() {
        let ways: Vec<_> =
            openings.iter().map(|opening| format!("{} ({})", opening.name(), opening.remedy())).collect();
        log::warn!("ways around the seal are open, with what closes each: {}", ways.join(", "));
    }
}

/// Takes away what could be booted, leaves the reason where it will be looked for, and does what is to follow. Where the
/// machine is to stop this does not come back.
fn refuse(sysroot: &Path, report: &mut Report, error: &BootError) {
    refuse_at(Moment::Late, sysroot, report, error);
}

/// When a boot is refused.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// By a generator, which systemd waits for only so long, and whose exit status it ignores.
    Early,
    /// By a unit.
    Late,
}

/// The same at a certain moment.
fn refuse_at(moment: Moment, sysroot: &Path, report: &mut Report, error: &BootError) {
    // The first refusal of a boot is the one whose report stays. It was said loud enough, and had its time on the screen.
    let repeated = matches!(error.reason.downcast_ref(), Some(Refusal::Before { .. }));
    let mut reason = chain(error);
    if let (false, Some(result)) = (repeated, report::failed_fsck()) {
        reason = format!("{reason}; before, systemd-fsck-root.service failed: {result}");
    }
    detach(sysroot);
    log::error!("{REFUSED}: {reason}");
    let (on_failure, delay) = failure_settings(report);
    let entry = match on_failure {
        OnFailure::Auto => known(Firmware::open().and_then(|firmware| firmware.boot_entry())).flatten(),
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
        let next = announce(action, delay, entry.as_ref());
        log::error!(target: kmsg::EMERGENCY, "{REFUSED}: {reason}; {next}");
    }
    if let Err(error) = action::carry_out(action, delay, &format!("{REFUSED}: {reason}")) {
        log::error!("{}: {error}", action.name());
    }
}

/// Takes what is mounted there out of sight. The filesystem may then have to end its work on the disk, which is waited for
/// only a while.
fn detach(sysroot: &Path) {
    let (point, path) = (sysroot.display(), sysroot.to_owned());
    match timed::within(DETACH_TIME, move || mount::detach_all(&path)) {
        Some(Ok(())) => {}
        Some(Err(error)) => log::error!("'{point}': could not be detached: {error}"),
        None => log::warn!("'{point}': expected the disk to answer within {} s, ignoring", DETACH_TIME.as_secs()),
    }
}

/// What the configuration says about refusals, whatever is wrong with the rest of it; where that cannot be read, the
/// defaults.
fn failure_settings(report: &Report) -> (OnFailure, u8) {
    let read = || {
        let ours = known(inputs::config_on_refusal()).unwrap_or_default();
        Settings::resolve(ours, Config::default(), &CommandLine::split(b""))
    };
    let settings = report.settings().cloned().unwrap_or_else(read);
    (*settings.on_failure.value(), *settings.failure_delay.value())
}

/// What follows a refusal, for people.
fn announce(action: Action, delay: Duration, entry: Option<&BootEntry>) -> String {
    let seconds = delay.as_secs();
    match (action, entry) {
        (Action::Emergency, _) => "emergency mode follows".into(),
        (Action::Reboot, Some(entry)) => {
            format!("reboot in {seconds} s, tries left of boot entry '{}': {}", entry.path(), entry.tries().left)
        }
        _ => format!("{} in {seconds} s", action.name()),
    }
}
