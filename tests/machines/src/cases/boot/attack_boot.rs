//! Attacks on how the machine is started: command line, configuration, units, mounts, firmware and boot loader.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::attack_disk::META;
use super::expect::Expected;
use super::scenario::{Added, Content, Scenario, case};
use super::world::{World, sign};
use crate::builders;
use crate::disk;
use crate::firmware::Vendor;

const SEALROOT: &str = "sealroot.service";
const PIVOT: &str = "initrd-switch-root.service";
/// The gate's word where there is none of the boot program.
const NO_REPORT: &str = "gate: no report of a sealed root: the boot program did not run, or did not finish";
/// The unit for failures speaks for a program that could not.
pub(super) const NO_VERDICT: &str =
    "earlier-run: expected a verdict, found none: the boot program was killed, or the physical root was never mounted";
const SKIPPED: &str = "[Unit]\nConditionPathExists=/skipped-by-a-credential\n";
const NO_GATE: &str = "[Service]\nExecStartPre=\n";
const UNVERIFIED: &str = "ask: kernel command line: expected verification to be required";
const MISSING_DISK: &str = "PARTUUID=5ea17007-0000-4000-8000-00000000dead";
/// A line of an fstab that mounts over a sealed directory.
const FSTAB: &str = "tmpfs /usr/share tmpfs";
const SHELL: &str = r"Press Enter for maintenance|Cannot open access to console|sh-[0-9.]+# $|pre-mount:.*#";
const TWO_UNDER_ONE_KEY: &str = "ask: kernel command line: karg 'composefs.digest': expected one image, found v1 sha512:{digest} \
                                 and v1 sha512:{other}";
const CONTRADICTION: &str = "ask: kernel command line: expected one image (policy.alternatives = \"refuse\"), found";

/// What the command line and the configuration ask for.
pub fn asked() -> Vec<Scenario> {
    let both = |name, kargs: &[&str], found: &str| case(name).kargs(kargs).refused(&format!("{CONTRADICTION} {found}"));
    vec![
        // Whoever can append to the command line and delete a file chose the system once.
        both(
            "second_digest_appended",
            &["{karg}", "composefs={SHA512_V2}"],
            "v1 sha512:{digest} and sha512:{SHA512_V2}",
        )
        .debugfs(&["rm /composefs/images/{digest}"]),
        // Not even a config that allows a digest for each key allows two for one.
        case("second_digest_under_the_same_key")
            .policy("alternatives = \"first-existing\"")
            .kargs(&["{karg}", "composefs.digest=v1-sha512-12:{other}"])
            .debugfs(&["rm /composefs/images/{digest}"])
            .refused(TWO_UNDER_ONE_KEY),
        case("no_karg")
            .kargs(&["some=argument"])
            .refused("ask: kernel command line: expected a karg 'composefs.digest' or 'composefs', found neither"),
        case("question_mark")
            .kargs(&["composefs.digest=?v1-sha512-12:{digest}"])
            .refused(&format!("{UNVERIFIED} (policy.unverified = \"refuse\"), found '?' in karg 'composefs.digest'")),
        // Under Secure Boot no configuration helps.
        case("question_mark_allowed")
            .firmware_only()
            .boundary()
            .policy("unverified = \"allow-without-secure-boot\"")
            .kargs(&["composefs.digest=?v1-sha512-12:{digest}"])
            .refused(&format!("{UNVERIFIED} (Secure Boot is enforced), found '?' in karg 'composefs.digest'")),
        // The signed config has a key that nobody knows.
        case("config_unknown_key")
            .policy("krag = \"optional\"")
            .refused_like("ask: /usr/lib/sealroot/sealroot.toml:3: unknown key 'policy.krag', expected one of .*"),
        // What is wrong in a file changes nothing about what follows.
        case("config_unknown_key_and_poweroff")
            .policy("on-failure = \"poweroff\"")
            .policy("krag = \"optional\"")
            .comes(Expected::RefusedLikeAnd(
                "ask: /usr/lib/sealroot/sealroot.toml:4: unknown key 'policy.krag', expected one of .*",
                "poweroff",
            )),
        // A machine without firmware that enforces anything.
        case("secure_boot_required_and_absent")
            .native_only()
            .policy("secure-boot = \"require\"")
            .refused("ask: Secure Boot: expected 'enforced' (policy.secure-boot = \"require\"), found 'unsupported'"),
        case("init_planted")
            .and_karg("init=/var/planted-init")
            .write(
                Content::Sealed("/usr/bin/id"),
                &["cd /{state}/var", "write {file} planted-init", "set_inode_field planted-init mode 0100755"],
            )
            .refused(
                "prove: new root: '/var/planted-init': expected a sealed file, found one on another mount: <errno 18>",
            ),
        case("init_of_the_physical_root").and_karg("init=/sysroot/sbin/init").refused(
            "prove: new root: '/sysroot/sbin/init': expected a sealed file, found one on another mount: <errno 18>",
        ),
    ]
}

