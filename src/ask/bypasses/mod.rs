//! What a boot leaves open that sealroot cannot close by itself (SECURITY.md): command line, boot stub,
//! configuration.

use crate::ask::config::{FirmwareStrings, StateMount};
use crate::ask::firmware::{Lockdown, SecureBoot};
use crate::ask::keep::KeepList;
use crate::ask::policy::Resolved;
use crate::ask::stub::{Extra, Stub};
use crate::formats::names::names;

mod arguments;

use arguments::Arguments;

/// A way around the seal that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bypass {
    /// PID 1 takes credentials from SMBIOS strings, and with them units.
    ImportedCredentials,
    /// PID 1 takes credentials from a cloud's metadata service, whose address is whoever answers there (systemd 261).
    MetadataService,
    /// A writable `/etc/fstab` can mount over the sealed root.
    Fstab,
    /// The initrd can give a root shell.
    InitrdShell,
    /// A hibernation image on the disk can be resumed.
    Hibernation,
    /// The command line has the booted system run, start or mount something more.
    ExtraUnits,
    /// Images and folders of a writable directory are merged over /usr and /etc.
    Extensions,
    /// Further partitions of the disk are mounted, or swapped to.
    OtherPartitions,
    /// An EFI variable has partitions erased (systemd 258).
    FactoryReset,
    /// The superblock of the physical root says what follows an error on it, a panic of the kernel for one.
    DiskErrors,
    /// The machine-id on the disk can have PID 1 take any boot for the first one: presets, questions at the console.
    FirstBoot,
    /// At shutdown, dracut unpacks an initramfs and PID 1 runs a program of it: the first that it finds, on the EFI system partition
    /// if that is mounted.
    ShutdownInitrd,
    /// What lies in a persistent /etc is read by PID 1 and by each program: `ld.so.preload`, units.
    WritableEtc,
    /// Services of the image that run as root read a persistent /var, and some write to where a link in it leads.
    WritableVar,
    /// Strings of the machine's set-up that add to what was signed are only reported.
    FirmwareStrings,
    /// The boot stub puts an SMBIOS string behind the signed command line. The boot program refuses such a string, unless
    /// `rdinit=` in it has the kernel start something else, or a variable in it has PID 1 load code or run no generator.
    StubCommandLine,
    /// The boot stub adds a boot loader's initramfs to the signed one.
    StubInitrd,
    /// No boot stub says that it started the kernel: the command line is the boot loader's.
    UnsignedCommandLine,
}

names!(Bypass:
    ImportedCredentials = "imported-credentials",
    MetadataService = "metadata-service",
    Fstab = "fstab",
    InitrdShell = "initrd-shell",
    Hibernation = "hibernation",
    ExtraUnits = "extra-units",
    Extensions = "extensions",
    OtherPartitions = "other-partitions",
    FactoryReset = "factory-reset",
    DiskErrors = "disk-errors",
    FirstBoot = "first-boot",
    ShutdownInitrd = "shutdown-initrd",
    WritableEtc = "writable-etc",
    WritableVar = "writable-var",
    FirmwareStrings = "firmware-strings",
    StubCommandLine = "stub-command-line",
    StubInitrd = "stub-initrd",
    UnsignedCommandLine = "unsigned-command-line"
);

impl Bypass {
    /// What would close it: kernel arguments, or words that name something else.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::ImportedCredentials => "systemd.import_credentials=no",
            Self::MetadataService => "systemd.imds=no",
            Self::Fstab => "fstab=no rd.fstab=no",
            Self::InitrdShell => "rd.shell=0 rd.emergency=halt",
            Self::Hibernation => "noresume",
            Self::ExtraUnits => "no argument for units or mounts",
            Self::Extensions => "systemd.mask=systemd-sysext.service systemd.mask=systemd-confext.service",
            Self::OtherPartitions => "systemd.gpt_auto=no",
            Self::FactoryReset => "systemd.factory_reset=no",
            Self::DiskErrors => "rootflags=errors=remount-ro",
            Self::FirstBoot => "systemd.condition_first_boot=no systemd.firstboot=no",
            Self::ShutdownInitrd => "systemd.mask=dracut-shutdown.service",
            Self::WritableEtc => "etc.keep of nothing but data, or etc.mount = \"transient\" or \"none\"",
            Self::WritableVar => "var.mount = \"transient\" or \"none\"",
            Self::FirmwareStrings => "policy.firmware-strings = \"refuse\"",
            Self::StubCommandLine => "a boot stub that takes no SMBIOS string (sealroot-stub)",
            Self::StubInitrd => "a boot stub that takes no initramfs of a boot loader (sealroot-stub)",
            Self::UnsignedCommandLine => "a unified kernel image",
        }
    }
}

