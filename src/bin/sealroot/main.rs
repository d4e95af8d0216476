//! The command for people: asks, checks and prepares what the boot program decides on.

mod arguments;
mod booted;
mod catalog;
mod complete;
mod contents;
mod deployment;
mod digest;
#[cfg(test)]
mod documents;
mod enable;
mod entry;
mod image_file;
mod inspect;
mod karg;
mod keep;
mod manifest;
mod measure;
mod output;
mod overrides;
mod parallel;
mod probe;
mod shipped;
mod signature;
mod status;
mod uki;
mod verify;

use std::process::ExitCode;

use clap::Parser;

use arguments::{Arguments, Command};
use output::{Failure, Finding, Output};

fn main() -> ExitCode {
    let Arguments { json, command } = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) if error.use_stderr() => return output::misused(&error.render().to_string()),
        Err(help) => help.exit(),
    };
    let output = Output::new(json, command.name());
    let found = match command {
        Command::Digest(arguments) => boxed(digest::run(&arguments)),
        Command::Enable(arguments) => boxed(enable::run(&arguments)),
        Command::Inspect(arguments) => boxed(inspect::run(&arguments)),
        Command::Karg(arguments) => boxed(karg::run(&arguments)),
        Command::Keep(_) => boxed(keep::run()),
        Command::Manifest(arguments) => boxed(manifest::run(&arguments)),
        Command::Probe(arguments) => boxed(probe::run(&arguments)),
        Command::Status(_) => boxed(status::run()),
        Command::Uki(arguments) if arguments.dbx => boxed(uki::forbid(&arguments)),
        Command::Uki(arguments) => boxed(uki::run(&arguments)),
        Command::Verify(arguments) => boxed(verify::run(&arguments)),
    };
    output.give(found)
}

/// What a subcommand found, as the one thing that all of them give.
fn boxed<F: Finding + 'static>(found: Result<F, Failure>) -> Result<Box<dyn Finding>, Failure> {
    found.map(|found| Box::new(found) as Box<dyn Finding>)
}