/// sealroot's units, kept from doing their work.
pub fn units() -> Vec<Scenario> {
    let service = |name, text: &str| case(name).open().drop_in(SEALROOT, text);
    let lost = |name, unit: &'static str| case(name).without(unit).limit(120).refused(NO_REPORT);
    vec![
        // A unit that is skipped counts as started: the gate before the pivot must notice.
        service("unit_skipped", SKIPPED).boundary().refused(NO_REPORT).never_says("Starting sealroot.service"),
        service("program_killed", "[Service]\nExecStart=\nExecStart=/bin/sh -c \"kill -KILL $$$$\"\n")
            .refused(NO_VERDICT),
        service(
            "program_timed_out",
            "[Service]\nExecStart=\nExecStart=/bin/sh -c \"while :; do :; done\"\nTimeoutStartSec=3\n",
        )
        .refused(NO_VERDICT),
        case("unit_masked").systemd().and_karg("rd.systemd.mask=sealroot.service").refused(NO_REPORT),
        lost("unit_disabled", "usr/lib/systemd/system/initrd-root-fs.target.requires/sealroot.service"),
        lost("unit_removed", "usr/lib/systemd/system/sealroot.service"),
        // root= names a partition that is not there. dracut waits for ever by default; rd.timeout= is its limit in seconds.
        case("root_disk_missing").systemd().root(MISSING_DISK).and_karg("rd.timeout=5").limit(120).refused(NO_VERDICT),
        // cfsctl writes a `?` into the boot entry where it finds no fs-verity, on whatever machine that was.
        case("prepared_without_fs_verity")
            .seldom()
            .prepared()
            .kargs(&["{PREPARED_KARG}"])
            .refused(
                "ask: kernel command line: expected verification to be required (policy.unverified = \"refuse\"), found '?' in karg \
                 'composefs.digest'",
            ),
        // One of two disks of a RAID 1 has failed, and the mount says nothing of `degraded`.
        case("half_of_a_mirror_missing")
            .seldom()
            .filesystem("mirror", "subvol=root")
            .halved()
            .and_karg("rd.timeout=5")
            .limit(120)
            .says("Timed out waiting for device ")
            .says("Dependency failed for sysroot.mount")
            .refused(NO_VERDICT),
        // Without it systemd would wait for the disk for ever, but for our limit of the mount, made shorter here.
        case("root_disk_missing_without_timeout")
            .open()
            .root(MISSING_DISK)
            .drop_in("sysroot.mount", "[Unit]\nJobTimeoutSec=15\n")
            .limit(120)
            .refused(NO_VERDICT),
    ]
}

/// Units that are skipped, a gate that asks nobody, and nothing that compares.
fn everything_masked(name: &'static str) -> Scenario {
    case(name)
        .manifest()
        .in_front("etc/systemd/system/sealroot.service.d/zz.conf", Added::File(SKIPPED))
        .in_front("etc/systemd/system/sealroot-guard.service.d/zz.conf", Added::File(SKIPPED))
        .in_front("etc/systemd/system/initrd-switch-root.service.d/zz.conf", Added::File(NO_GATE))
        .in_front("etc/systemd/system-generators/sealroot-generator", Added::Link("/dev/null"))
        .comes(Expected::Bypassed("decoy: the physical root is running"))
}

