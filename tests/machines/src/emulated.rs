//! Emulated machines without firmware: QEMU with one of Debian's own kernels, x86-64 or arm64.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::builders;
use crate::native::Drive;

/// One start of such a machine. Its console is its first serial port, the job's output the second.
#[derive(Debug)]
pub struct Emulated<'a> {
    /// One of `qemu/kernel`.
    pub kernel: &'a str,
    /// In MiB.
    pub memory: u32,
    /// How many processors.
    pub cpus: u32,
    /// What the kernel unpacks.
    pub initramfs: &'a Path,
    /// `/dev/vda`, `/dev/vdb`, …
    pub drives: &'a [Drive],
    /// Whether its clocks count instructions.
    pub instruction_clock: bool,
}

/// A kernel of `qemu/kernel --list`.
#[derive(Clone, Debug)]
pub struct Known {
    /// Its name.
    pub name: String,
    /// `amd64` or `arm64`.
    pub architecture: String,
    /// Which guest tests are meant for it: those of one module, or `all` that are in none of those modules.
    pub tests: String,
}

/// The kernels that can be emulated.
///
/// # Errors
/// The script fails.
pub fn kernels() -> Result<Vec<Known>> {
    let list = builders::built("kernel", &["--list"])?;
    let list = list.to_str().context("a list that is text")?.to_owned();
    let known = |line: &str| match line.split_whitespace().collect::<Vec<_>>()[..] {
        [name, architecture, tests] => {
            Ok(Known { name: name.into(), architecture: architecture.into(), tests: tests.into() })
        }
        _ => bail!("qemu/kernel --list: expected three words, found '{line}'"),
    };
    list.lines().map(known).collect()
}

/// What QEMU is told about the processor. QEMU 7.2 emulates cmpxchg16b wrongly (stale flags, so that the kernel's allocator
/// now and then runs into a debug trap): the emulated processor does without.
pub fn processor(cpus: u32, counted: bool) -> Vec<String> {
    let thread = if counted { "single" } else { "multi" };
    let mut options = vec!["-accel".into(), format!("tcg,thread={thread}"), "-cpu".into(), "max,-cx16,-la57".into()];
    options.extend(["-smp".into(), cpus.to_string()]);
    options
}

impl Emulated<'_> {
    /// The command that starts it.
    ///
    /// # Errors
    /// The kernel cannot be had, or there is none of that name.
    pub fn command(&self, limit: Duration) -> Result<Command> {
        let known = kernels()?.into_iter().find(|known| known.name == self.kernel);
        let known = known.with_context(|| format!("no kernel named '{}'", self.kernel))?;
        let kernel = builders::built("kernel", &[self.kernel])?;
        let mut command = Command::new("timeout");
        command.args(["--foreground", "-k", "5", &(limit.as_secs() + 10).to_string()]);
        let console = match known.architecture.as_str() {
            "amd64" => {
                command.args(["qemu-system-x86_64", "-M", "q35"]).args(processor(self.cpus, self.instruction_clock));
                command.args(["-serial", "chardev:console", "-serial", "chardev:output"]);
                ["console=ttyS0", "guest_output=/dev/ttyS1"]
            }
            "arm64" => {
                command.args(["qemu-system-aarch64", "-M", "virt", "-accel", "tcg,thread=multi"]);
                // Pointer authentication signs and checks the address of every return: with the CPU's own algorithm, not
                // a costly one.
                command.args(["-cpu", "max,pauth-impdef=on", "-smp", &self.cpus.to_string()]);
                command.args(["-serial", "chardev:console", "-device", "pci-serial,chardev=output"]);
                ["console=ttyAMA0", "guest_output=/dev/ttyS0"]
            }
            other => bail!("kernel '{}': expected amd64 or arm64, found '{other}'", self.kernel),
        };
        if self.instruction_clock {
            command.args(["-icount", "shift=0,sleep=off"]);
        }
        command.args([
            "-m",
            &self.memory.to_string(),
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ]);
        command.args(["-chardev", "stdio,id=console,signal=off", "-chardev", "file,id=output,path=/dev/stderr"]);
        command.arg("-kernel").arg(kernel.join("vmlinuz")).arg("-initrd").arg(self.initramfs);
        command.args(["-append", &format!("{} panic=-1 oops=panic loglevel=6 printk.devkmsg=on", console.join(" "))]);
        for drive in self.drives {
            let access = if drive.writable { "cache=unsafe" } else { "readonly=on,file.locking=off" };
            command.args(["-drive", &format!("file={},format=raw,if=virtio,{access}", drive.file.display())]);
        }
        Ok(command)
    }
}