/// What closes all bypasses that kernel arguments close, on a physical root with ext4.
pub const SEALED: [Bypass; 11] = [
    Bypass::ImportedCredentials,
    Bypass::MetadataService,
    Bypass::Fstab,
    Bypass::InitrdShell,
    Bypass::Hibernation,
    Bypass::Extensions,
    Bypass::OtherPartitions,
    Bypass::FactoryReset,
    Bypass::DiskErrors,
    Bypass::FirstBoot,
    Bypass::ShutdownInitrd,
];

/// The filesystem of the physical root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PhysicalFilesystem {
    /// ext4, whose superblock says what follows an error, or it is not known.
    MayBeExt4,
    /// Another.
    Other,
}

/// What is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Boot<'a> {
    /// The command line that the system sees, with its settings.
    pub resolved: &'a Resolved,
    /// The kernel's lockdown.
    pub lockdown: Lockdown,
    /// Whether signatures are checked at all.
    pub secure_boot: SecureBoot,
    /// The boot stub; `None` where none says that it was there.
    pub stub: Option<Stub>,
    /// What is below the repository.
    pub filesystem: PhysicalFilesystem,
}

/// The bypasses of a boot, in the order of [`Bypass`].
pub fn find(boot: &Boot<'_>) -> Vec<Bypass> {
    let Boot { resolved, lockdown, secure_boot, stub, filesystem } = *boot;
    let (asked, settings) = (Arguments(resolved.command_line()), resolved.settings());
    let (etc, var) = (*settings.etc.value(), *settings.var.value());
    let etc_persists = matches!(etc, StateMount::Overlay | StateMount::Bind);
    let var_persists = matches!(var, StateMount::Overlay | StateMount::Bind);
    // Who plants a variable, or has the kernel do without the firmware, hides which stub it was.
    let firmware = matches!(secure_boot, SecureBoot::Enforced | SecureBoot::Unknown);
    let stub_that_adds = stub.or(firmware.then_some(Stub::Unknown));
    let keep = settings.etc_keep.value().as_ref();
    let keeps_data = keep.is_some_and(KeepList::is_data);
    let persists = |path: &[u8]| etc_persists && keep.is_none_or(|list| list.matches(path));
    let adds = |extra| stub_that_adds.is_some_and(|stub| stub.adds(extra));
    [
        (
            Bypass::ImportedCredentials,
            !asked.is_off("systemd.import_credentials") || asked.is_on("rd.systemd.import_credentials"),
        ),
        (Bypass::MetadataService, !asked.is_off("systemd.imds")),
        // In the initrd, systemd-fstab-generator takes either form, and the gate sees what it mounts.
        (Bypass::Fstab, persists(b"fstab") && (!asked.is_off("fstab") || asked.is_on("rd.fstab"))),
        (Bypass::InitrdShell, asked.shell()),
        (
            Bypass::Hibernation,
            !(asked.is_bare("noresume") || asked.is_bare("nohibernate") || lockdown == Lockdown::Active),
        ),
        (Bypass::ExtraUnits, asked.units()),
        (Bypass::Extensions, (etc_persists || var_persists) && !asked.masks_extensions()),
        // In the initrd, systemd-gpt-auto-generator finds the root and mounts no other partition; rd.systemd.gpt_auto has it do that.
        (Bypass::OtherPartitions, !asked.is_off("systemd.gpt_auto")),
        (Bypass::FactoryReset, !asked.is_off("systemd.factory_reset")),
        (Bypass::DiskErrors, filesystem == PhysicalFilesystem::MayBeExt4 && !asked.survives_disk_errors()),
        (
            Bypass::FirstBoot,
            persists(b"machine-id")
                && !(asked.is_off("systemd.condition_first_boot") && asked.is_off("systemd.firstboot")),
        ),
        (Bypass::ShutdownInitrd, !asked.masks("dracut-shutdown.service")),
        (Bypass::WritableEtc, etc_persists && !keeps_data),
        (Bypass::WritableVar, var_persists),
        (Bypass::FirmwareStrings, *settings.firmware_strings.value() == FirmwareStrings::Report),
        (Bypass::StubCommandLine, adds(Extra::CommandLine)),
        (Bypass::StubInitrd, adds(Extra::Initrd)),
        (Bypass::UnsignedCommandLine, firmware && stub.is_none()),
    ]
    .into_iter()
    .filter_map(|(bypass, open)| open.then_some(bypass))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ask::cmdline::CommandLine;
    use crate::ask::config::Config;

    fn sealed() -> String {
        SEALED.map(Bypass::remedy).join(" ")
    }

    /// Where a test says nothing of /var, that does not persist.
    fn resolved(line: &str, config: &str) -> Resolved {
        let var = if config.contains("[var]") { "" } else { VAR };
        let config = Config::from_sealroot_toml(&format!("{config}{var}")).unwrap();
        Resolved::new(CommandLine::split(line.as_bytes()), config, Config::default())
    }

    /// A boot that is closed but for command line and settings.
    fn boot(resolved: &Resolved) -> Boot<'_> {
        Boot {
            resolved,
            lockdown: Lockdown::None,
            secure_boot: SecureBoot::Enforced,
            stub: Some(Stub::Systemd(253)),
            filesystem: PhysicalFilesystem::MayBeExt4,
        }
    }

    /// Of a command line and a configuration alone.
    fn bypasses(line: &str, config: &str) -> Vec<Bypass> {
        find(&boot(&resolved(line, config)))
    }

    #[test]
    fn a_persistent_etc_of_data() {
        let line = format!("{} rootfstype=ext4 fsck.mode=force", sealed());
        let found = |config: &str| find(&boot(&resolved(&line, config)));
        assert_eq!(found(KEEP), []);
        assert_eq!(found("[etc]\nkeep = [\"machine-id\"]\n"), []);
        assert_eq!(found(""), [Bypass::WritableEtc]);
        for mount in ["transient", "none"] {
            assert_eq!(found(&format!("[etc]\nmount = \"{mount}\"\n")), []);
        }
    }

    const KEEP: &str = "[etc]\nkeep = []\n";
    const VAR: &str = "[var]\nmount = \"transient\"\n";

    #[test]
    fn a_sealed_command_line_leaves_none() {
        assert_eq!(bypasses(&sealed(), KEEP), []);
    }

    #[test]
    fn each_one_alone() {
        use Bypass::*;
        for (remove, add, bypass) in [
            ("systemd.import_credentials=no", "", ImportedCredentials),
            ("systemd.import_credentials=no", "systemd.import_credentials=yes", ImportedCredentials),
            ("", "systemd.import_credentials", ImportedCredentials),
            ("", "rd.systemd.import_credentials=yes", ImportedCredentials),
            ("systemd.imds=no", "", MetadataService),
            ("", "systemd.imds=yes", MetadataService),
            ("fstab=no rd.fstab=no", "", Fstab),
            ("", "rd.fstab=yes", Fstab),
            ("", "fstab", Fstab),
            ("rd.shell=0", "", InitrdShell),
            ("rd.emergency=halt", "", InitrdShell),
            ("", "rd.break", InitrdShell),
            ("", "rd.break=pre-pivot", InitrdShell),
            ("", "rd.systemd.break=pre-mount", InitrdShell),
            ("", "systemd.break", InitrdShell),
            ("", "SYSTEMD_SULOGIN_FORCE=1", InitrdShell),
            ("", "rd.systemd.debug_shell", InitrdShell),
            ("", "systemd.debug-shell", InitrdShell),
            ("", "rd.shell", InitrdShell),
            ("rd.shell=0", "rd.shell=false", InitrdShell),
            ("", "rd.systemd.unit=rescue.target", InitrdShell),
            ("", "rd.rescue", InitrdShell),
            ("", "rd.emergency", InitrdShell),
            ("", "rescue", InitrdShell),
            ("", "rd.cmdline=ask", InitrdShell),
            ("", "init=/usr/bin/bash", InitrdShell),
            ("", "init=sh", InitrdShell),
            ("", "init=/usr/bin/python3", InitrdShell),
            ("", "1", InitrdShell),
            ("", "s", InitrdShell),
            ("", "-b", InitrdShell),
            ("", "systemd.crash_shell", InitrdShell),
            ("", "systemd.confirm_spawn", InitrdShell),
            ("", "systemd.confirm_spawn=/dev/tty0", InitrdShell),
            ("", "rdinit=/bin/sh", InitrdShell),
            ("", "kgdboc=ttyS0", InitrdShell),
            ("", "kgdbwait", InitrdShell),
            ("", "ekgdboc=kbd", InitrdShell),
            ("noresume", "", Hibernation),
            ("noresume", "noresume=1", Hibernation),
            ("noresume", "nohibernate=1", Hibernation),
            ("", "systemd.run=/bin/true", ExtraUnits),
            ("", "systemd.wants=debug-shell.service", ExtraUnits),
            ("", "rd.systemd.wants=x.service", ExtraUnits),
            ("", "systemd.mount-extra=/dev/sdb:/usr", ExtraUnits),
            ("", "rd.systemd.swap_extra=/dev/sdb", ExtraUnits),
            ("", "systemd.setenv=LD_PRELOAD=/var/x.so", ExtraUnits),
            ("", "mount.usr=/dev/sdb", ExtraUnits),
            ("", "rd.overlay", ExtraUnits),
            ("", "systemd.pull=tar,verify=no:x:https://x", ExtraUnits),
            ("", "systemd.ssh_listen=vsock::22", ExtraUnits),
            ("", "ds=nocloud", ExtraUnits),
            ("", "cloud-config-url=https://x", ExtraUnits),
            ("", "bootconfig", ExtraUnits),
            ("", "ignition.platform.id=qemu", ExtraUnits),
            ("", "LD_PRELOAD=/x.so", ExtraUnits),
            ("", "SYSTEMD_GENERATOR_PATH=/x", ExtraUnits),
            ("", "sysctl.kernel.core_pattern=|/var/x", ExtraUnits),
            ("", "sysctl/kernel.modprobe=/var/x", ExtraUnits),
            ("", "sysctl.kernel/poweroff_cmd=/var/x", ExtraUnits),
            ("systemd.mask=systemd-sysext.service", "", Extensions),
            ("systemd.mask=systemd-confext.service", "", Extensions),
            ("systemd.gpt_auto=no", "", OtherPartitions),
            ("", "systemd.gpt_auto=yes", OtherPartitions),
            ("systemd.factory_reset=no", "", FactoryReset),
            ("systemd.mask=dracut-shutdown.service", "", ShutdownInitrd),
            ("", "systemd.factory_reset", FactoryReset),
            ("rootflags=errors=remount-ro", "", DiskErrors),
            ("", "rootflags=noatime,errors=panic", DiskErrors),
        ] {
            let line = format!("{} {add}", sealed().replace(remove, ""));
            match bypass {
                // An empty list has no fstab.
                Fstab => assert_eq!(bypasses(&line, ""), [Fstab, WritableEtc], "{line}"),
                bypass => assert_eq!(bypasses(&line, KEEP), [bypass], "{line}"),
            }
        }
    }

    #[test]
    fn what_closes_one_otherwise() {
        let line = sealed().replace("rd.fstab=no", "").replace("fstab=no", "");
        for mount in ["transient", "none"] {
            assert_eq!(bypasses(&line, &format!("[etc]\nmount = \"{mount}\"\n")), []);
        }
        assert_eq!(bypasses(&line, KEEP), []);
        assert_eq!(bypasses(&sealed().replace("import_credentials", "import-credentials"), KEEP), []);
        assert_eq!(bypasses(&sealed().replace("noresume", "nohibernate"), KEEP), []);
        // The root is found by the type of its partition, and nothing else is.
        assert_eq!(bypasses(&format!("{} rd.systemd.gpt_auto=yes", sealed()), KEEP), []);
        assert_eq!(bypasses(&sealed().replace("errors=remount-ro", "noatime,errors=continue"), KEEP), []);
        let line = sealed().replace("systemd.mask", "more");
        let bypass = Bypass::ShutdownInitrd;
        assert_eq!(bypasses(&line, "[etc]\nmount = \"none\"\n"), [bypass]);
        let with_var = "[etc]\nmount = \"none\"\n[var]\n";
        assert_eq!(bypasses(&line, with_var), [Bypass::Extensions, bypass, Bypass::WritableVar]);
    }

    #[test]
    fn what_no_argument_closes() {
        assert_eq!(bypasses(&sealed(), ""), [Bypass::WritableEtc]);
        assert_eq!(bypasses(&sealed(), "[etc]\nmount = \"bind\"\n"), [Bypass::WritableEtc]);
        // Who decides whether it is the first boot.
        for remove in ["systemd.condition_first_boot=no ", " systemd.firstboot=no"] {
            let line = sealed().replace(remove, "");
            assert_eq!(bypasses(&line, "[etc]\nkeep = [\"machine-id\"]\n"), [Bypass::FirstBoot]);
            assert_eq!(bypasses(&line, "[etc]\nmount = \"bind\"\n"), [Bypass::FirstBoot, Bypass::WritableEtc]);
            for other in ["keep = [\"hostname\"]", "mount = \"transient\""] {
                assert_eq!(bypasses(&line, &format!("[etc]\n{other}\n")), []);
            }
        }
        for list in
            ["\"*\", \"*/**\"", "\"ld.so.*\"", "\"systemd/**\"", "\"systemd/system/a.service\"", "\"*/rules.d/**\""]
        {
            assert_eq!(bypasses(&sealed(), &format!("[etc]\nkeep = [{list}]\n")), [Bypass::WritableEtc], "{list}");
        }
        for (mount, expected) in [
            ("bind", &[Bypass::WritableVar][..]),
            ("overlay", &[Bypass::WritableVar]),
            ("transient", &[]),
            ("none", &[]),
        ] {
            assert_eq!(bypasses(&sealed(), &format!("{KEEP}[var]\nmount = \"{mount}\"\n")), expected, "{mount}");
        }
        // Whom programs believe, and what opens a disk.
        for list in ["ssl/certs/**", "ssl/certs/ca-certificates.crt", "cryptsetup-keys.d/**"] {
            assert_eq!(bypasses(&sealed(), &format!("[etc]\nkeep = [\"{list}\"]\n")), [Bypass::WritableEtc], "{list}");
        }
        let harmless = "[etc]\nkeep = [\"machine-id\", \"ssh/ssh_host_*\"]\n";
        assert_eq!(bypasses(&sealed(), harmless), []);
        let reported = format!("{KEEP}[policy]\nfirmware-strings = \"report\"\n");
        assert_eq!(bypasses(&sealed(), &reported), [Bypass::FirmwareStrings]);
    }

    #[test]
    fn by_the_machine() {
        let (line, bare) = (sealed(), sealed().replace("noresume", "").replace("rootflags", "rootflag"));
        let found = |line: &str, change: fn(&mut Boot<'_>)| {
            let resolved = resolved(line, KEEP);
            let mut boot = boot(&resolved);
            change(&mut boot);
            find(&boot)
        };
        assert_eq!(found(&bare, |_| ()), [Bypass::Hibernation, Bypass::DiskErrors]);
        assert_eq!(found(&bare, |boot| boot.lockdown = Lockdown::Active), [Bypass::DiskErrors]);
        assert_eq!(found(&bare, |boot| boot.filesystem = PhysicalFilesystem::Other), [Bypass::Hibernation]);
        assert_eq!(found(&line, |boot| boot.stub = Some(Stub::Sealroot)), []);
        assert_eq!(found(&line, |boot| boot.stub = Some(Stub::Systemd(257))), [Bypass::StubCommandLine]);
        let both = [Bypass::StubCommandLine, Bypass::StubInitrd];
        assert_eq!(found(&line, |boot| boot.stub = Some(Stub::Systemd(258))), both);
        assert_eq!(found(&line, |boot| boot.stub = Some(Stub::Unknown)), both);
        let all = [Bypass::StubCommandLine, Bypass::StubInitrd, Bypass::UnsignedCommandLine];
        assert_eq!(found(&line, |boot| boot.stub = None), all);
        assert_eq!(found(&line, |boot| (boot.stub, boot.secure_boot) = (None, SecureBoot::Unknown)), all);
        let off = |boot: &mut Boot<'_>| (boot.stub, boot.secure_boot) = (None, SecureBoot::Off);
        assert_eq!(found(&line, off), []);
    }
}