/// The kernel gives up behind an archive with a damaged end, and what is signed is never unpacked.
fn damaged(name: &'static str, on: fn(Scenario) -> Scenario) -> Scenario {
    const INIT: &str = "#!/bin/busybox sh\necho another initramfs runs\nexec /bin/busybox poweroff -f\n";
    on(case(name).manifest())
        .in_front("bin/busybox", Added::Program("/usr/bin/busybox"))
        .in_front("init", Added::File(INIT))
        .in_front("", Added::Garbage)
        .says("Initramfs unpacking failed")
        .comes(Expected::Bypassed("another initramfs runs"))
}

fn by_loader(scenario: Scenario) -> Scenario {
    scenario
        .on_esp(sealed_uki, "EFI/sealed.efi")
        .on_esp(entry_with_an_initramfs, "loader/entries/attack.conf")
        .on_esp(front, "front.cpio")
}

fn front(_: &World, scenario: &Scenario, scratch: &Path) -> Result<PathBuf> {
    let file = scratch.join("front.cpio");
    fs::write(&file, scenario.front()?)?;
    Ok(file)
}

fn entry_with_an_initramfs(_: &World, _: &Scenario, scratch: &Path) -> Result<PathBuf> {
    let entry = scratch.join("attack.conf");
    fs::write(&entry, "title attack\nlinux /EFI/sealed.efi\ninitrd /front.cpio\n")?;
    Ok(entry)
}

/// Another initramfs is unpacked before the signed one, which has the list of its own files.
pub fn initramfs() -> Vec<Scenario> {
    let not_listed = |name, path, added, found: &str| {
        let top = found.split(' ').next().unwrap_or_default();
        let reason = format!("ask: initramfs: '{top}': expected none, found {}", &found[top.len() + 1..]);
        case(name).manifest().in_front(path, added).refused(&reason).never_says("Starting sealroot.service")
    };
    vec![
        not_listed(
            "initramfs_with_a_drop_in_more",
            "etc/systemd/system/sealroot.service.d/zz.conf",
            Added::File(SKIPPED),
            "/etc/systemd/system/sealroot.service.d a directory",
        ),
        not_listed(
            "initramfs_with_another_unit",
            "etc/systemd/system/sealroot.service",
            Added::Link("/dev/null"),
            "/etc/systemd/system/sealroot.service a symbolic link",
        ),
        // Then nothing is compared, and the boot program says so.
        case("initramfs_without_the_generator")
            .manifest()
            .in_front("etc/systemd/system-generators/sealroot-generator", Added::Link("/dev/null"))
            .refused(
                "ask: initramfs: expected it to be compared with '/usr/lib/sealroot/manifest' before any unit, found that it \
                 was not",
            ),
        // The boot program has no say any more, nor has the gate: this stays open.
        everything_masked("initramfs_with_everything_masked"),
        damaged("initramfs_that_is_damaged", |scenario| scenario),
        // The same by a boot loader, which is signed, and its entry, which is not.
        by_loader(everything_masked("initramfs_of_the_loader_with_everything_masked").by_loader()),
        // A stub puts its own archives behind it, and the signed one behind those.
        by_loader(damaged("initramfs_of_the_loader_that_is_damaged", Scenario::by_loader)),
        by_loader(
            case("initramfs_of_the_loader_with_a_drop_in_more")
                .by_loader()
                .manifest()
                .in_front("etc/systemd/system/sealroot.service.d/zz.conf", Added::File(SKIPPED))
                .refused("ask: initramfs: '/etc/systemd/system/sealroot.service.d': expected none, found a directory"),
        ),
        case("stub_that_takes_an_initramfs")
            .firmware_only()
            .manifest()
            .uki("--stub")
            .uki("forky")
            .must("report", ".*\"bypasses\":\\[.*\"stub-initrd\".*"),
        // What the signed one has, too, is replaced by it.
        case("initramfs_with_an_older_unit")
            .manifest()
            .in_front("usr/lib/systemd/system/sealroot.service", Added::File("[Service]\nExecStart=/bin/true\n")),
    ]
}

