//! What a boot leaves open that sealroot cannot close by itself (SECURITY.md): command line, boot stub,
//! configuration.

use crate::cmdline::CommandLine;
use crate::config::{FirmwareStrings, StateMount};
use crate::firmware::{Lockdown, SecureBoot};
use crate::keep::KeepList;
use crate::names::names;
use crate::policy::Settings;
use crate::stub::{Extra, Stub};

/// A way around the seal that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
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
    /// What lies in a persistent /etc is read by PID 1 and by each program: `ld.so.preload`, units.
    WritableEtc,
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

names!(Opening:
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
    WritableEtc = "writable-etc",
    FirmwareStrings = "firmware-strings",
    StubCommandLine = "stub-command-line",
    StubInitrd = "stub-initrd",
    UnsignedCommandLine = "unsigned-command-line"
);

impl Opening {
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
            Self::WritableEtc => "etc.keep, or etc.mount = \"transient\" or \"none\"",
            Self::FirmwareStrings => "policy.firmware-strings = \"refuse\"",
            Self::StubCommandLine => "a boot stub that takes no SMBIOS string",
            Self::StubInitrd => "a boot stub that takes no initramfs of a boot loader",
            Self::UnsignedCommandLine => "a unified kernel image",
        }
    }
}

/// What closes all openings that kernel arguments close, on a physical root with ext4.
pub const SEALED: [Opening; 9] = [
    Opening::ImportedCredentials,
    Opening::MetadataService,
    Opening::Fstab,
    Opening::InitrdShell,
    Opening::Hibernation,
    Opening::Extensions,
    Opening::OtherPartitions,
    Opening::FactoryReset,
    Opening::DiskErrors,
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
    /// The command line that the system sees.
    pub command_line: &'a CommandLine,
    /// Every setting.
    pub settings: &'a Settings,
    /// The kernel's lockdown.
    pub lockdown: Lockdown,
    /// Whether signatures are checked at all.
    pub secure_boot: SecureBoot,
    /// The boot stub; `None` where none says that it was there.
    pub stub: Option<Stub>,
    /// What is below the repository.
    pub filesystem: PhysicalFilesystem,
}

/// Arguments that give a root shell in the initramfs or before a login: units, breakpoints, dracut's questions.
const SHELLS: [&str; 10] = [
    "rd.break",
    "rd.systemd.break",
    "systemd.break",
    "rd.systemd.unit",
    "rd.systemd.debug_shell",
    "systemd.debug_shell",
    "SYSTEMD_SULOGIN_FORCE",
    "rd.rescue",
    "rd.cmdline",
    "rd.live.debug",
];
/// Arguments that have more run, start or mount than the image says.
const UNITS: [&str; 22] = [
    "systemd.run",
    "rd.systemd.run",
    "systemd.wants",
    "rd.systemd.wants",
    "systemd.unit",
    "systemd.setenv",
    "rd.systemd.setenv",
    "systemd.mount_extra",
    "rd.systemd.mount_extra",
    "systemd.swap_extra",
    "rd.systemd.swap_extra",
    "mount.usr",
    "mount.usrfstype",
    "usrhash",
    "roothash",
    "rd.overlay",
    "rd.overlayfs",
    "rd.live.overlay",
    "rd.live.image",
    "ignition.firstboot",
    "ignition.platform.id",
    "ignition.config.url",
];
/// Programs that are a shell when `init=` names them.
const SHELL_PROGRAMS: [&str; 6] = ["sh", "bash", "dash", "zsh", "busybox", "ash"];

