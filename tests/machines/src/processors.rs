//! Which processor a native machine runs on.

use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

static MACHINES: Mutex<Vec<usize>> = Mutex::new(Vec::new());

/// A processor for one machine, as long as the value lives: of those that we may use, one that the fewest machines have.
///
/// A native machine is a few processes of which one runs at a time. Where the scheduler spreads them, each system call in the
/// machine waits for another processor to wake up, which takes twice as long.
#[derive(Debug)]
pub struct Processor(usize);

impl Processor {
    /// Takes one.
    ///
    /// # Errors
    /// The kernel does not say which there are.
    pub fn take() -> Result<Self> {
        let allowed = sched_getaffinity(Pid::from_raw(0)).context("the processors that we may use")?;
        let mut machines = MACHINES.lock().unwrap_or_else(PoisonError::into_inner);
        machines.resize(CpuSet::count(), 0);
        let usable = (0..CpuSet::count()).filter(|number| allowed.is_set(*number).unwrap_or(false));
        let number = usable.min_by_key(|number| machines[*number]).context("expected a processor, found none")?;
        machines[number] += 1;
        Ok(Self(number))
    }

    /// As `taskset` takes it.
    pub fn number(&self) -> String {
        self.0.to_string()
    }
}

impl Drop for Processor {
    fn drop(&mut self) {
        MACHINES.lock().unwrap_or_else(PoisonError::into_inner)[self.0] -= 1;
    }
}
