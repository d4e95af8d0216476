//! Runs a stage, times it, and names its error.

use std::fmt;
use std::time::Instant;

use crate::boot::report::{CheckRecord, Report};
use crate::boot::stage::Stage;
use crate::refusal::{Refusal, chain};

/// Why a boot is refused: the stage, and what went wrong in it.
#[derive(Debug)]
pub struct BootError {
    stage: Stage,
    reason: Refusal,
    told: Told,
}

/// Whether a reason was told before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// By nobody.
    Never,
    /// By an earlier run in this boot.
    Before,
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.stage.fmt(f)
    }
}

impl std::error::Error for BootError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.reason)
    }
}

impl BootError {
    /// A refusal in this run.
    pub(super) fn new(stage: Stage, reason: Refusal) -> Self {
        Self { stage, reason, told: Told::Never }
    }

    /// What an earlier run in this boot was refused for.
    pub(super) fn before(stage: Stage, reason: &str) -> Self {
        Self { stage, reason: Refusal::of(format!("refused before: {reason}")), told: Told::Before }
    }

    /// Whether its reason was told before.
    pub(super) fn told(&self) -> Told {
        self.told
    }

    /// What went wrong.
    pub(super) fn reason(&self) -> &Refusal {
        &self.reason
    }

    /// With the reason of a second attempt on a loop device, where that is another one.
    pub(super) fn and(self, second: &Self) -> Self {
        let (first, second) = (chain(&self.reason), chain(second));
        if second == format!("{}: {first}", self.stage) {
            return self;
        }
        Self { reason: Refusal::of(format!("{first}; with the image on a loop device: {second}")), ..self }
    }
}

/// Names the stage of a refusal.
pub(super) trait At<T> {
    fn at(self, stage: Stage) -> Result<T, BootError>;
}

impl<T> At<T> for Result<T, Refusal> {
    fn at(self, stage: Stage) -> Result<T, BootError> {
        self.map_err(|reason| BootError::new(stage, reason))
    }
}

/// Runs the stages: each is timed for the report, and its error bears its name.
pub(super) struct Recorder<'a> {
    pub(super) report: &'a mut Report,
    since: Instant,
}

impl<'a> Recorder<'a> {
    pub(super) fn start(report: &'a mut Report) -> Self {
        Self { report, since: Instant::now() }
    }

    /// One stage, with what was done since the one before.
    pub(super) fn stage<T>(&mut self, stage: Stage, run: impl FnOnce() -> Result<T, Refusal>) -> Result<T, BootError> {
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