/// Something is mounted over a directory of the assembled root before the pivot.
pub fn mounts() -> Vec<Scenario> {
    let service = |name, text: &str| case(name).open().drop_in(SEALROOT, text);
    let covered = "gate: mount '/usr/share': expected no mount over sealed content, found tmpfs";
    let tmpfs_over = |name, point: &str| {
        service(name, &format!("[Service]\nExecStartPost=/bin/mount -t tmpfs covering /sysroot{point}\n"))
    };
    let over_sealed = |name, point: &str| {
        tmpfs_over(name, point)
            .refused(&format!("gate: mount '{point}': expected no mount over sealed content, found tmpfs covering"))
    };
    // systemd would leave it there, and start the units in it.
    let over_taken_along = |name, point: &str| {
        tmpfs_over(name, point)
            .refused(&format!("gate: mount '{point}': expected the initramfs's own or none, found tmpfs covering"))
    };
    vec![
        over_sealed("tmpfs_over_usr", "/usr/lib"),
        // An overlay over the sealed /etc shows that.
        over_sealed("tmpfs_over_etc_systemd", "/etc/systemd"),
        over_sealed("tmpfs_over_etc_systemd_transient", "/etc/systemd").etc("mount = \"transient\""),
        // No unit is there in the image.
        over_sealed("empty_directory_of_etc_covered", "/etc/systemd/network").etc("mount = \"none\""),
        over_taken_along("tmpfs_over_run", "/run"),
        over_taken_along("tmpfs_over_dev", "/dev"),
        service("bind_over_usr", "[Service]\nExecStartPost=/bin/mount --bind /sysroot/var /sysroot/usr/bin\n")
            .refused_like("gate: mount '/usr/bin': expected no mount over sealed content, found ext4 /dev/(vd|ubd)a2"),
        case("fstab_planted_and_read_in_the_initrd")
            .open()
            .systemd()
            .write(Content::Text(format!("{FSTAB} x-initrd.mount 0 0\n")), &PLANT_FSTAB)
            .refused(&format!("{covered} tmpfs")),
        // The image's own fstab, which it has in the image `other`.
        case("fstab_of_the_image")
            .open()
            .systemd()
            .kargs(&["composefs.digest=v1-sha512-12:{other}", "rd.shell=0", "rd.emergency=halt"])
            .refused(&format!("{covered} covered")),
    ]
}

const PLANT_FSTAB: [&str; 2] = ["cd /{state}/etc/upper", "write {file} fstab"];

