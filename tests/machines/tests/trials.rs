//! Runs the tests that start machines, or those whose names contain a word: `cargo test -p machines -- WORD`.
//!
//! `SEALROOT_TIER=all` adds what is run before a release only.

use std::process::ExitCode;

use anyhow::{Result, bail};
use libtest_mimic::Arguments;
use machines::cases;
use machines::trial::{Tier, Trial};

fn main() -> Result<ExitCode> {
    let mut arguments = Arguments::from_args();
    // One machine a processor.
    arguments.test_threads.get_or_insert_with(|| std::thread::available_parallelism().map_or(1, usize::from));
    let trials = cases::all(Tier::chosen()?, arguments.filter.as_deref())?;
    if let Some(word) =
        arguments.filter.as_deref().filter(|word| !trials.iter().any(|trial| trial.name().contains(word)))
    {
        bail!("no test's name contains '{word}'");
    }
    Ok(libtest_mimic::run(&arguments, trials.into_iter().map(Trial::into_libtest).collect()).exit_code())
}
