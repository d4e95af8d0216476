//! What the boot stub starts, and what it refuses, in machines with firmware: a small image that says what it was started with.
//! What sealroot's stub does not take, systemd's takes in a boot that is the same but for that.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use super::boot::world::World;
use crate::archive::Archive;
use crate::builders::{self, built, scratch};
use crate::console::{Console, Until};
use crate::disk::{self, Change, Disk, ESP_PARTUUID};
use crate::firmware::Firmware;
use crate::process;
use crate::trial::{Need, Tier, Trial};

const LINE: &str = "console=ttyS0 panic=-1 signed=\"as it is\" --";
const CMDLINE: &str = "--cmdline=console=ttyS0 panic=-1 signed=\"as it is\" --";
const IMAGE: &str = "EFI/image.efi";
const START: &str = "EFI/BOOT/BOOTX64.EFI";
/// No machine here takes longer: emulation is slow, and a refusal waits.
const LIMIT: Duration = Duration::from_secs(180);

/// One machine.
struct Boot {
    name: &'static str,
    tier: Tier,
    /// What `qemu/stub-image` is told beside the command line.
    image: &'static [&'static str],
    line: &'static str,
    /// An entry of systemd-boot for the image; without one the firmware starts that by itself.
    entry: Option<&'static str>,
    /// Files beside the image: where, and what.
    files: &'static [(&'static str, File)],
    strings: &'static [&'static str],
    secure_boot: bool,
    tpm: bool,
    reboots: bool,
    expected: Expected,
}

/// What a file on the EFI system partition is.
#[derive(Clone, Copy)]
enum File {
    /// This text.
    Text(&'static str),
    /// An initramfs with a file `planted`.
    Initrd,
    /// The kernel of the image, without the rest of it.
    Kernel,
    /// Another image, by what `qemu/stub-image` is told.
    Image(&'static [&'static str]),
}

