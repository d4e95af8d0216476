//! What the boot stub of a unified kernel image adds to what was signed, by the stub's own name.
//!
//! Source: systemd-stub(7), by the release that each thing came with.

use std::str;

/// The first release of systemd whose stub puts an SMBIOS string behind the signed command line.
const SMBIOS_COMMAND_LINE: u32 = 254;
/// The first whose stub takes an initramfs that the boot loader registered, in front of the signed one.
const LOADER_INITRD: u32 = 258;
/// What their names begin with.
const SYSTEMD_STUB: &str = "systemd-stub";
const SEALROOT_STUB: &str = "sealroot-stub";

/// A boot stub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stub {
    /// systemd's, of this release.
    Systemd(u32),
    /// The one that comes with sealroot, of any release.
    Sealroot,
    /// One that is not known here: it may do all that any does.
    Unknown,
}

/// Something that nobody signed, and that a stub adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extra {
    /// Arguments behind the command line, by an SMBIOS string.
    CommandLine,
    /// Files in the initramfs, by a boot loader's `initrd`.
    Initrd,
}

impl Stub {
    /// By what `StubInfo` says, or the section `.sdmagic`: `systemd-stub 257.7-1`, `sealroot-stub 0.1.0`.
    pub fn named(name: &str) -> Self {
        if name.split_ascii_whitespace().next() == Some(SEALROOT_STUB) {
            return Self::Sealroot;
        }
        let release = name.trim().strip_prefix(SYSTEMD_STUB).map(|rest| {
            let rest = rest.trim_start();
            let end = rest.find(|character: char| !character.is_ascii_digit()).unwrap_or(rest.len());
            rest.get(..end).unwrap_or_default()
        });
        release.and_then(|release| release.parse().ok()).map_or(Self::Unknown, Self::Systemd)
    }

    /// By the section `.sbat` of an image, to which each part adds lines: `sealroot-stub,1,…`. systemd's stub has no line of its own
    /// there everywhere.
    pub fn of_sbat(content: &[u8]) -> Self {
        let ours = |line: &[u8]| line.split(|byte| *byte == b',').next() == Some(SEALROOT_STUB.as_bytes());
        if content.split(|byte| *byte == b'\n').any(ours) { Self::Sealroot } else { Self::Unknown }
    }

    /// By the section `.sdmagic` of an image: `#### LoaderInfo: systemd-stub 257.7-1 ####`.
    pub fn of_section(content: &[u8]) -> Self {
        let text = content.split(|byte| *byte == 0).next().unwrap_or_default();
        let name = str::from_utf8(text)
            .ok()
            .and_then(|text| text.trim().strip_prefix("#### LoaderInfo: ").and_then(|rest| rest.strip_suffix(" ####")));
        name.map_or(Self::Unknown, Self::named)
    }

    /// Whether it adds that.
    pub fn adds(self, extra: Extra) -> bool {
        match (self, extra) {
            (Self::Unknown, _) => true,
            (Self::Sealroot, _) => false,
            (Self::Systemd(release), Extra::CommandLine) => release >= SMBIOS_COMMAND_LINE,
            (Self::Systemd(release), Extra::Initrd) => release >= LOADER_INITRD,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_stubs() {
        for (name, stub) in [
            ("systemd-stub 257.7-1", Stub::Systemd(257)),
            ("systemd-stub 261~rc1", Stub::Systemd(261)),
            (" systemd-stub 253", Stub::Systemd(253)),
            ("systemd-stub", Stub::Unknown),
            ("systemd-stub 99999999999", Stub::Unknown),
            ("systemd-boot 257", Stub::Unknown),
            ("sealroot-stub 0.1.0", Stub::Sealroot),
            ("sealroot-stubborn 1", Stub::Unknown),
            ("", Stub::Unknown),
        ] {
            assert_eq!(Stub::named(name), stub, "{name}");
        }
        assert_eq!(Stub::of_section(b"#### LoaderInfo: systemd-stub 252.39 ####\0\0"), Stub::Systemd(252));
        for bytes in [&b""[..], b"\xff", b"#### LoaderInfo: systemd-boot 257 ####", b"systemd-stub 257"] {
            assert_eq!(Stub::of_section(bytes), Stub::Unknown);
        }
        for (content, stub) in [
            (
                &b"sbat,1,SBAT Version,sbat,1,x\nsealroot-stub,1,sealroot,sealroot-stub,0.1.0,x\nlinux,1,x\n"[..],
                Stub::Sealroot,
            ),
            (b"sbat,1,x\nsystemd-stub,1,sealroot-stub,x\n", Stub::Unknown),
            (b"", Stub::Unknown),
        ] {
            assert_eq!(Stub::of_sbat(content), stub);
        }
    }

    #[test]
    fn what_they_add() {
        for (stub, command_line, initrd) in [
            (Stub::Systemd(253), false, false),
            (Stub::Systemd(254), true, false),
            (Stub::Systemd(257), true, false),
            (Stub::Systemd(258), true, true),
            (Stub::Unknown, true, true),
            (Stub::Sealroot, false, false),
        ] {
            assert_eq!((stub.adds(Extra::CommandLine), stub.adds(Extra::Initrd)), (command_line, initrd), "{stub:?}");
        }
    }
}
