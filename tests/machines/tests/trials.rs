//! Runs the tests that start machines, or those whose names contain a word: `cargo test -p machines -- WORD`.
//!
//! `SEALROOT_TIER=all` adds what is run before a release only.

use std::process::ExitCode;

use libtest_mimic::Arguments;
use machines::cases;
use machines::trial::Tier;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    let tier = match Tier::chosen() {
        Ok(tier) => tier,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    // One machine a processor.
    arguments.test_threads.get_or_insert_with(|| std::thread::available_parallelism().map_or(1, usize::from));
    let trials = cases::all().into_iter().filter(|trial| trial.is_in(tier)).map(machines::trial::Trial::into_libtest);
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}
