//! Which processors of this machine do the work.

use anyhow::{Context, Result, bail};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// This thread, and what it starts, on one processor for as long as the value lives.
///
/// A native machine is a few threads and processes of this one, of which one runs at a time. Where the scheduler spreads
/// them, each system call in the machine waits for another processor to wake up: on idle ones that takes two to four times
/// as long, and another time in each run.
#[derive(Debug)]
pub struct Pinned {
    before: CpuSet,
}

impl Pinned {
    /// To the last of the processors that we may use: the first has more interrupts to serve.
    ///
    /// # Errors
    /// The kernel does not allow it.
    pub fn to_one() -> Result<Self> {
        let this = Pid::from_raw(0);
        let before = sched_getaffinity(this).context("the processors that we may use")?;
        for processor in (0..CpuSet::count()).rev() {
            if before.is_set(processor)? {
                let mut one = CpuSet::new();
                one.set(processor)?;
                sched_setaffinity(this, &one).with_context(|| format!("processor {processor}, alone"))?;
                return Ok(Self { before });
            }
        }
        bail!("the processors that we may use: expected some, found none")
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // It was allowed before; and what follows runs on one processor, too.
        let _ = sched_setaffinity(Pid::from_raw(0), &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_processor_is_used_until_the_end() {
        let allowed = || std::thread::available_parallelism().unwrap().get();
        let before = allowed();
        {
            let _pinned = Pinned::to_one().unwrap();
            assert_eq!(allowed(), 1);
        }
        assert_eq!(allowed(), before);
    }
}
