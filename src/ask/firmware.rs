//! What the firmware says: EFI variables, bytes in, typed values out.

use std::char;
use std::str;

use std::fmt::Display;

use crate::formats::names::names;
use crate::refusal::Refusal;

/// A variable of the firmware that sealroot reads, by its name in efivarfs.
pub const SECURE_BOOT: &str = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
/// See [`SECURE_BOOT`].
pub const SETUP_MODE: &str = "SetupMode-8be4df61-93ca-11d2-aa0d-00e098032b8c";

/// The path of the boot entry whose tries the boot loader counts (The Boot Loader Interface).
pub const BOOT_COUNT_PATH: &str = "LoaderBootCountPath-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
/// The stub of the unified kernel image (The Boot Loader Interface).
pub const STUB_INFO: &str = "StubInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";

/// `EFI_VARIABLE_NON_VOLATILE` of the UEFI specification, "`GetVariable()`". efivarfs has the attributes in the four bytes in
/// front of a variable's content, little-endian.
const NON_VOLATILE: u32 = 1;

/// Whether the firmware checks signatures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecureBoot {
    /// `SecureBoot` is 1 and `SetupMode` is 0.
    Enforced,
    /// The firmware knows Secure Boot and does not enforce it.
    Off,
    /// There are no such variables: no UEFI, or one without Secure Boot.
    Unsupported,
    /// The variables could not be read: no efivarfs.
    Unknown,
}

names!(SecureBoot: Enforced = "enforced", Off = "off", Unsupported = "unsupported", Unknown = "unknown");

/// The tries of a boot entry, as its name has them once this boot is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tries {
    /// Those that are left.
    pub left: u32,
    /// Those that were used.
    pub done: u32,
}

/// A boot entry whose tries are counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootEntry {
    path: String,
    tries: Tries,
}

impl BootEntry {
    /// Its path on the partition that it was started from, with backslashes.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Its tries.
    pub fn tries(&self) -> Tries {
        self.tries
    }
}

/// A variable whose content is not what its specification says.
fn wrong(name: &str, expected: &'static str, found: impl Display) -> Refusal {
    Refusal::of(format!("EFI variable '{name}'")).expected(expected).found(found)
}

/// The first bytes of it.
fn shown(content: &[u8]) -> impl Display {
    content.get(..16).unwrap_or(content).escape_ascii()
}

/// The state that `SecureBoot` and `SetupMode` describe, as efivarfs gives them (`None`: no such variable).
///
/// Source: UEFI specification, "Globally Defined Variables"; the four bytes in front are efivarfs's.
pub fn secure_boot(secure_boot: Option<&[u8]>, setup_mode: Option<&[u8]>) -> Result<SecureBoot, Refusal> {
    let Some(secure_boot) = secure_boot else { return Ok(SecureBoot::Unsupported) };
    let enabled = boolean(SECURE_BOOT, secure_boot)?;
    let setup = setup_mode.map_or(Ok(false), |content| boolean(SETUP_MODE, content))?;
    Ok(if enabled && !setup { SecureBoot::Enforced } else { SecureBoot::Off })
}

fn boolean(name: &'static str, content: &[u8]) -> Result<bool, Refusal> {
    match content {
        [_, _, _, _, 0] => Ok(false),
        [_, _, _, _, 1] => Ok(true),
        _ => Err(wrong(name, "4 bytes of attributes and one byte 0 or 1", shown(content))),
    }
}

/// The boot entry that [`BOOT_COUNT_PATH`] names: `…+LEFT.efi` or `…+LEFT-DONE.efi`.
///
/// Source: "Automatic Boot Assessment" of systemd, "The Boot Loader Specification".
pub fn boot_entry(content: &[u8]) -> Result<BootEntry, Refusal> {
    let path = volatile_text(BOOT_COUNT_PATH, content)?;
    match tries(&path) {
        Some(tries) => Ok(BootEntry { path, tries }),
        None => {
            let found = format!("'{}'", path.escape_default());
            Err(wrong(BOOT_COUNT_PATH, "a path that ends with '+LEFT-DONE.efi'", found))
        }
    }
}

/// The name of the stub that [`STUB_INFO`] tells.
pub fn stub(content: &[u8]) -> Result<String, Refusal> {
    volatile_text(STUB_INFO, content)
}

/// The text of a variable that was set in this boot, up to its first NUL.
///
/// Boot loader and stub set theirs anew at each start, for that start only. One that outlives it was planted: by whoever
/// was root once, or has the firmware's shell. It may say anything, and what it says never changes.
fn volatile_text(name: &'static str, content: &[u8]) -> Result<String, Refusal> {
    match content.first_chunk().map(|attributes| u32::from_le_bytes(*attributes)) {
        Some(attributes) if attributes & NON_VOLATILE != 0 => {
            Err(wrong(name, "a volatile variable", format_args!("attributes {attributes:#x}")))
        }
        _ => text(name, content),
    }
}

fn text(name: &'static str, content: &[u8]) -> Result<String, Refusal> {
    let wrong = || wrong(name, "4 bytes of attributes and UTF-16", shown(content));
    let (units, []) = content.get(4..).ok_or_else(wrong)?.as_chunks::<2>() else { return Err(wrong()) };
    let units = units.iter().map(|unit| u16::from_le_bytes(*unit)).take_while(|unit| *unit != 0);
    char::decode_utf16(units).collect::<Result<_, _>>().map_err(|_| wrong())
}

