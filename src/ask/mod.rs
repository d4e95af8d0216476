//! What is asked of a boot: all inputs, each read once, and what was added to the signed ones refused.

pub mod added;
pub mod bypasses;
pub mod cmdline;
pub mod config;
pub mod firmware;
pub mod keep;
pub mod manifest;
pub mod policy;
pub mod read;
pub mod stub;

use std::path::Path;

use crate::refusal::{Refusal, chain};
use added::AddedString;
use bypasses::{Boot, Bypass, PhysicalFilesystem};
use cmdline::CommandLine;
use config::FirmwareStrings;
use firmware::SecureBoot;
use policy::{Decision, Resolved, Settings};
use read::Firmware;
use stub::Stub;

/// Everything that decides, from the signed image and from the firmware.
#[derive(Debug)]
pub struct Asked {
    resolved: Resolved,
    secure_boot: SecureBoot,
    stub: Option<String>,
    added: Vec<AddedString>,
}

/// Reads all inputs.
///
/// # Errors
/// One cannot be read, or something was added to what was signed.
pub fn ask() -> Result<Asked, Refusal> {
    let command_line = read::command_line()?;
    let (ours, theirs) = read::configs()?;
    if let Some(unknown) = theirs.describe_unknown() {
        log::warn!("{unknown}, ignoring");
    }
    let resolved = Resolved::new(command_line, ours, theirs);
    let firmware = or_warn(Firmware::open());
    // What cannot be read is no state, which is enough unless one is required.
    let secure_boot = firmware.as_ref().and_then(|firmware| or_warn(firmware.secure_boot()));
    let added = added(&resolved)?;
    let stub = firmware.and_then(|firmware| or_warn(firmware.stub()).flatten());
    Ok(Asked { resolved, secure_boot: secure_boot.unwrap_or(SecureBoot::Unknown), stub, added })
}

/// Looks only at what was added to the signed image, which is a refusal; for the first moment of a boot.
///
/// # Errors
/// Something was added, or what might be cannot be read.
pub fn look_for_additions() -> Result<(), Refusal> {
    let command_line = read::command_line()?;
    // What is wrong with the configuration, the boot program says. Meanwhile the strict defaults hold.
    let (ours, theirs) = read::configs().unwrap_or_default();
    let resolved = Resolved::new(command_line, ours, theirs);
    policy::judge_added(&resolved, &added(&resolved)?)?;
    judge_as_signed(resolved.command_line())
}

/// Looks only at the configuration, of the initramfs whose files are at `root`; for whoever builds one. Gives what is ignored.
///
/// # Errors
/// A file cannot be read or is wrong, or settings contradict each other.
pub fn check_config(root: &Path) -> Result<Option<String>, Refusal> {
    let (ours, theirs) = read::configs_of(root)?;
    let unknown = theirs.describe_unknown();
    policy::judge_settings(Resolved::new(CommandLine::default(), ours, theirs).settings())?;
    Ok(unknown)
}

/// The input, or `None` and a warning when it cannot be read.
pub fn or_warn<T>(input: Result<T, Refusal>) -> Option<T> {
    input.inspect_err(|error| log::warn!("{}, ignoring", chain(error))).ok()
}

/// What the machine's set-up adds. If that is a refusal, so is what cannot be read.
fn added(resolved: &Resolved) -> Result<Vec<AddedString>, Refusal> {
    policy::judge_hiding(resolved)?;
    match resolved.settings().firmware_strings.value() {
        FirmwareStrings::Refuse => read::added(),
        FirmwareStrings::Report => Ok(or_warn(read::added()).unwrap_or_default()),
    }
}

/// If the initramfs says what the signed command line is, this must be it.
fn judge_as_signed(command_line: &CommandLine) -> Result<(), Refusal> {
    match read::signed_command_lines()? {
        Some(signed) => policy::judge_command_line(command_line, &signed),
        None => Ok(()),
    }
}

impl Asked {
    /// The kernel command line.
    pub fn command_line(&self) -> &CommandLine {
        self.resolved.command_line()
    }

    /// Every setting.
    pub fn settings(&self) -> &Settings {
        self.resolved.settings()
    }

    /// The firmware's state.
    pub fn secure_boot(&self) -> SecureBoot {
        self.secure_boot
    }

    /// The boot stub, by its own name.
    pub fn stub(&self) -> Option<&str> {
        self.stub.as_deref()
    }

    /// What the machine's set-up adds.
    pub fn added(&self) -> &[AddedString] {
        &self.added
    }

    /// What stays open, with a physical root of this kind.
    pub fn bypasses(&self, filesystem: PhysicalFilesystem) -> Vec<Bypass> {
        bypasses::find(&Boot {
            resolved: &self.resolved,
            lockdown: read::lockdown(),
            secure_boot: self.secure_boot,
            stub: self.stub().map(Stub::named),
            filesystem,
        })
    }

    /// What follows from it.
    ///
    /// # Errors
    /// It contradicts itself, or something in it is not allowed.
    pub fn decide(&self) -> Result<Decision, Refusal> {
        let decision = policy::decide(&self.resolved, self.secure_boot, &self.added);
        judge_as_signed(self.resolved.command_line())?;
        decision
    }
}
