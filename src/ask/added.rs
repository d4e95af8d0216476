//! What the machine's set-up adds to a signed image: strings that boot stub, boot loader and PID 1 take without a signature.
//!
//! Looked for as bytes anywhere in what the kernel shows of the SMBIOS table, and not by its structures. A table that the kernel
//! does not show to its end may hide some: that is told, too.
//!
//! Source: smbios-type-11(7), systemd.system-credentials(7).

use std::fmt;

use crate::formats::names::names;

/// What all strings of systemd begin with.
const PREFIX: &[u8] = b"io.systemd.";
/// How much of a string is shown, in bytes.
const MAX_SHOWN: usize = 120;
/// Of each kind, more are not told one by one.
const MAX_OF_A_KIND: usize = 8;

/// What a string adds, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Addition {
    /// Arguments behind the signed kernel command line (systemd-stub 254, systemd-boot 256).
    CommandLine,
    /// An entry of the boot loader's menu (systemd-boot 258), with arguments and an initramfs.
    BootEntry,
    /// A credential, which can hold units of PID 1 (systemd 252).
    Credential,
}

names!(Addition: CommandLine = "command-line", BootEntry = "boot-entry", Credential = "credential");

impl Addition {
    /// For messages: a string that …
    pub fn description(self) -> &'static str {
        match self {
            Self::CommandLine => "adds to the kernel command line",
            Self::BootEntry => "adds a boot entry",
            Self::Credential => "passes a credential to PID 1",
        }
    }

    /// By the rest of a string's name.
    fn of(name: &[u8]) -> Option<Self> {
        let starts = |known: &str| name.starts_with(known.as_bytes());
        if starts("stub.kernel-cmdline-extra") || starts("boot.kernel-cmdline-extra") {
            Some(Self::CommandLine)
        } else if starts("boot-entries.extra") {
            Some(Self::BootEntry)
        } else {
            starts("credential").then_some(Self::Credential)
        }
    }
}

/// A string that adds something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddedString {
    addition: Addition,
    shown: String,
}

/// As messages show it: printable, shortened, and without what a credential may hold.
impl fmt::Display for AddedString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl miniserde::Serialize for AddedString {
    fn begin(&self) -> miniserde::ser::Fragment<'_> {
        miniserde::ser::Fragment::Str(self.shown.as_str().into())
    }
}

impl AddedString {
    /// What it adds.
    pub fn addition(&self) -> Addition {
        self.addition
    }

    /// A credential by its name, which comes from another place than the SMBIOS table.
    pub fn credential(place: &str, name: &[u8]) -> Self {
        Self { addition: Addition::Credential, shown: format!("{place}{}", shortened(name)) }
    }

    fn new(addition: Addition, string: &[u8]) -> Self {
        let shown = match addition {
            // Its value may be a secret.
            Addition::Credential => string.split(|byte| *byte == b'=').next().unwrap_or_default(),
            Addition::CommandLine | Addition::BootEntry => string,
        };
        Self { addition, shown: shortened(shown) }
    }
}

/// Fit for a message.
fn shortened(bytes: &[u8]) -> String {
    let cut = bytes.get(..MAX_SHOWN).unwrap_or(bytes);
    let rest = if cut.len() < bytes.len() { "…" } else { "" };
    format!("{}{rest}", cut.escape_ascii())
}

/// Whether an SMBIOS table comes to its end, for every reader at the same place. The kernel shows a table up to the first structure
/// that cannot be one; a boot stub may read on, and find strings there.
///
/// Source: DMTF DSP0134, "SMBIOS structure table".
pub fn is_whole(mut table: &[u8]) -> bool {
    /// Type, length, and a handle of two bytes.
    const HEADER: usize = 4;
    const END_OF_TABLE: u8 = 127;
    while let [kind, length, _, _, ..] = *table {
        let length = usize::from(length);
        if length < HEADER {
            return false;
        }
        if kind == END_OF_TABLE {
            return true;
        }
        // Behind it are its strings, and two zero bytes. If the first string is empty, readers differ about where the set ends.
        let Some(strings) = table.get(length..) else { return false };
        if matches!(strings, [0, second, ..] if *second != 0) {
            return false;
        }
        let Some(end) = position(strings, &[0, 0]) else { return false };
        table = strings.get(end + 2..).unwrap_or_default();
    }
    false
}

/// All strings in an SMBIOS table that add something, of each kind the first ones of many.
pub fn find(table: &[u8]) -> Vec<AddedString> {
    let mut found: Vec<AddedString> = Vec::new();
    let mut rest = table;
    while let Some(at) = position(rest, PREFIX) {
        let string = rest.get(at..).unwrap_or_default();
        let string = string.split(|byte| *byte == 0).next().unwrap_or_default();
        let mut length = PREFIX.len();
        if let Some(addition) = string.get(length..).and_then(Addition::of) {
            if found.iter().filter(|known| known.addition == addition).count() < MAX_OF_A_KIND {
                found.push(AddedString::new(addition, string));
            }
            // What stands in a value is no string of its own.
            length = string.len();
        }
        rest = rest.get(at + length..).unwrap_or_default();
    }
    found
}