/// What has no effect on a sealed command line, all at once: the machine boots as if nothing had happened.
pub fn nothing_happens() -> Vec<Scenario> {
    let mut scenario = extensions_on_the_disk(case("nothing_happens"))
        .systemd()
        .boundary()
        .loader("default attack.conf\n")
        .and_karg("ro")
        .and_karg("overlay.metacopy=1")
        .and_karg("overlay.redirect_dir=1")
        .and_karg("overlay.redirect_always_follow=1")
        // The metadata of the repository decides nothing.
        .write(Content::Text("{\"version\":1,\"algorithm\":\"fsverity-sha256-12\",\"insecure\":true}\n".into()), &META);
    // /etc and /var are mounted nosuid and nodev.
    for folder in ["cd /{state}/var", "cd /{state}/etc/upper"] {
        scenario = scenario.write(
            Content::Sealed("/usr/bin/id"),
            &[
                folder,
                "write {file} planted-setuid",
                "set_inode_field planted-setuid mode 0104755",
                "mknod planted-device c 1 5",
                "set_inode_field planted-device mode 020666",
            ],
        );
    }
    scenario = scenario
        // The overlay over /etc hides things in /etc, and nothing else.
        .debugfs(&[
            "cd /{state}/etc/upper",
            "mknod planted-whiteout c 0 0",
            "mknod debian_version c 0 0",
            "mkdir alternatives",
            "ea_set alternatives trusted.overlay.opaque y",
        ])
        // A file whose content is that of a sealed one that only root may read; an empty metacopy is the oldest form of it.
        // The kernel's overlayfs would believe it by default.
        .write(
            Content::Text("planted\n".into()),
            &[
                "cd /{state}/etc/upper",
                "write {file} planted-redirect",
                "set_inode_field planted-redirect mode 0100644",
                "ea_set planted-redirect trusted.overlay.redirect /shadow",
                "ea_set -f /dev/null planted-redirect trusted.overlay.metacopy",
            ],
        )
        .write(Content::Text(format!("{FSTAB} x-initrd.mount 0 0\n")), &PLANT_FSTAB)
        .on_esp(sealed_uki, "EFI/sealed.efi")
        .on_esp(attack_entry, "loader/entries/attack.conf")
        // An addon with a command line, beside the image.
        .on_esp(unsigned_addon, "EFI/sealed.efi.extra.d/unsigned.addon.efi")
        .on_esp(signed_addon, "EFI/sealed.efi.extra.d/signed.addon.efi")
        // What the stub passes on of what lies there.
        .on_esp(plain_credential, "EFI/sealed.efi.extra.d/planted.cred")
        .on_esp(plain_credential, "loader/credentials/planted.cred")
        .on_esp(extension, "EFI/sealed.efi.extra.d/planted.sysext.raw")
        .on_esp(configuration_extension, "EFI/sealed.efi.extra.d/planted.confext.raw")
        // Addons for whatever is started.
        .on_esp(unsigned_addon, "loader/addons/unsigned.addon.efi")
        .on_esp(signed_addon, "loader/addons/signed.addon.efi")
        // PID 1 takes it for a command line where there is no Secure Boot.
        .planted(Vendor::Systemd, "SystemdOptions", "rd.systemd.unit=emergency.target systemd.unit=rescue.target")
        .further_partitions()
        .hybrid_mbr()
        // The physical root takes itself for an initramfs, and has what an initramfs has while it runs.
        .write(Content::Text("ID=planted\n".into()), &["cd /etc", "write {file} initrd-release"])
        .write(
            Content::Text("{\"version\":1,\"verdict\":\"sealed\"}\n".into()),
            &["cd /run", "mkdir sealroot", "cd sealroot", "write {file} report.json"],
        )
        .write(
            Content::Text(EXTENSION_UNIT.into()),
            &[
                "cd /run",
                "mkdir systemd",
                "mkdir systemd/system",
                "mkdir systemd/system/multi-user.target.wants",
                "symlink systemd/system/multi-user.target.wants/planted.service ../planted.service",
                "cd systemd/system",
                "write {file} planted.service",
            ],
        )
        .write(
            Content::Text("planted".into()),
            &[
                "mkdir /.extra",
                "mkdir /.extra/credentials",
                "mkdir /sysroot/sysroot",
                "cd /.extra/credentials",
                "write {file} planted.cred",
            ],
        )
        .drop_in(SEALROOT, SKIPPED)
        .drop_in(PIVOT, NO_GATE)
        .never_says("extension-was-here")
        .never_says("home.mount")
        .never_says("srv.mount")
        .never_says("var-tmp.mount")
        .never_says(".swap")
        // overlayfs refuses to follow it, and so to look it up.
        .says("refusing to follow metacopy origin for (/planted-redirect)")
        // Hidden where it was planted to be hidden, and nowhere else.
        .must("hidden", "/etc/debian_version")
        .says("is set, skipping importing of credentials")
        .never_says("addon-was-here");
    for folder in ["var", "etc"] {
        scenario = scenario
            .must(&format!("/{folder}/planted-setuid"), "65534")
            .must(&format!("/{folder}/planted-device"), ".*Permission denied");
    }
    let scenario = scenario.also_with_firmware(&[
        "second_karg",
        "addon_unsigned",
        "addon_signed_with_another_key",
        "credentials_on_the_esp",
        "extension_on_the_esp",
        "configuration_extension_on_the_esp",
        "addon_for_all_images",
        "systemd_options_planted",
    ]);
    vec![scenario.also(&[
        "repository_says_insecure",
        "setuid_files_planted",
        "devices_planted",
        "whiteouts_planted",
        "redirect_planted",
        "fstab_planted",
        "credential_against_the_service",
        "credential_against_the_gate",
        "root_mounted_read_only",
        "extension_in_var",
        "extension_in_etc",
        "configuration_extension_in_var",
        "further_partitions",
        "hybrid_mbr",
        "initrd_release_planted",
        "run_of_an_initramfs_planted",
    ])]
}

