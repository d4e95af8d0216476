//! Machines with UEFI firmware and Secure Boot: QEMU, and OVMF or AAVMF.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::builders::built;
use crate::disk::{self, Disk};
use crate::emulated;

/// Which firmware a machine has, each of Debian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// This machine's own.
    Installed,
    /// One of `qemu/firmware`, for x86-64.
    Other(&'static str),
    /// One of `qemu/firmware`, for arm64.
    Arm64,
}

impl Kind {
    /// Its name for scripts, if it is one of theirs.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::Installed => None,
            Self::Other(name) => Some(name),
            Self::Arm64 => Some("arm64"),
        }
    }

    /// The firmware, and its variables with keys or without.
    fn files(self, secure_boot: bool) -> Result<[PathBuf; 2]> {
        let Some(name) = self.name() else {
            let folder = Path::new("/usr/share/OVMF");
            let variables = if secure_boot { "OVMF_VARS_4M.snakeoil.fd" } else { "OVMF_VARS_4M.fd" };
            return Ok(["OVMF_CODE_4M.secboot.fd", variables].map(|file| folder.join(file)));
        };
        let folder = built("firmware", &[name])?;
        let variables = if secure_boot { "variables-with-keys.fd" } else { "variables.fd" };
        Ok(["code.fd", variables].map(|file| folder.join(file)))
    }
}

/// One start of a machine with firmware. Its variables are a fresh copy each time.
#[derive(Debug)]
pub struct Firmware<'a> {
    /// Its firmware.
    pub kind: Kind,
    /// What it boots from.
    pub disk: &'a Disk,
    /// Whether the firmware has keys, those of Debian's test key pair, and so Secure Boot on.
    pub secure_boot: bool,
    /// Goes on when the machine restarts.
    pub reboots: bool,
    /// What takes the place of the list of forbidden programs, `dbx`, which has one digest.
    pub forbidden: Option<Vec<u8>>,
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
        let [code, from] = self.kind.files(self.secure_boot)?;
        let own = self.scratch.join("variables");
        let mut store = fs::read(&from).with_context(|| format!("{} (Debian's package ovmf)", from.display()))?;
        for (vendor, name, content) in self.variables {
            add_variable(&mut store, *vendor, name, content)?;
        }
        if let Some(list) = &self.forbidden {
            forbid(&mut store, list)?;
        }
        fs::write(&own, store).with_context(|| own.display().to_string())?;
        let mut command = Command::new("timeout");
        command.args(["--foreground", "-k", "5", &(limit.as_secs() + 10).to_string()]);
        if self.kind == Kind::Arm64 {
            command.args(["qemu-system-aarch64", "-M", "virt", "-accel", "tcg,thread=multi"]);
            command.args(["-cpu", "max,pauth-impdef=on", "-smp", "1"]);
        } else {
            command.args(["qemu-system-x86_64", "-M", "q35,smm=on,sata=off,smbus=off"]);
            command.args(["-global", "driver=cfi.pflash01,property=secure,value=on"]);
            command.args(emulated::processor(1, false));
        }
        command.args(["-m", "2048", "-nodefaults", "-no-user-config", "-display", "none"]);
        if !self.reboots {
            command.arg("-no-reboot");
        }
        let flash = |unit: u32, file: String| format!("if=pflash,format=raw,unit={unit},file={file}");
        command.args(["-drive", &flash(0, format!("{},readonly=on", code.display()))]);
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

/// `AUTHENTICATED_VARIABLE_HEADER` of edk2's `VariableFormat.h`, in bytes.
const HEADER: usize = 60;

/// Where the first variable of a store is: behind the headers of the firmware volume and of the store itself.
fn first_variable(store: &[u8]) -> usize {
    usize::from(u16::from_le_bytes([store[48], store[49]])) + 28
}

/// The length of a variable's name and of its content; `None` behind the last variable.
fn lengths(store: &[u8], at: usize) -> Result<Option<[usize; 2]>> {
    let field =
        |at: usize| usize::try_from(u32::from_le_bytes(store[at..at + 4].try_into()?)).map_err(anyhow::Error::from);
    Ok(if store[at..at + 2] == [0xaa, 0x55] { Some([field(at + 36)?, field(at + 40)?]) } else { None })
}

fn text(text: &str) -> Vec<u8> {
    text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect()
}

/// Puts a list of forbidden programs in the place of the one that is there, which must be as long.
fn forbid(store: &mut [u8], list: &[u8]) -> Result<()> {
    let name = text("dbx");
    let mut at = first_variable(store);
    while let Some([name_length, length]) = lengths(store, at)? {
        let content = at + HEADER + name_length;
        if store[at + HEADER..content] == name {
            ensure!(length == list.len(), "dbx: expected {} bytes, found {length}", list.len());
            store[content..content + length].copy_from_slice(list);
            return Ok(());
        }
        at += (HEADER + name_length + length).next_multiple_of(4);
    }
    bail!("the firmware has no variable dbx")
}

/// Adds a variable to a store of OVMF's, as the firmware itself would for whoever sets it: it outlives a restart.
fn add_variable(store: &mut [u8], vendor: Vendor, name: &str, content: &str) -> Result<()> {
    let (name, content) = (text(name), text(content));
    let length = |bytes: &[u8]| anyhow::Ok(u32::try_from(bytes.len())?.to_le_bytes());
    let mut at = first_variable(store);
    while let Some([name_length, length]) = lengths(store, at)? {
        at += (HEADER + name_length + length).next_multiple_of(4);
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