fn position(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A structure of a table: its type, and its strings.
    fn structure(kind: u8, strings: &[&str]) -> Vec<u8> {
        let mut bytes = vec![kind, 5, 0, 0, strings.len() as u8];
        for string in strings {
            bytes.extend(string.bytes().chain([0]));
        }
        bytes.push(0);
        bytes
    }

    fn shown(table: &[u8]) -> Vec<(Addition, String)> {
        find(table).iter().map(|string| (string.addition(), string.to_string())).collect()
    }

    #[test]
    fn strings_of_a_table() {
        let table = [
            structure(0, &["Vendor", "1.0"]),
            structure(
                11,
                &[
                    "other",
                    "io.systemd.stub.kernel-cmdline-extra=rd.break quiet",
                    "io.systemd.credential:secret=do not tell",
                    "io.systemd.credential.binary:more=AAAA",
                    "io.systemd.boot.loglevel=debug",
                ],
            ),
            structure(127, &[]),
            structure(11, &["io.systemd.boot.kernel-cmdline-extra=x", "io.systemd.boot-entries.extra:a=b\n"]),
        ]
        .concat();
        assert_eq!(
            shown(&table),
            [
                (Addition::CommandLine, "io.systemd.stub.kernel-cmdline-extra=rd.break quiet".into()),
                (Addition::Credential, "io.systemd.credential:secret".into()),
                (Addition::Credential, "io.systemd.credential.binary:more".into()),
                (Addition::CommandLine, "io.systemd.boot.kernel-cmdline-extra=x".into()),
                (Addition::BootEntry, "io.systemd.boot-entries.extra:a=b\\n".into()),
            ]
        );
        assert_eq!(shown(&structure(11, &["io.systemd.boot.timeout=0", "io.systemd.", "io.system"])), []);
    }

    #[test]
    fn tables_with_an_end() {
        let [bios, strings, end] = [structure(0, &["Vendor"]), structure(11, &["a", "b"]), structure(127, &[])];
        // A structure without strings has two zero bytes behind it.
        let bare = vec![1, 6, 0, 0, 9, 9, 0, 0];
        assert!(is_whole(&[bios.clone(), bare, strings.clone(), end.clone()].concat()));
        assert!(is_whole(&[127, 4, 0, 0]));
        for hidden in [
            vec![],
            bios.clone(),
            // Shorter than its own header: the kernel stops there.
            [bios.clone(), vec![200, 2, 5, 0, 65, 0, 0], strings.clone(), end.clone()].concat(),
            [bios.clone(), vec![200, 0, 0, 0, 0, 0], end.clone()].concat(),
            // A set of strings whose first one is empty: some take its zero byte for the end of the set.
            [bios.clone(), vec![11, 4, 0, 0, 0, 65, 0, 0], strings.clone(), end.clone()].concat(),
            // Longer than the table, or without an end of its strings.
            [bios.clone(), vec![200, 255, 0, 0, 0, 0]].concat(),
            [bios, vec![200, 4, 0, 0, 65, 66]].concat(),
        ] {
            assert!(!is_whole(&hidden), "{hidden:?}");
        }
    }

    #[test]
    fn no_structure_hides_a_string() {
        let string = b"io.systemd.stub.kernel-cmdline-extra=x";
        for before in [&b""[..], b"\0\0\0", &[11, 255, 0, 0], &[127, 4, 0, 0, 0, 0], b"io.systemd.", b"prefix "] {
            let table = [before, string].concat();
            assert_eq!(find(&table).len(), 1, "{before:?}");
        }
    }

    #[test]
    fn many_and_long_ones_are_cut() {
        let long = format!("io.systemd.stub.kernel-cmdline-extra={}\0", "\u{1b}".repeat(5000));
        let found = find(long.repeat(40).as_bytes());
        assert_eq!(found.len(), MAX_OF_A_KIND);
        assert!(
            found.iter().all(|string| string.to_string().len() < 5 * MAX_SHOWN && string.to_string().ends_with('…'))
        );
        assert_eq!(AddedString::credential("fw_cfg:", b"a\n").to_string(), "fw_cfg:a\\n");
        assert!(AddedString::credential("fw_cfg:", &[b'a'; 200]).to_string().ends_with('…'));
        // However many there are of another kind.
        let table = "io.systemd.credential:a=\0".repeat(40) + "io.systemd.stub.kernel-cmdline-extra=x\0";
        assert!(find(table.as_bytes()).iter().any(|string| string.addition() == Addition::CommandLine));
    }
}