/// Variables of PID 1's environment, which the kernel makes of arguments that it does not know.
const ENVIRONMENT: [&str; 3] = ["LD_", "SYSTEMD_", "GLIBC_"];
/// What PID 1 or each program takes for code or for what to start, in /etc.
const CODE: [&str; 19] = [
    "ld.so.preload",
    "ld.so.conf",
    "ld.so.cache",
    "profile",
    "environment",
    "bash.bashrc",
    "crontab",
    "nsswitch.conf",
    "pam.conf",
    "passwd",
    "rc.local",
    "shadow",
    "sudoers",
    "sysctl.conf",
    "systemd/system.conf",
    "systemd/user.conf",
    "ssh/sshd_config",
    "logrotate.conf",
    "doas.conf",
];
const FOLDERS_OF_CODE: [&str; 33] = [
    "apt",
    "binfmt.d",
    "containers/systemd",
    "cron.daily",
    "cron.hourly",
    "cron.monthly",
    "cron.weekly",
    "dbus-1",
    "default",
    "logrotate.d",
    "lvm",
    "network",
    "polkit-1",
    "security",
    "ssh/sshd_config.d",
    "sudoers.d",
    "sysctl.d",
    "systemd/system.attached",
    "systemd/system.conf.d",
    "systemd/system.control",
    "update-motd.d",
    "systemd/system",
    "systemd/user",
    "systemd/system-generators",
    "pam.d",
    "ld.so.conf.d",
    "profile.d",
    "udev/rules.d",
    "modprobe.d",
    "init.d",
    "cron.d",
    "tmpfiles.d",
    "NetworkManager/dispatcher.d",
];

/// The openings of a boot, in the order of [`Opening`].
pub fn find(boot: &Boot<'_>) -> Vec<Opening> {
    let Boot { command_line, settings, lockdown, secure_boot, stub, filesystem } = *boot;
    let asked = Asked(command_line);
    let (etc, var) = (*settings.etc.value(), *settings.var.value());
    let etc_persists = matches!(etc, StateMount::Overlay | StateMount::Bind);
    let var_persists = matches!(var, StateMount::Overlay | StateMount::Bind);
    // Who plants a variable, or has the kernel do without the firmware, hides which stub it was.
    let firmware = matches!(secure_boot, SecureBoot::Enforced | SecureBoot::Unknown);
    let stub_that_adds = stub.or(firmware.then_some(Stub::Unknown));
    let adds = |extra| stub_that_adds.is_some_and(|stub| stub.adds(extra));
    [
        (
            Opening::ImportedCredentials,
            !asked.is_off("systemd.import_credentials") || asked.is_on("rd.systemd.import_credentials"),
        ),
        (Opening::MetadataService, !asked.is_off("systemd.imds")),
        // In the initrd, systemd-fstab-generator takes either form, and the gate sees what it mounts.
        (Opening::Fstab, etc_persists && (!asked.is_off("fstab") || asked.is_on("rd.fstab"))),
        (Opening::InitrdShell, asked.shell()),
        (
            Opening::Hibernation,
            !(asked.is_bare("noresume") || asked.is_bare("nohibernate") || lockdown == Lockdown::Active),
        ),
        (Opening::ExtraUnits, UNITS.iter().any(|key| asked.is_on(key)) || asked.sets_environment()),
        (Opening::Extensions, (etc_persists || var_persists) && !asked.masks_extensions()),
        (Opening::OtherPartitions, !asked.is_off("systemd.gpt_auto")),
        (Opening::FactoryReset, !asked.is_off("systemd.factory_reset")),
        (Opening::DiskErrors, filesystem == PhysicalFilesystem::MayBeExt4 && !asked.survives_disk_errors()),
        (Opening::WritableEtc, etc_persists && settings.etc_keep.value().as_ref().is_none_or(keeps_code)),
        (Opening::FirmwareStrings, *settings.firmware_strings.value() == FirmwareStrings::Report),
        (Opening::StubCommandLine, adds(Extra::CommandLine)),
        (Opening::StubInitrd, adds(Extra::Initrd)),
        (Opening::UnsignedCommandLine, firmware && stub.is_none()),
    ]
    .into_iter()
    .filter_map(|(opening, open)| open.then_some(opening))
    .collect()
}

/// Whether a list lets files be that have something run.
fn keeps_code(list: &KeepList) -> bool {
    CODE.iter().any(|file| list.matches(file.as_bytes()))
        || FOLDERS_OF_CODE.iter().any(|folder| list.may_match_below(folder.as_bytes()))
}

/// The command line, with systemd's and dracut's readings of it.
struct Asked<'a>(&'a CommandLine);

