//! What a command line asks of systemd and dracut, as they read it.

use crate::ask::cmdline::{CommandLine, is_false};

/// Arguments that give a root shell in the initramfs or before a login: units, breakpoints, dracut's questions.
const SHELLS: [&str; 17] = [
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
    "systemd.crash_shell",
    // It asks at the console whether each program is to run.
    "systemd.confirm_spawn",
    "kgdboc",
    "kgdbwait",
    "kgdbcon",
    "ekgdboc",
    "kgdboe",
];
/// The same, which systemd takes for its own where they have no value.
const BARE_SHELLS: [&str; 9] = ["rd.emergency", "emergency", "-b", "rd.rescue", "rescue", "single", "-s", "s", "1"];
/// Arguments that have more run, start or mount than the image says.
const UNITS: [&str; 28] = [
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
    "systemd.pull",
    "rd.systemd.pull",
    "systemd.ssh_listen",
    "ds",
    "cloud_config_url",
    "bootconfig",
];
/// Parameters of the kernel, as files of /proc/sys, that have it run a program as root.
const SYSCTLS: [&[u8]; 4] = [b"kernel/core_pattern", b"kernel/modprobe", b"kernel/poweroff_cmd", b"kernel/hotplug"];
/// Programs that are no shell and run no script when `init=` names them.
const INITS: [&str; 7] = ["init", "systemd", "openrc-init", "runit-init", "s6-linux-init", "dinit", "finit"];

/// Variables of PID 1's environment, which the kernel makes of arguments that it does not know.
const ENVIRONMENT: [&str; 3] = ["LD_", "SYSTEMD_", "GLIBC_"];

/// The command line, with systemd's and dracut's readings of it.
pub(super) struct Arguments<'a>(pub(super) &'a CommandLine);

impl Arguments<'_> {
    /// Said to be false: the last one counts, and one without a value means yes.
    pub(super) fn is_off(&self, key: &str) -> bool {
        self.0.values(key).next_back().flatten().is_some_and(is_false)
    }

    /// There, and not said to be false.
    pub(super) fn is_on(&self, key: &str) -> bool {
        self.0.values(key).next().is_some() && !self.is_off(key)
    }

    /// There without a value, as some arguments must be to count.
    pub(super) fn is_bare(&self, key: &str) -> bool {
        self.0.values(key).any(|value| value.is_none())
    }

    pub(super) fn shell(&self) -> bool {
        // dracut's getargbool() knows fewer words than systemd.
        let closed = matches!(self.0.values("rd.shell").next_back().flatten(), Some(b"0" | b"no" | b"off"))
            && matches!(self.0.last_value("rd.emergency"), Some(b"halt" | b"reboot" | b"poweroff"));
        let init_may_be_shell = ["init", "rdinit"].into_iter().any(|key| {
            let init = self.0.last_value(key).and_then(|path| path.rsplit(|byte| *byte == b'/').next());
            init.is_some_and(|name| !INITS.iter().any(|known| name == known.as_bytes()))
        });
        let emergency = BARE_SHELLS.iter().any(|key| self.is_bare(key));
        !closed || init_may_be_shell || emergency || SHELLS.iter().any(|key| self.is_on(key))
    }

    /// Has the booted system run, start or mount something more.
    pub(super) fn units(&self) -> bool {
        UNITS.iter().any(|key| self.is_on(key)) || self.sets_environment() || self.sets_program_of_kernel()
    }

    /// The kernel takes `/` for `.` in the name of a parameter.
    fn sets_program_of_kernel(&self) -> bool {
        self.0.keys().any(|key| match key.strip_prefix(b"sysctl") {
            Some([b'.' | b'/', name @ ..]) => {
                let name: Vec<u8> = name.iter().map(|byte| if *byte == b'.' { b'/' } else { *byte }).collect();
                SYSCTLS.contains(&name.as_slice())
            }
            _ => false,
        })
    }

    fn sets_environment(&self) -> bool {
        let known = "SYSTEMD_SULOGIN_FORCE".as_bytes();
        self.0.keys().any(|key| key != known && ENVIRONMENT.iter().any(|start| key.starts_with(start.as_bytes())))
    }

    pub(super) fn masks(&self, unit: &str) -> bool {
        self.0.values("systemd.mask").flatten().any(|value| value == unit.as_bytes())
    }

    pub(super) fn masks_extensions(&self) -> bool {
        self.masks("systemd-sysext.service") && self.masks("systemd-confext.service")
    }

    /// Says what follows an error in the place of the superblock.
    pub(super) fn survives_disk_errors(&self) -> bool {
        let options = self.0.values("rootflags").flatten().flat_map(|flags| flags.split(|byte| *byte == b','));
        matches!(
            options.filter_map(|option| option.strip_prefix(b"errors=")).next_back(),
            Some(b"remount-ro" | b"continue")
        )
    }
}