/// System extensions, and one of the configuration, where the booted system would merge them.
fn extensions_on_the_disk(mut scenario: Scenario) -> Scenario {
    let places = [
        ("/{state}/var", "lib/extensions/planted/usr/lib"),
        ("/{state}/var/lib", "confexts/planted/etc"),
        ("/{state}/etc/upper", "extensions/planted/usr/lib"),
    ];
    for (base, within) in places {
        let top = format!("{base}/{within}");
        let ends = within.match_indices('/').map(|(end, _)| end).chain([within.len()]);
        let mut commands: Vec<_> = ends.map(|end| format!("mkdir {base}/{}", &within[..end])).collect();
        for folder in ["extension-release.d", "systemd", "systemd/system", "systemd/system/multi-user.target.upholds"] {
            commands.push(format!("mkdir {top}/{folder}"));
        }
        let link = "systemd/system/multi-user.target.upholds/planted.service";
        commands.push(format!("symlink {top}/{link} ../planted.service"));
        let release = [format!("cd {top}/extension-release.d"), "write {file} extension-release.planted".into()];
        let unit = [format!("cd {top}/systemd/system"), "write {file} planted.service".into()];
        scenario = scenario
            .debugfs(&commands.iter().map(String::as_str).collect::<Vec<_>>())
            .write(Content::Text(EXTENSION_RELEASE.into()), &release.each_ref().map(String::as_str))
            .write(Content::Text(EXTENSION_UNIT.into()), &unit.each_ref().map(String::as_str));
    }
    scenario
}

/// What sealroot cannot close, on a command line that leaves it open.
pub fn open() -> Vec<Scenario> {
    let shell =
        |name, karg: &str| case(name).systemd().wide_open().and_karg(karg).limit(120).comes(Expected::Shell(SHELL));
    vec![
        // Credentials take the gate away, the writable /etc has mounts for later, and somebody chooses what is started. This
        // boot is sealed all the same, since the boot program ran, and says what is missing on the command line.
        case("gate_removed")
            .open()
            .boundary()
            .and_karg("systemd.unit=multi-user.target")
            .drop_in(PIVOT, NO_GATE)
            .write(Content::Text(format!("{FSTAB} nofail 0 0\n")), &PLANT_FSTAB)
            .comes(Expected::Open(&[
                ("imported-credentials", "systemd.import_credentials=no"),
                ("fstab", "fstab=no rd.fstab=no"),
            ]))
            .must("report-verdict", "sealed")
            .must("root", "composefs:{digest} ro,.*")
            .also(&["fstab_planted_and_read_later", "systemd_unit"]),
        case("program_run_by_the_command_line")
            .open()
            .systemd()
            .and_karg("systemd.run=/var/planted")
            .write(
                Content::Text("#!/bin/sh\necho planted-was-here >/dev/console\n".into()),
                &["cd /{state}/var", "write {file} planted", "set_inode_field planted mode 0100755"],
            )
            .comes(Expected::Bypassed("planted-was-here")),
        case("home_partition_mounted")
            .open()
            .systemd()
            .further_partitions()
            .comes(Expected::Open(&[("other-partitions", "systemd.gpt_auto=no")]))
            .says("Mounted home.mount")
            .says("Mounted srv.mount")
            .says("Mounted var-tmp.mount"),
        shell("rd_systemd_unit", "rd.systemd.unit=emergency.target"),
        // By itself it starts nothing from the disk, and the account of root is locked.
        shell("rd_break", "rd.break=pre-mount"),
    ]
}