fn tries(path: &str) -> Option<Tries> {
    let name = path.rsplit(['\\', '/']).next()?;
    let (stem, _suffix) = name.rsplit_once('.')?;
    let (_, counter) = stem.rsplit_once('+')?;
    let (left, done) = counter.split_once('-').unwrap_or((counter, "0"));
    let number =
        |digits: &str| digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| digits.parse().ok()).flatten();
    Some(Tries { left: number(left)?, done: number(done)? })
}

/// What the kernel's lockdown forbids, from `/sys/kernel/security/lockdown`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lockdown {
    /// `none`, or a kernel without lockdown.
    None,
    /// `integrity` or `confidentiality`: both forbid resuming from an unsigned hibernation image.
    Active,
}

impl Lockdown {
    /// Parses the file's one line, in which brackets mark the active mode.
    pub fn parse(content: &[u8]) -> Self {
        match str::from_utf8(content) {
            Ok(text) if text.contains("[integrity]") || text.contains("[confidentiality]") => Self::Active,
            _ => Self::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states() {
        let (on, off): (&[u8], &[u8]) = (&[6, 0, 0, 0, 1], &[6, 0, 0, 0, 0]);
        assert_eq!(secure_boot(None, None), Ok(SecureBoot::Unsupported));
        assert_eq!(secure_boot(Some(on), Some(off)), Ok(SecureBoot::Enforced));
        assert_eq!(secure_boot(Some(on), None), Ok(SecureBoot::Enforced));
        assert_eq!(secure_boot(Some(on), Some(on)), Ok(SecureBoot::Off));
        assert_eq!(secure_boot(Some(off), Some(off)), Ok(SecureBoot::Off));
        for bad in [&[][..], &[6, 0, 0, 0], &[6, 0, 0, 0, 2], &[6, 0, 0, 0, 1, 0]] {
            assert!(secure_boot(Some(bad), None).is_err());
            assert!(secure_boot(Some(on), Some(bad)).is_err());
        }
        assert_eq!(
            secure_boot(Some(&[6, 0, 0, 0, 2]), None).unwrap_err().to_string(),
            "EFI variable 'SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c': expected 4 bytes of attributes and one \
             byte 0 or 1, found \\x06\\x00\\x00\\x00\\x02"
        );
    }

    fn variable(text: &str) -> Vec<u8> {
        [6, 0, 0, 0].into_iter().chain(text.encode_utf16().flat_map(u16::to_le_bytes)).collect()
    }

    #[test]
    fn boot_entries() {
        for (path, left, done) in [
            ("\\EFI\\Linux\\new+1-1.efi\0", 1, 1),
            ("\\EFI\\Linux\\new+0-12.efi\0 rest", 0, 12),
            ("\\loader\\entries\\a+b+3.conf", 3, 0),
            ("/EFI/Linux/new+4294967295-0.EFI", u32::MAX, 0),
        ] {
            let entry = boot_entry(&variable(path)).unwrap();
            assert_eq!(entry.tries(), Tries { left, done }, "{path}");
            assert_eq!(entry.path(), path.split('\0').next().unwrap());
        }
        for path in [
            "",
            "+1-1",
            "\\a+1\\new.efi",
            "\\new+.efi",
            "\\new+-1.efi",
            "\\new+1-.efi",
            "\\new+1-1-1.efi",
            "\\new++1.efi\u{1}+x.efi",
            "\\new+4294967296.efi",
            "\\new+１.efi",
        ] {
            let error = boot_entry(&variable(path)).unwrap_err().to_string();
            let found = path.escape_default();
            assert_eq!(
                error,
                format!(
                    "EFI variable '{BOOT_COUNT_PATH}': expected a path that ends with '+LEFT-DONE.efi', found '{found}'"
                )
            );
        }
        for bytes in [&[][..], &[6, 0, 0], &[6, 0, 0, 0, b'a'], &[6, 0, 0, 0, 0, 0xd8]] {
            assert!(stub(bytes).unwrap_err().to_string().contains("UTF-16"), "{bytes:?}");
        }
        assert_eq!(stub(&variable("systemd-stub 257\0")).unwrap(), "systemd-stub 257");
    }

    /// What outlives a boot says nothing about this one.
    #[test]
    fn planted_variables() {
        for (attributes, is_planted) in
            [(6, false), (2, false), (7, true), (3, true), (0x8000_0001, true), (0x106, false)]
        {
            let planted = |text: &str| {
                let mut variable = variable(text);
                variable.splice(..4, u32::to_le_bytes(attributes));
                variable
            };
            let entry = boot_entry(&planted("\\EFI\\Linux\\new+1-1.efi\0"));
            let name = stub(&planted("systemd-stub 257\0"));
            assert_eq!((entry.is_err(), name.is_err()), (is_planted, is_planted), "{attributes:#x}");
            for (name, error) in [(BOOT_COUNT_PATH, entry.err()), (STUB_INFO, name.err())] {
                let Some(error) = error else { continue };
                let found =
                    format!("EFI variable '{name}': expected a volatile variable, found attributes {attributes:#x}");
                assert_eq!(error.to_string(), found);
            }
        }
    }

    #[test]
    fn lockdown_modes() {
        assert_eq!(Lockdown::parse(b"none [integrity] confidentiality\n"), Lockdown::Active);
        assert_eq!(Lockdown::parse(b"none integrity [confidentiality]\n"), Lockdown::Active);
        assert_eq!(Lockdown::parse(b"[none] integrity confidentiality\n"), Lockdown::None);
        assert_eq!(Lockdown::parse(b"\xff"), Lockdown::None);
    }
}
