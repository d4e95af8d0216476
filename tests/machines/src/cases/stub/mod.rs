//! What the boot stub starts, and what it refuses, in machines with firmware: a small image that says what it was started with.
//! What sealroot's stub does not take, systemd's takes in a boot that is the same but for that.

mod boot;
mod events;

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use serde_json::Value;

use crate::console::Console;
use crate::disk::ESP_PARTUUID;
use crate::firmware::Kind;
use crate::trial::{Tier, Trial};

use boot::{BOOT, Boot, Expected, File, Start, said, unlike};

const LINE: &str = "console=ttyS0 panic=-1 signed=\"as it is\" --";
/// What `qemu/odd-loader` would like to add.
const LINE_OF_THE_LOADER: &str = "console=ttyS0 panic=-1 added=by-the-loader initrd=\\planted.cpio";
const CMDLINE: &str = "--cmdline=console=ttyS0 panic=-1 signed=\"as it is\" --";

/// Everything that somebody without a key can add, all at once.
const ADDED: Boot = Boot {
    start: Start::Entry("efi /EFI/image.efi\noptions added=by-the-entry\n"),
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

const FOREIGN: &str = "initrd: expected none beside the image's own, found one of the boot loader";
/// What the stub measures when it refuses.
const CLOSED: &str = "sealroot-stub:refused";

const LOADERS_INITRD: Boot = Boot {
    start: Start::Entry("linux /EFI/image.efi\ninitrd /planted.cpio\n"),
    files: &[("planted.cpio", File::Initrd)],
    expected: Expected::Refused(FOREIGN),
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
        Boot {
            name: "status",
            image: &["--command"],
            tpm: true,
            expected: Expected::Runs(|console, _| {
                let status: Value = serde_json::from_str(said(console, "status")).unwrap_or_default();
                let found = |name: &str| status["result"]["pcrs"][name].as_str().unwrap_or("none").to_uppercase();
                unlike(console, &[("pcr11", &found("pcr11")), ("pcr12", &found("pcr12"))])
            }),
            ..BOOT
        },
        // systemd's stub writes the same log, but for what it adds.
        Boot {
            name: "systemd_stub_logs_the_same",
            image: &["--stub", "systemd", "--measure", "--pcr-key", "--microcode"],
            tpm: true,
            expected: Expected::Runs(events::sections),
            ..BOOT
        },
        Boot {
            name: "signed_policy_and_microcode",
            image: &["--measure", "--pcr-key", "--microcode"],
            tpm: true,
            expected: Expected::Runs(|console, folder| {
                let files = "/.extra/tpm2-pcr-public-key.pem /.extra/tpm2-pcr-signature.json /dev/console /efivarfs.ko \
                    /init /kernel/x86/microcode/none ";
                [measured(console, folder), for_systemd(console, folder), unlike(console, &[("files", files)])].concat()
            }),
            ..BOOT
        },
        Boot {
            name: "systemd_stub_with_a_signed_policy",
            image: &["--stub", "systemd", "--pcr-key"],
            expected: Expected::Runs(for_systemd),
            ..BOOT
        },
        Boot {
            name: "byte_of_the_initrd",
            image: &["--flip", ".initrd"],
            expected: Expected::RefusedByFirmware,
            ..BOOT
        },
        Boot { name: "image_that_is_forbidden", forbidden: true, expected: Expected::RefusedByFirmware, ..BOOT },
        Boot { name: "unsigned", image: &["--unsigned"], expected: Expected::RefusedByFirmware, ..BOOT },
        Boot {
            name: "kernel_without_the_rest",
            start: Start::Entry("linux /kernel.efi\ninitrd /planted.cpio\n"),
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
            start: Start::Found,
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

/// Other firmware, other kernels, and the shim in between: with Secure Boot, the same.
fn elsewhere() -> Vec<Boot> {
    let on = |name, firmware| Boot { name, firmware: Kind::Other(firmware), ..BOOT };
    let linux = |name, image| Boot { name, image, ..BOOT };
    // The console of the arm64 machine has another name.
    let arm64 = Boot {
        name: "arm64",
        firmware: Kind::Arm64,
        line: "--cmdline=console=ttyAMA0 panic=-1 signed=\"as it is\" --",
        expected: Expected::Runs(|console, _| {
            let line = LINE.replace("ttyS0", "ttyAMA0");
            unlike(console, &[("cmdline", &line), ("files", "/dev/console /efivarfs.ko /init "), ("secure-boot", "1")])
        }),
        ..BOOT
    };
    vec![
        on("newer_firmware", "forky"),
        on("firmware_that_keeps_code_and_data_apart", "strictnx"),
        Boot { name: "shim", start: Start::Shim, ..BOOT },
        linux("linux_6_1", &["--linux", "6.1"]),
        linux("linux_newest", &["--linux", "newest"]),
        linux("linux_generic", &["--linux", "generic"]),
        Boot {
            name: "arm64_without_secure_boot",
            secure_boot: false,
            expected: Expected::Runs(|console, _| {
                let line = LINE.replace("ttyS0", "ttyAMA0");
                unlike(console, &[("cmdline", &line), ("secure-boot", "0")])
            }),
            ..arm64
        },
        Boot { name: "arm64_unsigned", image: &["--unsigned"], expected: Expected::RefusedByFirmware, ..arm64 },
        arm64,
    ]
}

/// What no boot loader that somebody signs does by itself: `qemu/odd-loader` does it.
const ODD: Boot = Boot { files: &[("planted.cpio", File::WholeInitrd)], ..BOOT };

fn odd_boots() -> Vec<Boot> {
    let foreign = Expected::Refused(FOREIGN);
    let another = Expected::Refused("initrd: expected the image's own to be found, found another one");
    let odd = |name, words, expected| Boot { name, start: Start::Odd(words), expected, ..ODD };
    vec![
        odd("initrd_where_linux_looks", "initrd", foreign),
        odd("initrd_on_an_empty_path", "initrd-on-an-empty-path", foreign),
        odd("two_initrds", "initrd initrd-on-an-empty-path", foreign),
        odd("initrd_that_comes_later", "initrd-later", another),
        odd("initrd_that_is_replaced", "initrd-replaced", another),
        Boot {
            tpm: true,
            ..odd("refusal_closes_pcr_11", "initrd watch-reset", Expected::RefusedWith(FOREIGN, CLOSED))
        },
        odd("options_of_the_loader", "options", Expected::Runs(unchanged)),
        odd("options_of_64_kib", "long-options", Expected::Runs(unchanged)),
        odd(
            "image_of_no_file_and_no_device",
            "from-memory",
            Expected::Runs(|console, folder| {
                let unknown = unlike(console, &[("StubDevicePartUUID", ""), ("StubImageIdentifier", "")]);
                [unchanged(console, folder), unknown].concat()
            }),
        ),
    ]
}

/// Stubs that lack one check: with each, what a test above requires does not come true.
fn mutants() -> Vec<Boot> {
    /// The stub goes on where the good one says its line, and starts its own image.
    const STARTED: Expected = Expected::Runs(unchanged);
    /// It starts what was planted.
    const PLANTED: Expected = Expected::Runs(|console, _| {
        let files = said(console, "files");
        (!files.contains("/planted ")).then(|| format!("nothing planted in '{files}'")).into_iter().collect()
    });
    let odd = |name, image, words, expected| Boot { name, image, start: Start::Odd(words), expected, ..ODD };
    vec![
        odd("mutant_initrd_on_an_empty_path", &["--stub", "mutant:loaders-initrd"], "initrd-on-an-empty-path", STARTED),
        odd("mutant_initrd_that_comes_later", &["--stub", "mutant:later-initrd"], "initrd-later", PLANTED),
        odd("mutant_initrd_that_is_replaced", &["--stub", "mutant:replaced-initrd"], "initrd-replaced", PLANTED),
        odd(
            "mutant_options_of_the_loader",
            &["--stub", "mutant:load-options"],
            "options",
            Expected::Runs(|console, _| unlike(console, &[("cmdline", &format!("{LINE} {LINE_OF_THE_LOADER}"))])),
        ),
        Boot {
            image: &["--stub", "mutant:pcr-11-open"],
            tpm: true,
            ..odd("mutant_refusal_closes_pcr_11", &[], "initrd watch-reset", Expected::RefusedWith(FOREIGN, "nothing"))
        },
        Boot {
            name: "mutant_section_that_is_unknown",
            image: &["--stub", "mutant:ignored-section", "--section=.strange:x"],
            expected: STARTED,
            ..BOOT
        },
    ]
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
    let said =
        unlike(console, &[("pcr11", &expected), ("pcr12", &zero), ("StubPcrKernelImage", "11"), ("cmdline", LINE)]);
    [said, events::sections(console, folder), events::one_program(console)].concat()
}

/// The signature of PCR 11 and its key are where systemd looks for them, as they are in the image, and nobody can change them.
fn for_systemd(console: &Console, folder: &Path) -> Vec<String> {
    let expected = fs::read_to_string(folder.join("extra")).unwrap_or_default();
    let found = said(console, "extra");
    let mut wrong = unlike(console, &[("cmdline", LINE)]);
    wrong.extend((expected.lines().count() != 3).then(|| format!("extra: expected three, found '{expected}'")));
    let missing = expected.lines().filter(|line| !found.contains(*line));
    wrong.extend(missing.map(|line| format!("extra: expected '{line}', found '{found}'")));
    wrong
}

/// All machines' tests.
pub fn trials() -> Vec<Trial> {
    boots().into_iter().chain(elsewhere()).chain(odd_boots()).chain(mutants()).map(Boot::trial).collect()
}

/// Of 2048 bytes.
static LONG: LazyLock<String> = LazyLock::new(|| format!("--cmdline={:x<2048}", "console=ttyS0 panic=-1 "));
