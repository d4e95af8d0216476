//! The parts of an image that the stub is a part of: each once, all that is needed, nothing that nobody uses.
//!
//! A section that the stub does not know is refused. If it were ignored, the machine would start something else than what its
//! builder signed, such as a system with another devicetree.

use crate::command_line;
use crate::initrd::Initrd;
use crate::kernel::Kernel;
use crate::pe::{Name, Pe, Section, part};
use crate::problem::Problem;

/// What the linker makes of the stub itself.
const OWN: [&str; 6] = [".text", ".rdata", ".data", ".pdata", ".reloc", ".eh_fram"];

/// What a builder adds, in the order in which systemd-stub(7) measures it, and whether it must be there.
const PARTS: [(&str, bool); 9] = [
    (".linux", true),
    (".osrel", true),
    (".cmdline", true),
    (".initrd", true),
    (".ucode", false),
    (".uname", false),
    (".sbat", false),
    (".pcrsig", false),
    (".pcrpkey", false),
];
const LINUX: usize = 0;
const CMDLINE: usize = 2;
const INITRD: usize = 3;
const MICROCODE: usize = 4;
const SIGNATURE: usize = 7;
const PUBLIC_KEY: usize = 8;

/// What systemd-stub knows and this stub does not use, and what a builder does in its place.
const NOT_SUPPORTED: [(&str, &str); 7] = [
    (".profile", "each profile is an image of its own"),
    (".dtb", "the devicetree is the firmware's"),
    (".dtbauto", "the devicetree is the firmware's"),
    (".hwids", "the devicetree is the firmware's"),
    (".efifw", "firmware is updated by the running system"),
    (".splash", "the screen is the running system's"),
    (".sdmagic", "the image has systemd's stub in it"),
];

/// Where an image's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// As the firmware loaded it: sections are at their virtual addresses.
    Memory,
    /// As it is in its file.
    File,
}

/// What an image starts, checked.
#[derive(Clone, Copy, Debug)]
pub struct Payload<'a> {
    parts: [Option<&'a [u8]>; PARTS.len()],
    kernel: Kernel<'a>,
    command_line: &'a [u8],
    initrd: Initrd<'a>,
}

impl<'a> Payload<'a> {
    /// Looks at all that the image itself can be refused for.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn read(image: &'a [u8], layout: Layout) -> Result<Self, Problem> {
        let pe = Pe::parse(image)?;
        let mut parts = [None; PARTS.len()];
        let mut end = pe.headers_size;
        for (number, section) in pe.sections().enumerate() {
            let name = section.name.as_bytes();
            if pe.sections().take(number).any(|earlier| earlier.name == section.name) {
                return Err(Problem::Twice(section.name));
            }
            if section.virtual_address < end {
                return Err(Problem::Overlaps(section.name));
            }
            // The firmware loads one without a size as it is in the file.
            let size = if section.virtual_size == 0 { section.raw_size } else { section.virtual_size };
            end = section.virtual_address.checked_add(size).ok_or(Problem::Outside(section.name))?;
            if OWN.iter().any(|own| own.as_bytes() == name) {
                continue;
            }
            let index = PARTS.iter().position(|(part, _)| part.as_bytes() == name);
            let Some(slot) = index.and_then(|index| parts.get_mut(index)) else {
                return Err(stranger(section.name));
            };
            *slot = Some(content(image, layout, &pe, &section).ok_or(Problem::Outside(section.name))?);
        }
        for ((name, required), part) in PARTS.iter().zip(&parts) {
            if *required && part.is_none() {
                return Err(Problem::Missing(name));
            }
        }
        // They are there, or this is not reached.
        let part = |index: usize| parts.get(index).copied().flatten();
        let [linux, cmdline, own] = [LINUX, CMDLINE, INITRD].map(|index| part(index).unwrap_or_default());
        let [microcode, signature, public_key] = [MICROCODE, SIGNATURE, PUBLIC_KEY].map(part);
        Ok(Self {
            parts,
            command_line: command_line::parse(cmdline)?,
            kernel: Kernel::parse(linux, pe.machine)?,
            initrd: Initrd { microcode, own, signature, public_key },
        })
    }

    /// What goes into PCR 11: names and contents, in their order. A signature of PCR 11 cannot be in it.
    pub fn measured(&self) -> impl Iterator<Item = (&'static str, &'a [u8])> {
        let parts = PARTS.iter().zip(self.parts).enumerate().filter(|(index, _)| *index != SIGNATURE);
        parts.filter_map(|(_, ((name, _), part))| Some((*name, part?)))
    }

    /// The kernel.
    pub fn kernel(&self) -> Kernel<'a> {
        self.kernel
    }

    /// The kernel's command line: printable ASCII.
    pub fn command_line(&self) -> &'a [u8] {
        self.command_line
    }

    /// The initramfs.
    pub fn initrd(&self) -> Initrd<'a> {
        self.initrd
    }
}

