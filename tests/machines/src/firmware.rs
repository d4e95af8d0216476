//! Machines with UEFI firmware and Secure Boot: QEMU and OVMF.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::disk::Disk;
use crate::emulated;

const FIRMWARE: &str = "/usr/share/OVMF";

/// One start of a machine with firmware. Its variables are a fresh copy each time.
#[derive(Debug)]
pub struct Firmware<'a> {
    /// What it boots from.
    pub disk: &'a Disk,
    /// Whether the firmware has keys, those of Debian's test key pair, and so Secure Boot on.
    pub secure_boot: bool,
    /// Goes on when the machine restarts.
    pub reboots: bool,
    /// SMBIOS strings of type 11, as whoever sets up the machine can give them.
    pub strings: &'a [String],
    /// For its variables and what it writes.
    pub scratch: &'a Path,
}

impl Firmware<'_> {
    /// The command that starts it.
    ///
    /// # Errors
    /// The firmware is missing.
    pub fn command(&self, limit: Duration) -> Result<Command> {
        let variables = if self.secure_boot { "OVMF_VARS_4M.snakeoil.fd" } else { "OVMF_VARS_4M.fd" };
        let own = self.scratch.join("variables");
        let from = Path::new(FIRMWARE).join(variables);
        fs::copy(&from, &own).with_context(|| format!("{} (Debian's package ovmf)", from.display()))?;
        let mut command = Command::new("timeout");
        command.args(["--foreground", "-k", "5", &(limit.as_secs() + 10).to_string(), "qemu-system-x86_64"]);
        command.args([
            "-M",
            "q35,smm=on,sata=off,smbus=off",
            "-global",
            "driver=cfi.pflash01,property=secure,value=on",
        ]);
        command.args(emulated::processor(1, false)).args(["-m", "2048", "-nodefaults", "-no-user-config"]);
        command.args(["-display", "none"]);
        if !self.reboots {
            command.arg("-no-reboot");
        }
        let flash = |unit: u32, file: String| format!("if=pflash,format=raw,unit={unit},file={file}");
        command.args(["-drive", &flash(0, format!("{FIRMWARE}/OVMF_CODE_4M.secboot.fd,readonly=on"))]);
        command.args(["-drive", &flash(1, own.display().to_string())]);
        command.args(["-drive", &format!("file={},format=raw,if=virtio,cache=unsafe", self.disk.path().display())]);
        command.args([
            "-device",
            "virtio-rng-pci",
            "-chardev",
            "stdio,id=console,signal=off",
            "-serial",
            "chardev:console",
        ]);
        for string in self.strings {
            command.args(["-smbios", &format!("type=11,value={string}")]);
        }
        Ok(command)
    }
}