enum Expected {
    /// The initramfs runs. What is wrong with what it says?
    Runs(fn(&Console, &Path) -> Vec<String>),
    /// The stub says this line, and nothing is started.
    Refused(&'static str),
    /// The firmware starts nothing.
    RefusedByFirmware,
}

const BOOT: Boot = Boot {
    name: "",
    tier: Tier::All,
    image: &[],
    line: CMDLINE,
    entry: None,
    files: &[],
    strings: &[],
    secure_boot: true,
    tpm: false,
    reboots: false,
    expected: Expected::Runs(unchanged),
};

/// Everything that somebody without a key can add, all at once.
const ADDED: Boot = Boot {
    entry: Some("efi /EFI/image.efi\noptions added=by-the-entry\n"),
    files: &[
        ("loader/credentials/planted.cred", File::Text("planted")),
        ("EFI/image.efi.extra.d/planted.cred", File::Text("planted")),
    ],
    strings: &[
        "io.systemd.stub.kernel-cmdline-extra=added=by-smbios",
        "io.systemd.boot.kernel-cmdline-extra=added=by-smbios-for-the-loader",
        "io.systemd.credential:planted=planted",
    ],
    ..BOOT
};

const LOADERS_INITRD: Boot = Boot {
    entry: Some("linux /EFI/image.efi\ninitrd /planted.cpio\n"),
    files: &[("planted.cpio", File::Initrd)],
    expected: Expected::Refused("initrd: expected none beside the image's own, found one of the boot loader"),
    ..BOOT
};

fn boots() -> Vec<Boot> {
    let refused = |name, image, reason| Boot { name, image, expected: Expected::Refused(reason), ..BOOT };
    vec![
        Boot { name: "nothing_is_added", tier: Tier::Push, ..ADDED },
        Boot { name: "nothing_is_added_without_secure_boot", secure_boot: false, ..ADDED },
        Boot {
            name: "systemd_stub_adds",
            image: &["--stub", "systemd"],
            expected: Expected::Runs(|console, _| {
                let added = format!("{LINE} added=by-smbios");
                let files = said(console, "files");
                let mut wrong = unlike(console, &[("cmdline", &added)]);
                wrong.extend((!files.contains("planted.cred")).then(|| format!("no credential in '{files}'")));
                wrong
            }),
            ..ADDED
        },
        Boot { name: "initrd_of_the_loader", tier: Tier::Push, ..LOADERS_INITRD },
        Boot { name: "initrd_of_the_loader_without_secure_boot", secure_boot: false, ..LOADERS_INITRD },
        Boot {
            name: "newer_systemd_stub_takes_the_initrd_of_the_loader",
            image: &["--stub", "forky"],
            expected: Expected::Runs(|console, _| {
                let files = said(console, "files");
                (!files.contains("/planted ")).then(|| format!("nothing planted in '{files}'")).into_iter().collect()
            }),
            ..LOADERS_INITRD
        },
        Boot { name: "variables", expected: Expected::Runs(variables), ..BOOT },
        Boot { name: "measured", image: &["--measure"], tpm: true, expected: Expected::Runs(measured), ..BOOT },
        Boot { name: "unsigned", image: &["--unsigned"], expected: Expected::RefusedByFirmware, ..BOOT },
        Boot {
            name: "kernel_without_the_rest",
            entry: Some("linux /kernel.efi\ninitrd /planted.cpio\n"),
            files: &[("kernel.efi", File::Kernel), ("planted.cpio", File::Initrd)],
            expected: Expected::RefusedByFirmware,
            ..BOOT
        },
        refused(
            "section_that_is_unknown",
            &["--section=.strange:x"],
            "section '.strange': expected none that this stub does not know",
        ),
        refused(
            "devicetree",
            &["--section=.dtb:x"],
            "section '.dtb': expected none, since this stub does not use it (the devicetree is the firmware's)",
        ),
        refused(
            "kernel_that_is_none",
            &["--kernel", "/usr/lib/systemd/boot/efi/systemd-bootx64.efi"],
            "kernel: expected no base relocations, found some",
        ),
        Boot {
            name: "newline_in_the_command_line",
            line: "--cmdline=console=ttyS0 panic=-1\nquiet",
            expected: Expected::Refused("command line: expected printable ASCII, found byte 0x0a at 22"),
            ..BOOT
        },
        Boot {
            name: "command_line_that_is_too_long",
            line: &LONG,
            expected: Expected::Refused("command line: expected 1 to 2047 bytes, found 2048"),
            ..BOOT
        },
        // Refused twice, then the one before has its turn.
        Boot {
            name: "counted_until_the_older_image",
            reboots: true,
            entry: Some(""),
            files: &[
                ("EFI/Linux/zz+2.efi", File::Image(&[CMDLINE, "--section=.strange:x"])),
                ("EFI/Linux/aa.efi", File::Image(&[CMDLINE])),
            ],
            expected: Expected::Runs(|console, _| {
                let refusals = console.text.matches("sealroot-stub: boot refused: ").count();
                let mut wrong =
                    unlike(console, &[("cmdline", LINE), ("LoaderImageIdentifier", "\\EFI\\BOOT\\BOOTX64.EFI")]);
                wrong.extend((refusals != 2).then(|| format!("expected two refusals, found {refusals}")));
                wrong
            }),
            ..BOOT
        },
    ]
}

/// What the initramfs says by a key.
fn said<'a>(console: &'a Console, key: &str) -> &'a str {
    let start = format!("stub-init: {key}=");
    console.text.lines().find_map(|line| line.strip_prefix(&start)).unwrap_or("nothing")
}

/// What is said otherwise than expected.
fn unlike(console: &Console, expected: &[(&str, &str)]) -> Vec<String> {
    let wrong = expected.iter().filter(|(key, value)| said(console, key) != *value);
    wrong.map(|(key, value)| format!("{key}: expected '{value}', found '{}'", said(console, key))).collect()
}

/// The command line as it was signed, and no file but those of the image.
fn unchanged(console: &Console, _: &Path) -> Vec<String> {
    unlike(console, &[("cmdline", LINE), ("files", "/dev/console /efivarfs.ko /init ")])
}

