//! Machines with UEFI firmware and Secure Boot: QEMU and OVMF.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::disk::{self, Disk};
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
    /// Variables that outlive a restart: whose they are, their names and their content.
    pub variables: &'a [(Vendor, &'static str, &'static str)],
    /// SMBIOS strings of type 11, as whoever sets up the machine can give them.
    pub strings: &'a [String],
    /// Further SMBIOS structures, byte by byte, in front of the strings.
    pub structures: &'a [&'static [u8]],
    /// Credentials by QEMU's fw_cfg, as whoever runs the machine can give them: names and content.
    pub fw_cfg: &'a [(&'static str, &'static str)],
    /// Whether it has a TPM 2.0.
    pub tpm: bool,
    /// For its variables and what it writes.
    pub scratch: &'a Path,
}

/// Whose a variable of the firmware is.
#[derive(Clone, Copy, Debug)]
pub enum Vendor {
    /// Those of systemd's boot loader: 4a67b082-0a4c-41cf-b6c7-440b29bb8c4f.
    Loader,
    /// Those of systemd itself: 8cf2644b-4b0b-428f-9387-6d876050dc67.
    Systemd,
}

impl Vendor {
    fn guid(self) -> [u8; 16] {
        match self {
            Self::Loader => {
                [0x82, 0xb0, 0x67, 0x4a, 0x4c, 0x0a, 0xcf, 0x41, 0xb6, 0xc7, 0x44, 0x0b, 0x29, 0xbb, 0x8c, 0x4f]
            }
            Self::Systemd => {
                [0x4b, 0x64, 0xf2, 0x8c, 0x0b, 0x4b, 0x8f, 0x42, 0x93, 0x87, 0x6d, 0x87, 0x60, 0x50, 0xdc, 0x67]
            }
        }
    }
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
        let mut store = fs::read(&from).with_context(|| format!("{} (Debian's package ovmf)", from.display()))?;
        for (vendor, name, content) in self.variables {
            add_variable(&mut store, *vendor, name, content)?;
        }
        fs::write(&own, store).with_context(|| own.display().to_string())?;
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
        for (name, content) in self.fw_cfg {
            let file = self.scratch.join(name);
            fs::write(&file, content).with_context(|| file.display().to_string())?;
            command.args(["-fw_cfg", &format!("name=opt/io.systemd.credentials/{name},file={}", file.display())]);
        }
        for (number, structure) in self.structures.iter().enumerate() {
            let file = self.scratch.join(format!("smbios-{number}"));
            fs::write(&file, structure).with_context(|| file.display().to_string())?;
            command.args(["-smbios", &format!("file={}", file.display())]);
        }
        for string in self.strings {
            command.args(["-smbios", &format!("type=11,value={string}")]);
        }
        if self.tpm {
            self.add_tpm(&mut command)?;
        }
        Ok(command)
    }

    /// A TPM is a program of its own, which ends when the machine lets go of it.
    fn add_tpm(&self, command: &mut Command) -> Result<()> {
        let socket = self.scratch.join("tpm-socket");
        let mut tpm = Command::new("swtpm");
        tpm.args(["socket", "--tpm2", "--daemon", "--terminate", "--flags", "startup-clear", "--tpmstate"]);
        tpm.arg(format!("dir={}", self.scratch.display()));
        tpm.arg("--ctrl").arg(format!("type=unixio,path={}", socket.display()));
        disk::run(&mut tpm)?;
        command.args(["-chardev", &format!("socket,id=tpm,path={}", socket.display())]);
        command.args(["-tpmdev", "emulator,id=tpm,chardev=tpm", "-device", "tpm-crb,tpmdev=tpm"]);
        Ok(())
    }
}

/// Adds a variable to a store of OVMF's, as the firmware itself would for whoever sets it: it outlives a restart.
///
/// Source: `AUTHENTICATED_VARIABLE_HEADER` of edk2's `VariableFormat.h`.
fn add_variable(store: &mut [u8], vendor: Vendor, name: &str, content: &str) -> Result<()> {
    /// The firmware volume's header is in front of the store's, which is this long.
    const STORE_HEADER: usize = 28;
    const HEADER: usize = 60;
    let text = |text: &str| text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect::<Vec<_>>();
    let (name, content) = (text(name), text(content));
    let length = |bytes: &[u8]| anyhow::Ok(u32::try_from(bytes.len())?.to_le_bytes());
    let volume_header = u16::from_le_bytes([store[48], store[49]]);
    let mut at = usize::from(volume_header) + STORE_HEADER;
    let field = |store: &[u8], at: usize| {
        usize::try_from(u32::from_le_bytes(store[at..at + 4].try_into()?)).map_err(anyhow::Error::from)
    };
    while store[at..at + 2] == [0xaa, 0x55] {
        at += (HEADER + field(store, at + 36)? + field(store, at + 40)?).next_multiple_of(4);
    }
    let mut variable = vec![0xaa, 0x55, 0x3f, 0];
    // Non-volatile, for boot services and at run time.
    variable.extend(7_u32.to_le_bytes());
    // Monotonic count, time stamp, index of a public key: of variables without authentication, nothing.
    variable.extend([0; 8 + 16 + 4]);
    variable.extend(length(&name)?);
    variable.extend(length(&content)?);
    variable.extend(vendor.guid());
    variable.extend(name);
    variable.extend(content);
    store[at..at + variable.len()].copy_from_slice(&variable);
    Ok(())
}
