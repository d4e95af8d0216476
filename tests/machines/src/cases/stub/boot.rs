//! One machine with firmware that boots a small image, and what must come of it.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use tempfile::TempDir;

use super::{CMDLINE, unchanged};
use crate::archive::Archive;
use crate::builders::{self, built, scratch};
use crate::cases::boot::world::World;
use crate::console::{Console, Until};
use crate::disk::{self, Change, Disk};
use crate::firmware::{Firmware, Kind};
use crate::process;
use crate::trial::{Need, Tier, Trial};

const IMAGE: &str = "EFI/image.efi";
const START: &str = "EFI/BOOT/BOOTX64.EFI";
const START_ARM64: &str = "EFI/BOOT/BOOTAA64.EFI";
/// No machine here takes longer: emulation is slow, and a refusal waits.
const LIMIT: Duration = Duration::from_secs(180);

/// One machine.
pub struct Boot {
    pub name: &'static str,
    pub tier: Tier,
    /// What `qemu/stub-image` is told beside the command line.
    pub image: &'static [&'static str],
    pub line: &'static str,
    /// Who starts the image.
    pub start: Start,
    /// Files beside the image: where, and what.
    pub files: &'static [(&'static str, File)],
    pub strings: &'static [&'static str],
    pub firmware: Kind,
    pub secure_boot: bool,
    /// Whether the firmware has the image in its list of forbidden programs.
    pub forbidden: bool,
    pub tpm: bool,
    pub reboots: bool,
    pub expected: Expected,
}

/// Who starts the image.
#[derive(Clone, Copy)]
pub enum Start {
    /// The firmware.
    Firmware,
    /// systemd-boot, by an entry with this text.
    Entry(&'static str),
    /// systemd-boot, which finds images by itself.
    Found,
    /// The shim, as a distribution has it, which starts the image as if that were its boot loader.
    Shim,
    /// `qemu/odd-loader`, which is told this.
    Odd(&'static str),
}

/// What a file on the EFI system partition is.
#[derive(Clone, Copy)]
pub enum File {
    /// This text.
    Text(&'static str),
    /// An initramfs with a file `planted`.
    Initrd,
    /// The image's own initramfs with a file `planted` more: it says what it is if it is started.
    WholeInitrd,
    /// The kernel of the image, without the rest of it.
    Kernel,
    /// Another image, by what `qemu/stub-image` is told.
    Image(&'static [&'static str]),
}

#[derive(Clone, Copy)]
pub enum Expected {
    /// The initramfs runs. What is wrong with what it says?
    Runs(fn(&Console, &Path) -> Vec<String>),
    /// The stub says this line, and nothing is started.
    Refused(&'static str),
    /// The stub says this line, and when it restarts the machine, this is in PCR 11.
    RefusedWith(&'static str, &'static str),
    /// The firmware starts nothing.
    RefusedByFirmware,
}

pub const BOOT: Boot = Boot {
    name: "",
    tier: Tier::All,
    image: &[],
    line: CMDLINE,
    start: Start::Firmware,
    files: &[],
    strings: &[],
    firmware: Kind::Installed,
    secure_boot: true,
    forbidden: false,
    tpm: false,
    reboots: false,
    expected: Expected::Runs(unchanged),
};

/// What the initramfs says by a key.
pub fn said<'a>(console: &'a Console, key: &str) -> &'a str {
    let start = format!("stub-init: {key}=");
    console.text.lines().find_map(|line| line.strip_prefix(&start)).unwrap_or("nothing")
}

/// What is said otherwise than expected.
pub fn unlike(console: &Console, expected: &[(&str, &str)]) -> Vec<String> {
    let wrong = expected.iter().filter(|(key, value)| said(console, key) != *value);
    wrong.map(|(key, value)| format!("{key}: expected '{value}', found '{}'", said(console, key))).collect()
}

impl Boot {
    /// The test.
    pub fn trial(self) -> Trial {
        let mut needs = vec![Need::Root, Need::Qemu];
        needs.extend(self.tpm.then_some(Need::Swtpm));
        needs.extend((self.firmware == Kind::Arm64).then_some(Need::QemuArm));
        let (name, tier) = (format!("stub::firmware::{}", self.name), self.tier);
        Trial::new(name, move || self.run()).tier(tier).needs(&needs)
    }

    fn run(&self) -> Result<String> {
        let firmware = self.firmware.name().map(|name| ["--firmware", name]);
        let mut arguments: Vec<_> = firmware.into_iter().flatten().chain(self.image.iter().copied()).collect();
        arguments.push(self.line);
        let folder = built("stub-image", &arguments)?;
        let disk = Disk::with_esp()?;
        let scratch = scratch()?;
        self.fill(&disk, &folder, &scratch)?;
        let strings: Vec<_> = self.strings.iter().map(ToString::to_string).collect();
        let machine = Firmware {
            kind: self.firmware,
            forbidden: self.forbidden.then(|| forbidding(&folder.join("image.efi"))).transpose()?,
            disk: &disk,
            secure_boot: self.secure_boot,
            reboots: self.reboots,
            variables: &[],
            strings: &strings,
            structures: &[],
            fw_cfg: &[],
            tpm: self.tpm,
            scratch: scratch.path(),
        };
        let restarts = self.reboots || matches!(self.expected, Expected::RefusedWith(..));
        let mut heard = Until::new(if restarts { ends_for_good } else { ends });
        let log = builders::logs("stub")?.join(format!("firmware-{}.log", self.name));
        let mut file = fs::File::create(&log).with_context(|| log.display().to_string())?;
        let ended = process::run(machine.command(LIMIT)?.into(), LIMIT, &mut file, &mut heard)?;
        let console = Console { text: heard.text, ended, log };
        let (wrong, seen) = self.judge(&console, &folder);
        ensure!(wrong.is_empty(), "{}\n{} ({ended:?})", wrong.join("\n"), console.log.display());
        Ok(seen)
    }

