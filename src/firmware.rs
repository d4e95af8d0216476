//! What the firmware says: EFI variables, bytes in, typed values out.

use std::str;

use thiserror::Error;

use crate::names::names;

/// A variable of the firmware that sealroot reads, by its name in efivarfs.
pub const SECURE_BOOT: &str = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
/// See [`SECURE_BOOT`].
pub const SETUP_MODE: &str = "SetupMode-8be4df61-93ca-11d2-aa0d-00e098032b8c";

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

/// A variable whose content is not what its specification says.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("EFI variable '{name}': expected 4 bytes of attributes and one byte 0 or 1, found {}", found.escape_ascii())]
pub struct FirmwareError {
    name: &'static str,
    found: Vec<u8>,
}

/// The state that `SecureBoot` and `SetupMode` describe, as efivarfs gives them (`None`: no such variable).
///
/// Source: UEFI specification, "Globally Defined Variables"; the four bytes in front are efivarfs's.
pub fn secure_boot(secure_boot: Option<&[u8]>, setup_mode: Option<&[u8]>) -> Result<SecureBoot, FirmwareError> {
    let Some(secure_boot) = secure_boot else { return Ok(SecureBoot::Unsupported) };
    let enabled = boolean(SECURE_BOOT, secure_boot)?;
    let setup = setup_mode.map_or(Ok(false), |content| boolean(SETUP_MODE, content))?;
    Ok(if enabled && !setup { SecureBoot::Enforced } else { SecureBoot::Off })
}

fn boolean(name: &'static str, content: &[u8]) -> Result<bool, FirmwareError> {
    match content {
        [_, _, _, _, 0] => Ok(false),
        [_, _, _, _, 1] => Ok(true),
        _ => Err(FirmwareError { name, found: content.iter().copied().take(16).collect() }),
    }
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

    #[test]
    fn lockdown_modes() {
        assert_eq!(Lockdown::parse(b"none [integrity] confidentiality\n"), Lockdown::Active);
        assert_eq!(Lockdown::parse(b"none integrity [confidentiality]\n"), Lockdown::Active);
        assert_eq!(Lockdown::parse(b"[none] integrity confidentiality\n"), Lockdown::None);
        assert_eq!(Lockdown::parse(b"\xff"), Lockdown::None);
    }
}