/// What comes before sealroot: the firmware, the boot loader, the stub.
pub fn before() -> Vec<Scenario> {
    vec![
        case("unsigned_uki").firmware_only().boundary().uki("--unsigned").comes(Expected::RefusedByFirmware),
        // A boot loader's own variable does not outlive the boot: this one would have the machine restart for ever.
        case("boot_counter_planted")
            .firmware_only()
            .planted(Vendor::Loader, "LoaderBootCountPath", "\\EFI\\Linux\\planted+3.efi")
            .image_replaced()
            .refused("measure: {image}: expected sha512:{digest}, measured sha512:{other}")
            .says("LoaderBootCountPath"),
        // Where nothing is sealed anyway.
        case("systemd_options_without_secure_boot")
            .firmware_only()
            .no_secure_boot()
            .planted(Vendor::Systemd, "SystemdOptions", "systemd.unit=poweroff.target")
            .comes(Expected::Bypassed("reboot: Power down")),
        // systemd's stub takes it then; the project's takes it never.
        case("second_karg_without_secure_boot")
            .systemd_stub()
            .boundary()
            .no_secure_boot()
            .loader("default attack.conf\n")
            .on_esp(sealed_uki, "EFI/sealed.efi")
            .on_esp(attack_entry, "loader/entries/attack.conf")
            .refused(TWO_UNDER_ONE_KEY),
    ]
}

fn sealed_uki(world: &World, scenario: &Scenario, _: &Path) -> Result<PathBuf> {
    scenario.make_uki(world, &[])
}

/// A boot loader's entry that starts the image with one more karg.
fn attack_entry(world: &World, scenario: &Scenario, scratch: &Path) -> Result<PathBuf> {
    let line = scenario.make_uki(world, &["--print-command-line"])?;
    let more = world.fill("composefs.digest=v1-sha512-12:{other}")?;
    let entry = scratch.join("attack.conf");
    fs::write(&entry, format!("title attack\nefi /EFI/sealed.efi\noptions {} {more}\n", line.display()))?;
    Ok(entry)
}

/// For any system; once it is merged, PID 1 looks for units anew.
const EXTENSION_RELEASE: &str = "ID=_any\nEXTENSION_RELOAD_MANAGER=1\n";
const EXTENSION_UNIT: &str =
    "[Unit]\nDefaultDependencies=no\n[Service]\nExecStart=/bin/echo extension-was-here\nStandardOutput=tty\n";

/// A credential that nobody encrypted.
fn plain_credential(_: &World, _: &Scenario, scratch: &Path) -> Result<PathBuf> {
    let file = scratch.join("planted.cred");
    fs::write(&file, "planted")?;
    Ok(file)
}

/// A system extension with a unit, for the initramfs and for the booted system.
fn extension(_: &World, _: &Scenario, scratch: &Path) -> Result<PathBuf> {
    extension_of("usr/lib", &scratch.join("planted.sysext.raw"))
}

/// The same for the configuration.
fn configuration_extension(_: &World, _: &Scenario, scratch: &Path) -> Result<PathBuf> {
    extension_of("etc", &scratch.join("planted.confext.raw"))
}

fn extension_of(folder: &str, image: &Path) -> Result<PathBuf> {
    let tree = image.with_extension("d");
    let units = tree.join(folder).join("systemd/system");
    let release = tree.join(folder).join("extension-release.d");
    fs::create_dir_all(&release)?;
    fs::write(release.join("extension-release.planted"), EXTENSION_RELEASE)?;
    for target in ["initrd.target.wants", "multi-user.target.upholds"] {
        fs::create_dir_all(units.join(target))?;
        symlink("../planted.service", units.join(target).join("planted.service"))?;
    }
    fs::write(units.join("planted.service"), EXTENSION_UNIT)?;
    disk::run(Command::new("mke2fs").args(["-q", "-t", "ext4", "-d"]).arg(&tree).arg(image).arg("2M"))?;
    Ok(image.into())
}

fn unsigned_addon(_: &World, _: &Scenario, _: &Path) -> Result<PathBuf> {
    addon()
}

fn addon() -> Result<PathBuf> {
    builders::built("uki", &["--addon", "addon-was-here"])
}

/// An addon with the signature of a key that the firmware does not know.
fn signed_addon(_: &World, _: &Scenario, scratch: &Path) -> Result<PathBuf> {
    let [key, certificate, signed] = ["key", "certificate", "addon.efi"].map(|name| scratch.join(name));
    let mut request = Command::new("openssl");
    request.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=attacker", "-keyout"]);
    disk::run(request.arg(&key).arg("-out").arg(&certificate))?;
    sign(Path::new(&addon()?), &key, &certificate, &signed)?;
    Ok(signed)
}
