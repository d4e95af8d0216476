//! The machines that something is measured in.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::ValueEnum;
use machines::builders;
use machines::guest::{self, Guest};
use machines::native::Drive;

use crate::affinity::Pinned;

/// The two kinds of machine: what hashing costs, for one, is very different in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// User Mode Linux: at the processor's own speed, where system calls cost more than they do on a real machine.
    Native,
    /// QEMU without KVM: Debian's own kernel, and all of it many times slower.
    Emulated,
}

impl Kind {
    /// What it is called in a table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native machine",
            Self::Emulated => "emulated machine",
        }
    }

    /// What it is called in JSON.
    pub fn key(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Emulated => "emulated",
        }
    }

    /// A partition of the first disk.
    pub fn partition(self, number: u32) -> String {
        let disk = match self {
            Self::Native => "/dev/ubda",
            Self::Emulated => "/dev/vda",
        };
        format!("{disk}{number}")
    }

    /// How many processors the machines have, one after the other. Two of a native machine gain nothing: they spend it on
    /// waking each other.
    pub fn processors(self) -> &'static [u32] {
        match self {
            Self::Native => &[1],
            Self::Emulated => &[1, 2],
        }
    }

    /// Whether it knows how long a process had a processor: a native one counts ticks of 10 ms, longer than most starts.
    pub fn times_processes(self) -> bool {
        self == Self::Emulated
    }

    /// What holds for as long as one of its machines runs, and the value lives: a native one has a processor for itself.
    ///
    /// # Errors
    /// The kernel does not allow it.
    pub fn pinned(self) -> Result<Option<Pinned>> {
        match self {
            Self::Native => Pinned::to_one().map(Some),
            Self::Emulated => Ok(None),
        }
    }

    fn guest(self, kernel: &str) -> guest::Kind {
        match self {
            Self::Native => guest::Kind::Native(kernel.to_owned()),
            Self::Emulated => guest::Kind::Emulated(kernel.to_owned()),
        }
    }
}

/// A script in a machine with one disk.
#[derive(Clone, Debug)]
pub struct Job<'a> {
    /// In which kind of machine.
    pub kind: Kind,
    /// The name of its kernel.
    pub kernel: &'a str,
    /// Its disk.
    pub disk: Drive,
    /// What of this machine is where in that one.
    pub files: Vec<(PathBuf, String)>,
    /// The processors.
    pub cpus: u32,
    /// What the clocks count.
    pub clock: Clock,
    /// When it counts as hung.
    pub limit: Duration,
}

/// What a machine's clocks count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// Time.
    Time,
    /// Instructions, a nanosecond each: with one processor, and emulated.
    Instructions,
}

impl Job<'_> {
    /// Runs a script for busybox's shell, with variables, and gives what it prints.
    ///
    /// # Errors
    /// The machine does not start, or the script does not end with status 0 in time.
    pub fn run(&self, script: &str, variables: &[(&str, &str)]) -> Result<String> {
        let log = builders::logs("benches")?.join(format!("{}-{}", self.kind.key(), self.kernel));
        let guest = Guest {
            files: self.files.clone(),
            drives: vec![self.disk.clone()],
            environment: variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
            memory: 2048,
            cpus: self.cpus,
            limit: self.limit,
            instruction_clock: self.clock == Clock::Instructions,
            ..Guest::new(self.kind.guest(self.kernel), log)
        };
        let _pinned = self.kind.pinned()?;
        let output = guest.run(&["sh", "-ec", script], &mut guest::silently)?;
        ensure!(
            output.status == 0,
            "a script in the {}: expected status 0, found {}:\n{}",
            self.kind.name(),
            output.status,
            end_of(&output.text)
        );
        // A native machine ends with an empty line.
        Ok(output.text.trim_end().to_owned())
    }
}

/// The last lines of a text.
fn end_of(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}