/// What is said of a section that no part of this stub is for.
fn stranger(name: Name) -> Problem {
    let known = NOT_SUPPORTED.iter().find(|(known, _)| known.as_bytes() == name.as_bytes());
    known.map_or(Problem::Unknown(name), |(name, remedy)| Problem::NotSupported(name, remedy))
}

/// The bytes of a section. If it were longer in memory than in the file, its end would be zeros that nobody put there.
fn content<'a>(image: &'a [u8], layout: Layout, pe: &Pe<'_>, section: &Section) -> Option<&'a [u8]> {
    let end = section.virtual_address.checked_add(section.virtual_size)?;
    if section.virtual_size == 0 || section.virtual_size > section.raw_size || end > pe.image_size {
        return None;
    }
    match layout {
        Layout::Memory => part(image, section.virtual_address, section.virtual_size),
        Layout::File => part(image, section.raw_address, section.virtual_size),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::{Sample, loaded, uki};

    fn reason(sample: &Sample) -> String {
        let problem = Payload::read(&sample.build(), Layout::File).map(|_| ()).unwrap_err().to_string();
        // What is the same file in memory has the same answer.
        let in_memory = Payload::read(&sample.load(), Layout::Memory).map(|_| ()).unwrap_err().to_string();
        assert_eq!(problem, in_memory);
        problem
    }

    #[test]
    fn what_is_started() {
        let sample = uki().section(".uname", b"6.12").section(".sbat", b"sbat,1,x\n");
        for (image, layout) in [(sample.build(), Layout::File), (sample.load(), Layout::Memory)] {
            let payload = Payload::read(&image, layout).unwrap();
            assert_eq!(payload.command_line(), b"root=x composefs=y");
            assert_eq!(payload.initrd(), Initrd { own: b"the initramfs", ..Initrd::default() });
            let names: Vec<_> = payload.measured().map(|(name, _)| name).collect();
            assert_eq!(names, [".linux", ".osrel", ".cmdline", ".initrd", ".uname", ".sbat"]);
            // Measured as it is in the section.
            assert!(payload.measured().any(|(name, part)| name == ".cmdline" && part == b"root=x composefs=y\n"));
        }
    }

    /// A signature of PCR 11 is not measured into it; its key is, as systemd-measure(1) calculates.
    #[test]
    fn for_signed_policies_and_microcode() {
        let sample = uki().section(".pcrpkey", b"key").section(".pcrsig", b"{}").section(".ucode", b"micro");
        for (image, layout) in [(sample.build(), Layout::File), (sample.load(), Layout::Memory)] {
            let payload = Payload::read(&image, layout).unwrap();
            let names: Vec<_> = payload.measured().map(|(name, _)| name).collect();
            assert_eq!(names, [".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".pcrpkey"]);
            let expected = Initrd {
                microcode: Some(b"micro"),
                own: b"the initramfs",
                signature: Some(b"{}"),
                public_key: Some(b"key"),
            };
            assert_eq!(payload.initrd(), expected);
        }
    }

    #[test]
    fn each_section_once_and_no_other() {
        for name in [".linux", ".osrel", ".cmdline", ".initrd"] {
            assert_eq!(reason(&uki().without(name)), format!("section '{name}': expected one, found none"));
            assert_eq!(reason(&uki().section(name, b"x")), format!("section '{name}': expected one, found more"));
        }
        assert_eq!(reason(&uki().section(".text", b"x")), "section '.text': expected one, found more");
        assert_eq!(
            reason(&uki().section(".surprise", b"x")),
            "section '.surpris': expected none that this stub does not know"
        );
        assert_eq!(
            reason(&uki().section(".dtb", b"x")),
            "section '.dtb': expected none, since this stub does not use it (the devicetree is the firmware's)"
        );
        for (name, _) in NOT_SUPPORTED {
            let prefix = format!("section '{name}': expected none, since this stub does not use it (");
            assert!(reason(&uki().section(name, b"x")).starts_with(&prefix));
        }
    }

    /// Two readers of the same file could take another one of the two each.
    #[test]
    fn a_name_ends_at_its_zero() {
        for name in [".linux", ".osrel", ".uname", ".sbat", ".text"] {
            let mut twin = [b'x'; 8];
            twin[..=name.len()].copy_from_slice(&[name.as_bytes(), b"\0"].concat());
            let sample = uki().section(".uname", b"6.12").section(".sbat", b"x").section(".twin", b"y");
            for (mut image, layout) in [(sample.build(), Layout::File), (sample.load(), Layout::Memory)] {
                let at = image.windows(8).position(|name| name == b".twin\0\0\0").unwrap();
                image[at..at + 8].copy_from_slice(&twin);
                let problem = Payload::read(&image, layout).map(|_| ()).unwrap_err().to_string();
                assert_eq!(problem, format!("section '{name}': expected one, found more"));
            }
        }
    }

    #[test]
    fn sections_are_inside_the_image() {
        let outside = "section '.osrel': expected content inside the image";
        assert_eq!(reason(&uki().without(".osrel").section(".osrel", b"")), outside);
        for (field, value) in [(8, 0x1000), (8, u32::MAX), (12, 0xffff_f000), (16, 1)] {
            assert_eq!(reason(&uki().patched(".osrel", field, value)), outside, "{field} {value:#x}");
        }
        // In the headers, and where the one before it is.
        for address in [0x100, 0x1000, 0x2001] {
            let found = reason(&uki().patched(".osrel", 12, address));
            assert_eq!(found, "section '.osrel': expected behind the one before it", "{address:#x}");
        }
        // Behind the end of the file, which in memory nobody sees.
        let sample = uki().patched(".osrel", 20, 0x00ff_ffff);
        let problem = Payload::read(&sample.build(), Layout::File).map(|_| ()).unwrap_err();
        assert_eq!(problem.to_string(), outside);
    }

    #[test]
    fn the_rest_is_checked_before_anything_is_started() {
        let line = |content| reason(&uki().without(".cmdline").section(".cmdline", content));
        assert_eq!(line(b"a\nb"), "command line: expected printable ASCII, found byte 0x0a at 1");
        assert_eq!(line(&[b'x'; 2048]), "command line: expected 1 to 2047 bytes, found 2048");
        assert_eq!(
            reason(&uki().without(".linux").section(".linux", b"no kernel")),
            "kernel: expected a PE executable, found no executable"
        );
    }

    /// Whatever is in the headers, nothing panics; and what is taken from a file is taken from memory, with the same parts.
    #[test]
    fn mutations_of_the_headers() {
        let file = uki().build();
        let mut state = 1_u64;
        let (mut accepted, mut refused) = (0, 0);
        for _ in 0..100_000 {
            let mut file = file.clone();
            for _ in 0..2 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                file[(state >> 33) as usize % 0x300] = state.to_le_bytes()[3];
            }
            let Ok(payload) = Payload::read(&file, Layout::File) else {
                refused += 1;
                continue;
            };
            let Some(memory) = loaded(&file) else { continue };
            accepted += 1;
            let in_memory = Payload::read(&memory, Layout::Memory).unwrap();
            assert!(payload.measured().eq(in_memory.measured()));
            assert_eq!(payload.command_line(), in_memory.command_line());
        }
        assert!(accepted > 1000 && refused > 1000, "{accepted} {refused}");
    }
}