    fn fill(&self, disk: &Disk, folder: &Path, scratch: &TempDir) -> Result<()> {
        let put = |file: PathBuf, path: &str| disk.change(&Change::OnEsp(file, path.into()));
        let image = folder.join("image.efi");
        let text = |name: &str, content: &[u8]| {
            let file = scratch.path().join(name);
            fs::write(&file, content)?;
            anyhow::Ok(file)
        };
        match self.start {
            Start::Firmware => put(image, if self.firmware == Kind::Arm64 { START_ARM64 } else { START })?,
            Start::Shim => {
                put(built("shim", &[])?, START)?;
                put(image, "EFI/BOOT/grubx64.efi")?;
            }
            Start::Entry(entry) => {
                put(text("loader", World::get()?.signed_loader()?)?, START)?;
                put(text("settings", b"timeout 0\ndefault attack.conf\n")?, "loader/loader.conf")?;
                put(image, IMAGE)?;
                put(text("entry", format!("title attack\n{entry}").as_bytes())?, "loader/entries/attack.conf")?;
            }
            Start::Found => {
                put(text("loader", World::get()?.signed_loader()?)?, START)?;
                put(text("settings", b"timeout 0\n")?, "loader/loader.conf")?;
            }
            Start::Odd(words) => {
                put(built("loader", &[])?, START)?;
                put(text("words", words.as_bytes())?, "odd-loader")?;
                put(image, IMAGE)?;
            }
        }
        for (path, content) in self.files {
            let file = match content {
                File::Text(content) => text("text", content.as_bytes())?,
                File::Initrd => text("initrd", &planted()?)?,
                File::WholeInitrd => text("initrd", &[fs::read(folder.join("initrd"))?, planted()?].concat())?,
                File::Kernel => {
                    let kernel = scratch.path().join("kernel");
                    let mut cut = Command::new("objcopy");
                    cut.arg("--dump-section").arg(format!(".linux={}", kernel.display()));
                    disk::run(cut.arg(folder.join("image.efi")).arg(scratch.path().join("copy.efi")))?;
                    kernel
                }
                File::Image(arguments) => built("stub-image", arguments)?.join("image.efi"),
            };
            put(file, path)?;
        }
        Ok(())
    }

    /// What is wrong, and what was seen.
    fn judge(&self, console: &Console, folder: &Path) -> (Vec<String>, String) {
        let started = ["EFI stub", "Linux version", "stub-init: "].iter().find(|sign| console.text.contains(**sign));
        let nothing = || started.map(|sign| format!("'{sign}' on the console: something was started"));
        let missing =
            |words: &str| (!console.text.contains(words)).then(|| format!("expected '{words}', found it nowhere"));
        match self.expected {
            Expected::Runs(judge) => {
                let end = missing("stub-init: end=");
                (end.into_iter().chain(judge(console, folder)).collect(), said(console, "cmdline").into())
            }
            Expected::Refused(reason) => {
                let line = format!("sealroot-stub: boot refused: {reason}; restart in 10 s");
                (missing(&line).into_iter().chain(nothing()).collect(), line)
            }
            Expected::RefusedWith(reason, events) => {
                let line = format!("sealroot-stub: boot refused: {reason}; restart in 10 s");
                let last = format!("odd-loader: in PCR 11: {events}");
                (missing(&line).into_iter().chain(missing(&last)).chain(nothing()).collect(), last)
            }
            Expected::RefusedByFirmware => {
                // The firmware writes it so, and systemd-boot "Access denied".
                let denied = console.find("(?i)access denied");
                let missing =
                    denied.is_none().then(|| "expected that access is denied, found nothing of it".to_owned());
                (missing.into_iter().chain(nothing()).collect(), denied.unwrap_or_default().into())
            }
        }
    }
}

fn planted() -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    archive.text("planted", b"planted", 0o644)?;
    archive.finish()
}

/// The list that forbids a program, as `sealroot uki` makes it.
fn forbidding(program: &Path) -> Result<Vec<u8>> {
    let mut command = Command::new(built("program", &["sealroot"])?);
    let output = command.args(["uki", "--dbx"]).arg(program).output().context("sealroot")?;
    BASE64_STANDARD.decode(output.stdout.trim_ascii_end()).context("sealroot uki --dbx")
}

/// What ends a machine: its report, a refusal, the firmware or the kernel giving up.
fn ends(line: &str) -> ControlFlow<()> {
    let refused = line.contains("; restart in 10 s");
    if refused { ControlFlow::Break(()) } else { ends_for_good(line) }
}

/// A line is looked at while it is being written: each of these is the end of what a test wants of its line.
fn ends_for_good(line: &str) -> ControlFlow<()> {
    let ends = ["stub-init: end=", "No bootable option", "Kernel panic", "Access denied", "reboot: Power down"];
    if ends.iter().any(|end| line.contains(end)) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}