impl Asked<'_> {
    /// Said to be false: the last one counts, and one without a value means yes.
    fn is_off(&self, key: &str) -> bool {
        self.0.values(key).next_back().flatten().is_some_and(is_false)
    }

    /// There, and not said to be false.
    fn is_on(&self, key: &str) -> bool {
        self.0.values(key).next().is_some() && !self.is_off(key)
    }

    /// There without a value, as some arguments must be to count.
    fn is_bare(&self, key: &str) -> bool {
        self.0.values(key).any(|value| value.is_none())
    }

    fn shell(&self) -> bool {
        // dracut's getargbool() knows fewer words than systemd.
        let closed = matches!(self.0.values("rd.shell").next_back().flatten(), Some(b"0" | b"no" | b"off"))
            && matches!(self.0.last_value("rd.emergency"), Some(b"halt" | b"reboot" | b"poweroff"));
        let init = self.0.last_value("init").and_then(|path| path.rsplit(|byte| *byte == b'/').next());
        let init_is_shell = init.is_some_and(|name| SHELL_PROGRAMS.iter().any(|shell| name == shell.as_bytes()));
        // systemd takes it for its own where it has no value.
        let emergency = ["rd.emergency", "emergency", "rescue", "single"].iter().any(|key| self.is_bare(key));
        !closed || init_is_shell || emergency || SHELLS.iter().any(|key| self.is_on(key))
    }

    fn sets_environment(&self) -> bool {
        let known = "SYSTEMD_SULOGIN_FORCE".as_bytes();
        self.0.keys().any(|key| key != known && ENVIRONMENT.iter().any(|start| key.starts_with(start.as_bytes())))
    }

    fn masks_extensions(&self) -> bool {
        let masked = |unit: &str| self.0.values("systemd.mask").flatten().any(|value| value == unit.as_bytes());
        masked("systemd-sysext.service") && masked("systemd-confext.service")
    }

    /// Says what follows an error in the place of the superblock.
    fn survives_disk_errors(&self) -> bool {
        let options = self.0.values("rootflags").flatten().flat_map(|flags| flags.split(|byte| *byte == b','));
        matches!(
            options.filter_map(|option| option.strip_prefix(b"errors=")).next_back(),
            Some(b"remount-ro" | b"continue")
        )
    }
}

