//! Measures sealroot's programs beside others that do the same, in turn (A B A B …), and prints tables for docs/performance.md.

mod affinity;
mod boot;
mod cache;
mod digest;
mod growth;
mod machine;
mod meter;
mod pairs;
mod process;
mod programs;
mod start;
mod statistics;
mod table;
mod verify;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};

use crate::machine::Kind;
use crate::table::{Printer, Table};

/// Measures sealroot's programs beside others that do the same, in turn (A B A B …).
///
/// Figures are medians; a ratio is the median of the pairs' ratios, with the lowest and the highest (start: the quartiles).
/// Needs root.
#[derive(Parser)]
#[command(name = "benches")]
struct Arguments {
    /// Print one array with an object for each row: times in seconds, memory in KiB; complete where the status is 0
    #[arg(long)]
    json: bool,
    /// The machines to measure in
    #[arg(long, value_name = "KIND", default_value = "native")]
    machine: Machines,
    /// The kernel of the machines: newest or 6.12, and emulated any of qemu/kernel --list
    #[arg(long, value_name = "NAME", default_value = "newest")]
    kernel: String,
    /// How often each runs [default: digest, verify: 11; start: 40; growth: 7; boot: 5]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// What to measure [default: all]
    parts: Vec<Part>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Machines {
    /// User Mode Linux
    Native,
    /// QEMU
    Emulated,
    /// One after the other
    Both,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Part {
    /// `sealroot digest`, `fsverity digest` and `openssl dgst` on this machine itself, with one and with two processors
    Digest,
    /// `sealroot verify --all` and composefs-rs's check of a repository, the page cache empty and full, with one processor
    /// and emulated also with two
    Verify,
    /// The boot program, the peer composefs-setup-root (default build and static build) and a floor that makes the
    /// system calls of the mount and checks nothing, the page cache full and empty. Instructions are those of the
    /// process, in the program and in the kernel for it, on an emulated processor whose clock counts them. Neither they
    /// nor CPU times have what the kernel does in threads of its own, such as hashing what was read from the disk
    Start,
    /// The boot program with each `check` on images of 10 to 1,000,000 files, the page cache empty and full, with one
    /// processor and emulated also with two; `check = "objects"` a third as often
    Growth,
    /// From the machine's start to switch-root, and reading files back afterwards: a sealed root, the same Debian on
    /// dm-verity, and on plain ext4; emulated under firmware with Secure Boot and with Debian's own kernel
    Boot,
}

impl Machines {
    fn kinds(self) -> &'static [Kind] {
        match self {
            Self::Native => &[Kind::Native],
            Self::Emulated => &[Kind::Emulated],
            Self::Both => &[Kind::Native, Kind::Emulated],
        }
    }
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Digest => "digest",
            Self::Verify => "verify",
            Self::Start => "start",
            Self::Growth => "growth",
            Self::Boot => "boot",
        }
    }

    /// How often each program runs.
    fn usual_rounds(self) -> u32 {
        match self {
            Self::Digest | Self::Verify => 11,
            Self::Start => 40,
            Self::Growth => 7,
            Self::Boot => 5,
        }
    }

    fn bench(self, kind: Kind, kernel: &str, rounds: u32) -> Result<Vec<Table>> {
        match self {
            Self::Digest => digest::bench(rounds),
            Self::Verify => verify::bench(kind, kernel, rounds),
            Self::Start => start::bench(kind, kernel, rounds),
            Self::Growth => growth::bench(kind, kernel, rounds),
            Self::Boot => boot::bench(kind, kernel, rounds),
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let to = io::stdout().lock();
    let printer = if arguments.json { Printer::json(to) } else { Printer::tables(to) };
    match bench(&arguments, printer) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("benches: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench(arguments: &Arguments, mut printer: Printer<impl Write>) -> Result<()> {
    let parts = if arguments.parts.is_empty() { Part::value_variants() } else { &arguments.parts };
    for part in parts {
        // No machine is started for a digest.
        let kinds = if *part == Part::Digest { &[Kind::Native] } else { arguments.machine.kinds() };
        for kind in kinds {
            let rounds = arguments.rounds.unwrap_or_else(|| part.usual_rounds());
            let tables = part.bench(*kind, &arguments.kernel, rounds).with_context(|| part.name())?;
            for table in &tables {
                printer.print(table)?;
            }
        }
    }
    Ok(printer.end()?)
}
