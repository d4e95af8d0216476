//! A job in a small machine of busybox and a kernel, native or emulated: its output, and its exit status.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::archive::{self, Archive};
use crate::builders;
use crate::emulated::Emulated;
use crate::native::{Drive, Native};
use crate::process::{self, Ended, Listener, Machine, Next};

/// Which machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A native one, with a kernel of [`crate::native::RELEASES`].
    Native(String),
    /// An emulated one, with a kernel of `qemu/kernel`.
    Emulated(String),
}

/// A job for a machine.
#[derive(Debug)]
pub struct Guest {
    /// Where it runs.
    pub kind: Kind,
    /// Files of this machine and where they are in the guest.
    pub files: Vec<(PathBuf, String)>,
    /// Native: `/dev/ubda`, …; emulated: `/dev/vda`, ….
    pub drives: Vec<Drive>,
    /// Variables of the job.
    pub environment: Vec<(String, String)>,
    /// In MiB.
    pub memory: u32,
    /// How many processors.
    pub cpus: u32,
    /// After which it is ended.
    pub limit: Duration,
    /// Emulated only: its clocks count instructions, a nanosecond each.
    pub instruction_clock: bool,
    /// Where the console is kept.
    pub log: PathBuf,
}

/// What came of a job.
#[derive(Debug)]
pub struct Output {
    /// Its exit status.
    pub status: i32,
    /// What it wrote to its standard output and standard error.
    pub text: String,
    /// The kernel's log.
    pub console: String,
}

impl Guest {
    /// A job with 1 GiB, one processor and ten minutes.
    pub fn new(kind: Kind, log: PathBuf) -> Self {
        let limit = Duration::from_secs(600);
        Self {
            kind,
            files: Vec::new(),
            drives: Vec::new(),
            environment: Vec::new(),
            memory: 1024,
            cpus: 1,
            limit,
            instruction_clock: false,
            log,
        }
    }

    /// Runs it. `hear` gets what it writes, as it comes.
    ///
    /// # Errors
    /// The machine did not come to the end of its job: a panic, a time-out, or it cannot be started.
    pub fn run(&self, job: &[&str], hear: &mut dyn FnMut(&str)) -> Result<Output> {
        let scratch = builders::scratch()?;
        let initramfs = scratch.path().join("initramfs");
        let base = match &self.kind {
            Kind::Native(_) => builders::built("guest", &[])?,
            Kind::Emulated(kernel) => builders::built("guest", &[kernel])?,
        };
        let base = fs::read(&base).with_context(|| base.display().to_string())?;
        archive::join(&[base, self.archive(job)?.finish()?], &initramfs)?;
        let command = self.command(&initramfs, scratch.path())?;
        let mut log = std::fs::File::create(&self.log).with_context(|| self.log.display().to_string())?;
        let mut heard = Heard { console: String::new(), output: Vec::new(), started: false, shown: 0, hear };
        let ended = process::run(command, self.limit, &mut log, &mut heard)?;
        let text = String::from_utf8_lossy(&heard.output).into_owned();
        let status = heard.console.lines().find_map(|line| line.strip_prefix("guest: status ")?.trim().parse().ok());
        match (status, ended) {
            (Some(status), Ended::Stopped | Ended::Exited(_)) => Ok(Output { status, text, console: heard.console }),
            (_, Ended::TimedOut) => bail!("the guest still ran after {} s: {}", self.limit.as_secs(), self.tail(&text)),
            _ => bail!("the guest ended without a status ({ended:?}): {}", self.tail(&heard.console)),
        }
    }

    fn tail(&self, text: &str) -> String {
        let lines: Vec<_> = text.lines().collect();
        format!("{}\n{}", self.log.display(), lines[lines.len().saturating_sub(20)..].join("\n"))
    }

    fn command(&self, initramfs: &Path, scratch: &Path) -> Result<Machine> {
        match &self.kind {
            Kind::Native(kernel) => {
                ensure!(!self.instruction_clock, "a native machine does not count instructions");
                // A native kernel thinks that it has root=, with which its first root would be a ramfs.
                let arguments = ["guest_output=/dev/ttyS0", "rootfstype=tmpfs", "loglevel=6", "printk.devkmsg=on"];
                let arguments = arguments.map(str::to_owned);
                Native {
                    kernel,
                    memory: self.memory,
                    cpus: self.cpus,
                    initramfs,
                    drives: &self.drives,
                    arguments: &arguments,
                    scratch,
                }
                .command(self.limit)
            }
            Kind::Emulated(kernel) => Emulated {
                kernel,
                memory: self.memory,
                cpus: self.cpus,
                initramfs,
                drives: &self.drives,
                instruction_clock: self.instruction_clock,
            }
            .command(self.limit)
            .map(Machine::from),
        }
    }

    /// What the initramfs has beside the usual: the files, and the job.
    fn archive(&self, job: &[&str]) -> Result<Archive> {
        let mut archive = Archive::default();
        for (from, path) in &self.files {
            archive.file(from, path)?;
        }
        let mut script = "#!/bin/sh\n".to_owned();
        for (name, value) in &self.environment {
            script += &format!("export {name}={}\n", quoted(value));
        }
        let words: Vec<_> = job.iter().map(|word| quoted(word)).collect();
        script += &format!("exec {}\n", words.join(" "));
        archive.text("job", script.as_bytes(), 0o755)?;
        Ok(archive)
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

struct Heard<'a> {
    console: String,
    output: Vec<u8>,
    started: bool,
    shown: usize,
    hear: &'a mut dyn FnMut(&str),
}

impl Listener for Heard<'_> {
    fn console(&mut self, text: &str) -> Next {
        self.console.push_str(text);
        Next::GoOn
    }

    fn output(&mut self, bytes: &[u8]) {
        self.output.extend_from_slice(bytes);
        // A native machine says on its standard error what it finds on the machine that it runs on.
        if !self.started {
            let Some(start) = find(&self.output, b"guest: output\n") else { return };
            self.output.drain(..start + b"guest: output\n".len());
            self.started = true;
        }
        // Line by line.
        if let Some(end) = self.output.iter().rposition(|byte| *byte == b'\n').filter(|end| *end >= self.shown) {
            (self.hear)(&String::from_utf8_lossy(&self.output[self.shown..=end]));
            self.shown = end + 1;
        }
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// Says nothing of what a job writes.
pub fn silently(_: &str) {}

/// Shows what a job writes.
pub fn shown(text: &str) {
    use io::Write;
    // Whoever closed standard output does not want to read this.
    let _ = io::stdout().write_all(text.as_bytes());
}
