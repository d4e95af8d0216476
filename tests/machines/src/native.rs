//! Native machines: User Mode Linux, at the processor's own speed, for whoever starts it. No firmware, no TPM, no SMBIOS.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::builders;
use crate::process::Machine;
use crate::processors::Processor;

/// The kernels that tests run on; the first is the one where any would do.
pub const RELEASES: [&str; 2] = ["newest", "6.12"];

/// One start of a native machine.
#[derive(Debug)]
pub struct Native<'a> {
    /// One of [`RELEASES`].
    pub kernel: &'a str,
    /// In MiB.
    pub memory: u32,
    /// Its processors; more than one takes a kernel that can (`newest`).
    pub cpus: u32,
    /// What the kernel unpacks.
    pub initramfs: &'a Path,
    /// `/dev/ubda`, `/dev/ubdb`, …
    pub drives: &'a [Drive],
    /// What the command line has beside what the machine needs.
    pub arguments: &'a [String],
    /// For files of its own, such as its memory.
    pub scratch: &'a Path,
}

/// A disk of a machine.
#[derive(Clone, Debug)]
pub struct Drive {
    /// The image, raw.
    pub file: PathBuf,
    /// Whether the machine may write to it. Others may use it at the same time where not.
    pub writable: bool,
}

impl Native<'_> {
    /// The command that starts it. It bounds itself, should whoever started it be killed.
    ///
    /// # Errors
    /// The kernel cannot be built.
    pub fn command(&self, limit: Duration) -> Result<Machine> {
        let kernel = builders::built("native-kernel", &[self.kernel])?;
        let mut command = Command::new("timeout");
        command.args(["--foreground", "-k", "5", &(limit.as_secs() + 10).to_string()]);
        let processor = (self.cpus == 1).then(Processor::take).transpose()?;
        if let Some(processor) = &processor {
            command.args(["taskset", "-c", &processor.number()]);
        }
        command.arg(kernel.join("linux"));
        command.env("TMPDIR", self.scratch);
        for (letter, drive) in self.drives.iter().enumerate() {
            // `c`: without a lock on the file.
            let flags = if drive.writable { "" } else { "rc" };
            command.arg(format!("ubd{letter}{flags}={}", text(&drive.file)?));
        }
        // Before Linux 6.16 there is no seccomp=; it is taken for a variable of init's.
        command.arg("seccomp=on").arg(format!("mem={}M", self.memory)).arg(format!("initrd={}", text(self.initramfs)?));
        if self.cpus > 1 {
            command.arg(format!("ncpus={}", self.cpus));
        }
        command.args([
            "con=null",
            "con0=fd:0,fd:1",
            "ssl=null",
            "ssl0=null,fd:2",
            "console=tty0",
            "panic=-1",
            "oops=panic",
        ]);
        command.args(self.arguments);
        Ok(Machine { command, processor })
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("'{}': expected a path that is text", path.display()))
}
