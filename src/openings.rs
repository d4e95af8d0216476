//! What a command line leaves open that sealroot cannot close by itself (the README's "What is not protected").

use crate::cmdline::CommandLine;
use crate::config::StateMount;
use crate::firmware::Lockdown;
use crate::names::names;

/// A way around the seal that the command line leaves open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// PID 1 takes credentials from SMBIOS strings, and with them units.
    ImportedCredentials,
    /// A writable `/etc/fstab` can mount over the sealed root.
    Fstab,
    /// The initrd can give a root shell.
    InitrdShell,
    /// A hibernation image on the disk can be resumed.
    Hibernation,
}

names!(Opening:
    ImportedCredentials = "imported-credentials",
    Fstab = "fstab",
    InitrdShell = "initrd-shell",
    Hibernation = "hibernation"
);

impl Opening {
    /// What would close it, for the warning line.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::ImportedCredentials => "systemd.import_credentials=no",
            Self::Fstab => "fstab=no rd.fstab=no",
            Self::InitrdShell => "rd.shell=0 rd.emergency=halt",
            Self::Hibernation => "noresume",
        }
    }
}

/// The openings of a boot, in the order of [`Opening`].
pub fn find(command_line: &CommandLine, etc: StateMount, lockdown: Lockdown) -> Vec<Opening> {
    let has = |key| command_line.values(key).next().is_some();
    // The last one counts, and one without a value means yes.
    let is_off = |key| command_line.values(key).next_back().flatten().is_some_and(is_false);
    // dracut's getargbool() knows fewer words.
    let no_shell = matches!(command_line.values("rd.shell").next_back().flatten(), Some(b"0" | b"no" | b"off"));
    // In the initrd, systemd-fstab-generator takes either form, and the gate sees what it mounts.
    let fstab = !is_off("fstab") || (has("rd.fstab") && !is_off("rd.fstab"));
    let persistent_etc = matches!(etc, StateMount::Overlay | StateMount::Bind);
    let emergency_stops = matches!(command_line.last_value("rd.emergency"), Some(b"halt" | b"reboot" | b"poweroff"));
    let forced_shell =
        ["rd.break", "rd.systemd.unit", "rd.systemd.debug_shell", "systemd.debug_shell", "SYSTEMD_SULOGIN_FORCE"]
            .into_iter()
            .any(|key| has(key) && !is_off(key));
    let cannot_resume = has("noresume") || has("nohibernate") || lockdown == Lockdown::Active;
    [
        (Opening::ImportedCredentials, !is_off("systemd.import_credentials")),
        (Opening::Fstab, persistent_etc && fstab),
        (Opening::InitrdShell, !(no_shell && emergency_stops) || forced_shell),
        (Opening::Hibernation, !cannot_resume),
    ]
    .into_iter()
    .filter_map(|(opening, open)| open.then_some(opening))
    .collect()
}

/// The values that systemd's `parse_boolean()` takes for false.
fn is_false(value: &[u8]) -> bool {
    ["0", "no", "n", "false", "f", "off"].iter().any(|word| value.eq_ignore_ascii_case(word.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEALED: &str = "systemd.import_credentials=no fstab=no rd.shell=0 rd.emergency=halt noresume";

    fn openings(line: &str, etc: StateMount) -> Vec<Opening> {
        find(&CommandLine::split(line.as_bytes()), etc, Lockdown::None)
    }

    #[test]
    fn a_sealed_command_line_leaves_none() {
        assert_eq!(openings(SEALED, StateMount::Overlay), []);
    }

    #[test]
    fn each_one_alone() {
        use Opening::*;
        for (remove, add, opening) in [
            ("systemd.import_credentials=no", "", ImportedCredentials),
            ("systemd.import_credentials=no", "systemd.import_credentials=yes", ImportedCredentials),
            (
                "systemd.import_credentials=no",
                "systemd.import_credentials=no systemd.import_credentials",
                ImportedCredentials,
            ),
            ("fstab=no", "", Fstab),
            ("rd.shell=0", "", InitrdShell),
            ("rd.emergency=halt", "", InitrdShell),
            ("", "rd.break", InitrdShell),
            ("", "rd.break=pre-pivot", InitrdShell),
            ("", "SYSTEMD_SULOGIN_FORCE=1", InitrdShell),
            ("", "rd.systemd.debug_shell", InitrdShell),
            ("", "systemd.debug-shell", InitrdShell),
            ("", "rd.shell", InitrdShell),
            ("rd.shell=0", "rd.shell=false", InitrdShell),
            ("", "rd.systemd.unit=rescue.target", InitrdShell),
            ("", "rd.fstab=yes", Fstab),
            ("", "fstab", Fstab),
            ("noresume", "", Hibernation),
        ] {
            let line = format!("{} {add}", SEALED.replace(remove, ""));
            assert_eq!(openings(&line, StateMount::Overlay), [opening], "{line}");
        }
    }

    #[test]
    fn what_closes_one_otherwise() {
        let line = SEALED.replace("fstab=no", "");
        assert_eq!(openings(&line, StateMount::Transient), []);
        assert_eq!(openings(&line, StateMount::None), []);
        let line = SEALED.replace("import_credentials", "import-credentials");
        assert_eq!(openings(&line, StateMount::Overlay), []);
        let line = SEALED.replace("noresume", "");
        assert_eq!(find(&CommandLine::split(line.as_bytes()), StateMount::None, Lockdown::Active), []);
    }
}