/// As systemd-stub(7) has them, for this boot only.
fn variables(console: &Console, folder: &Path) -> Vec<String> {
    let stub = concat!("sealroot-stub ", env!("CARGO_PKG_VERSION"));
    let file = "\\EFI\\BOOT\\BOOTX64.EFI";
    let expected = [
        ("StubDevicePartUUID", ESP_PARTUUID),
        ("StubImageIdentifier", file),
        ("LoaderDevicePartUUID", ESP_PARTUUID),
        ("LoaderImageIdentifier", file),
        ("LoaderInfo", ""),
        ("StubPcrKernelImage", ""),
        ("StubInfo-attributes", "6"),
        ("secure-boot", "1"),
    ];
    let mut wrong = [unchanged(console, folder), unlike(console, &expected)].concat();
    let name = said(console, "StubInfo").split(' ').next().unwrap_or_default();
    wrong.extend((Some(name) != stub.split(' ').next()).then(|| format!("StubInfo: found '{name}'")));
    wrong
}

/// PCR 11 is what systemd-measure(1) calculates, nothing is in PCR 12, and systemd learns that it was measured.
fn measured(console: &Console, folder: &Path) -> Vec<String> {
    let expected = fs::read_to_string(folder.join("pcr11")).unwrap_or_default().trim().to_uppercase();
    let zero = "0".repeat(64);
    unlike(console, &[("pcr11", &expected), ("pcr12", &zero), ("StubPcrKernelImage", "11"), ("cmdline", LINE)])
}

/// All machines' tests.
pub fn trials() -> Vec<Trial> {
    let trial = |boot: Boot| {
        let mut needs = vec![Need::Root, Need::Qemu];
        needs.extend(boot.tpm.then_some(Need::Swtpm));
        let (name, tier) = (format!("stub::firmware::{}", boot.name), boot.tier);
        Trial::new(name, move || boot.run()).tier(tier).needs(&needs)
    };
    boots().into_iter().map(trial).collect()
}

impl Boot {
    fn run(&self) -> Result<String> {
        let mut arguments = self.image.to_vec();
        arguments.push(self.line);
        let folder = built("stub-image", &arguments)?;
        let disk = Disk::with_esp()?;
        let scratch = scratch()?;
        self.fill(&disk, &folder, &scratch)?;
        let strings: Vec<_> = self.strings.iter().map(ToString::to_string).collect();
        let machine = Firmware {
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
        let mut heard = Until::new(if self.reboots { ends_for_good } else { ends });
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
        match self.entry {
            None => put(image, START)?,
            Some(entry) => {
                put(text("loader", World::get()?.signed_loader()?)?, START)?;
                let settings = if entry.is_empty() { "timeout 0\n" } else { "timeout 0\ndefault attack.conf\n" };
                put(text("settings", settings.as_bytes())?, "loader/loader.conf")?;
                if !entry.is_empty() {
                    put(image, IMAGE)?;
                    put(text("entry", format!("title attack\n{entry}").as_bytes())?, "loader/entries/attack.conf")?;
                }
            }
        }
        for (path, content) in self.files {
            let file = match content {
                File::Text(content) => text("text", content.as_bytes())?,
                File::Initrd => {
                    let mut archive = Archive::default();
                    archive.text("planted", b"planted", 0o644)?;
                    text("initrd", &archive.finish()?)?
                }
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

/// What ends a machine: its report, a refusal, the firmware or the kernel giving up.
fn ends(line: &str) -> ControlFlow<()> {
    let refused = line.contains("; restart in 10 s");
    if refused { ControlFlow::Break(()) } else { ends_for_good(line) }
}

fn ends_for_good(line: &str) -> ControlFlow<()> {
    let ends = ["stub-init: end=", "No bootable option", "Kernel panic", "Error loading", "reboot: Power down"];
    if ends.iter().any(|end| line.contains(end)) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

/// Of 2048 bytes.
static LONG: LazyLock<String> = LazyLock::new(|| format!("--cmdline={:x<2048}", "console=ttyS0 panic=-1 "));