/// The values that systemd's `parse_boolean()` takes for false.
fn is_false(value: &[u8]) -> bool {
    ["0", "no", "n", "false", "f", "off"].iter().any(|word| value.eq_ignore_ascii_case(word.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn sealed() -> String {
        SEALED.map(Opening::remedy).join(" ")
    }

    fn settings(config: &str) -> Settings {
        let config = Config::from_sealroot_toml(config).unwrap();
        Settings::resolve(config, Config::default(), &CommandLine::default())
    }

    /// A boot that is closed but for command line and settings.
    fn boot<'a>(command_line: &'a CommandLine, settings: &'a Settings) -> Boot<'a> {
        Boot {
            command_line,
            settings,
            lockdown: Lockdown::None,
            secure_boot: SecureBoot::Enforced,
            stub: Some(Stub::Systemd(253)),
            filesystem: PhysicalFilesystem::MayBeExt4,
        }
    }

    /// Of a command line and a configuration alone.
    fn openings(line: &str, config: &str) -> Vec<Opening> {
        let (command_line, settings) = (CommandLine::split(line.as_bytes()), settings(config));
        find(&boot(&command_line, &settings))
    }

    const KEEP: &str = "[etc]\nkeep = []\n";

    #[test]
    fn a_sealed_command_line_leaves_none() {
        assert_eq!(openings(&sealed(), KEEP), []);
    }

    #[test]
    fn each_one_alone() {
        use Opening::*;
        for (remove, add, opening) in [
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
            ("", "ignition.platform.id=qemu", ExtraUnits),
            ("", "LD_PRELOAD=/x.so", ExtraUnits),
            ("", "SYSTEMD_GENERATOR_PATH=/x", ExtraUnits),
            ("systemd.mask=systemd-sysext.service", "", Extensions),
            ("systemd.mask=systemd-confext.service", "", Extensions),
            ("systemd.gpt_auto=no", "", OtherPartitions),
            ("systemd.factory_reset=no", "", FactoryReset),
            ("", "systemd.factory_reset", FactoryReset),
            ("rootflags=errors=remount-ro", "", DiskErrors),
            ("", "rootflags=noatime,errors=panic", DiskErrors),
        ] {
            let line = format!("{} {add}", sealed().replace(remove, ""));
            assert_eq!(openings(&line, KEEP), [opening], "{line}");
        }
    }

    #[test]
    fn what_closes_one_otherwise() {
        let line = sealed().replace("rd.fstab=no", "").replace("fstab=no", "");
        for mount in ["transient", "none"] {
            assert_eq!(openings(&line, &format!("[etc]\nmount = \"{mount}\"\n")), []);
        }
        assert_eq!(openings(&sealed().replace("import_credentials", "import-credentials"), KEEP), []);
        assert_eq!(openings(&sealed().replace("noresume", "nohibernate"), KEEP), []);
        assert_eq!(openings(&sealed().replace("errors=remount-ro", "noatime,errors=continue"), KEEP), []);
        let line = sealed().replace("systemd.mask", "more");
        let nothing_persists = "[etc]\nmount = \"none\"\n[var]\nmount = \"transient\"\n";
        assert_eq!(openings(&line, nothing_persists), []);
        assert_eq!(openings(&line, "[etc]\nmount = \"none\"\n"), [Opening::Extensions]);
    }

    #[test]
    fn what_no_argument_closes() {
        assert_eq!(openings(&sealed(), ""), [Opening::WritableEtc]);
        assert_eq!(openings(&sealed(), "[etc]\nmount = \"bind\"\n"), [Opening::WritableEtc]);
        for list in
            ["\"*\", \"*/**\"", "\"ld.so.*\"", "\"systemd/**\"", "\"systemd/system/a.service\"", "\"*/rules.d/**\""]
        {
            assert_eq!(openings(&sealed(), &format!("[etc]\nkeep = [{list}]\n")), [Opening::WritableEtc], "{list}");
        }
        let harmless = "[etc]\nkeep = [\"machine-id\", \"ssh/ssh_host_*\", \"NetworkManager/system-connections/**\"]\n";
        assert_eq!(openings(&sealed(), harmless), []);
        let reported = format!("{KEEP}[policy]\nfirmware-strings = \"report\"\n");
        assert_eq!(openings(&sealed(), &reported), [Opening::FirmwareStrings]);
    }

    #[test]
    fn by_the_machine() {
        let (line, bare) = (sealed(), sealed().replace("noresume", "").replace("rootflags", "rootflag"));
        let settings = settings(KEEP);
        let found = |line: &str, change: fn(&mut Boot<'_>)| {
            let command_line = CommandLine::split(line.as_bytes());
            let mut boot = boot(&command_line, &settings);
            change(&mut boot);
            find(&boot)
        };
        assert_eq!(found(&bare, |_| ()), [Opening::Hibernation, Opening::DiskErrors]);
        assert_eq!(found(&bare, |boot| boot.lockdown = Lockdown::Active), [Opening::DiskErrors]);
        assert_eq!(found(&bare, |boot| boot.filesystem = PhysicalFilesystem::Other), [Opening::Hibernation]);
        assert_eq!(found(&line, |boot| boot.stub = Some(Stub::Systemd(257))), [Opening::StubCommandLine]);
        let both = [Opening::StubCommandLine, Opening::StubInitrd];
        assert_eq!(found(&line, |boot| boot.stub = Some(Stub::Systemd(258))), both);
        assert_eq!(found(&line, |boot| boot.stub = Some(Stub::Unknown)), both);
        let all = [Opening::StubCommandLine, Opening::StubInitrd, Opening::UnsignedCommandLine];
        assert_eq!(found(&line, |boot| boot.stub = None), all);
        assert_eq!(found(&line, |boot| (boot.stub, boot.secure_boot) = (None, SecureBoot::Unknown)), all);
        let off = |boot: &mut Boot<'_>| (boot.stub, boot.secure_boot) = (None, SecureBoot::Off);
        assert_eq!(found(&line, off), []);
    }
}
