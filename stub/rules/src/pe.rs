//! The headers of a PE executable: as much of them as the stub has to know.
//!
//! Source: Microsoft's "PE Format".

use core::fmt;

use crate::problem::Problem;

/// `IMAGE_FILE_HEADER`, behind the signature.
const FILE_HEADER: usize = 20;
/// `IMAGE_SECTION_HEADER`
const SECTION_HEADER: usize = 40;
/// `IMAGE_OPTIONAL_HEADER64` up to its directories, and an entry of those.
const OPTIONAL_HEADER: usize = 112;
const DIRECTORY: usize = 8;
/// `IMAGE_NT_OPTIONAL_HDR64_MAGIC`
const PE32_PLUS: u16 = 0x20b;
/// `IMAGE_DIRECTORY_ENTRY_SECURITY`, `IMAGE_DIRECTORY_ENTRY_BASERELOC`
const CERTIFICATES: usize = 4;
const BASE_RELOCATIONS: usize = 5;
/// `IMAGE_DLLCHARACTERISTICS_NX_COMPAT`
const NX_COMPATIBLE: u16 = 0x100;
/// `IMAGE_SCN_CNT_CODE` and `IMAGE_SCN_MEM_EXECUTE`
const CODE: u32 = 0x20 | 0x2000_0000;
/// The firmware of today's machines loads no more sections than this.
const MAX_SECTIONS: usize = 96;

/// A processor that there is a stub for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// x86-64
    X86_64,
    /// arm64
    Aarch64,
}

impl Machine {
    /// The processor that this program was compiled for.
    pub const THIS: Self = if cfg!(target_arch = "aarch64") { Self::Aarch64 } else { Self::X86_64 };

    fn of(number: u16) -> Option<Self> {
        match number {
            0x8664 => Some(Self::X86_64),
            0xaa64 => Some(Self::Aarch64),
            _ => None,
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        })
    }
}

/// A section's name: what comes before the first zero. What is behind that makes no other name of it.
#[derive(Clone, Copy)]
pub struct Name([u8; 8]);

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Name {}

impl Name {
    /// Its bytes, eight at most.
    pub fn as_bytes(&self) -> &[u8] {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap_or(self.0.len());
        self.0.get(..end).unwrap_or_default()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.as_bytes().escape_ascii())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{self}'")
    }
}

/// A line of the table of sections: addresses and sizes in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// Its name.
    pub name: Name,
    /// How long it is in memory.
    pub virtual_size: u32,
    /// Where it is in memory, from the image's start.
    pub virtual_address: u32,
    /// How long it is in the file, rounded up.
    pub raw_size: u32,
    /// Where it is in the file.
    pub raw_address: u32,
    /// Relocations of its own, which only object files have.
    pub relocations: u16,
    characteristics: u32,
}

impl Section {
    /// Whether the processor executes it.
    pub fn is_code(&self) -> bool {
        self.characteristics & CODE != 0
    }
}

/// The headers of a PE32+ image.
#[derive(Clone, Copy, Debug)]
pub struct Pe<'a> {
    table: &'a [u8],
    /// The processor that it is for.
    pub machine: Machine,
    /// Where it starts, from the image's start.
    pub entry_point: u32,
    /// Its length in memory.
    pub image_size: u32,
    /// The length of all headers.
    pub headers_size: u32,
    /// What addresses of sections are multiples of.
    pub section_alignment: u32,
    /// Whether it can do without memory that is both writable and executable.
    pub nx_compatible: bool,
    /// How long its base relocations are.
    pub base_relocations: u32,
    /// How long its table of signatures is.
    pub certificates: u32,
}

impl<'a> Pe<'a> {
    /// Reads the headers at the start of an image or a file.
    ///
    /// # Errors
    /// There are none, or they break off, or they are for a machine that no stub is for.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Problem> {
        Self::read(bytes).unwrap_or(Err(Problem::Headers("headers that break off")))
    }

    /// `None` if something lies behind the end.
    fn read(bytes: &'a [u8]) -> Option<Result<Self, Problem>> {
        let wrong = |found| Some(Err(Problem::Headers(found)));
        if bytes.get(..2)? != b"MZ" {
            return wrong("no executable");
        }
        let signature = usize::try_from(u32_at(bytes, 0x3c)?).ok()?;
        if array_at(bytes, signature)? != *b"PE\0\0" {
            return wrong("no PE executable");
        }
        let header = signature.checked_add(4)?;
        let optional = header.checked_add(FILE_HEADER)?;
        let Some(machine) = Machine::of(u16_at(bytes, header)?) else {
            return wrong("an executable for another machine");
        };
        let count = usize::from(u16_at(bytes, header.checked_add(2)?)?);
        let optional_size = usize::from(u16_at(bytes, header.checked_add(16)?)?);
        if u16_at(bytes, optional)? != PE32_PLUS {
            return wrong("a 32-bit executable");
        }
        if count > MAX_SECTIONS {
            return wrong("more than 96 sections");
        }
        let table = optional.checked_add(optional_size)?;
        let table_end = table.checked_add(count.checked_mul(SECTION_HEADER)?)?;
        let optional = bytes.get(optional..table)?;
        let directories = usize::try_from(u32_at(optional, OPTIONAL_HEADER.checked_sub(4)?)?).ok()?;
        let directory_size = |number: usize| {
            if number >= directories {
                return Some(0);
            }
            u32_at(optional, OPTIONAL_HEADER.checked_add(number.checked_mul(DIRECTORY)?)?.checked_add(4)?)
        };
        let headers_size = u32_at(optional, 60)?;
        // Only that much of them is loaded.
        if table_end > usize::try_from(headers_size).ok()? {
            return wrong("a table of sections behind the headers");
        }
        Some(Ok(Self {
            table: bytes.get(table..table_end)?,
            machine,
            entry_point: u32_at(optional, 16)?,
            image_size: u32_at(optional, 56)?,
            headers_size,
            section_alignment: u32_at(optional, 32)?,
            nx_compatible: u16_at(optional, 70)? & NX_COMPATIBLE != 0,
            base_relocations: directory_size(BASE_RELOCATIONS)?,
            certificates: directory_size(CERTIFICATES)?,
        }))
    }

    /// The table of sections, in its order.
    pub fn sections(&self) -> impl Iterator<Item = Section> + use<'a> {
        self.table.chunks_exact(SECTION_HEADER).filter_map(|line| {
            Some(Section {
                name: Name(array_at(line, 0)?),
                virtual_size: u32_at(line, 8)?,
                virtual_address: u32_at(line, 12)?,
                raw_size: u32_at(line, 16)?,
                raw_address: u32_at(line, 20)?,
                relocations: u16_at(line, 32)?,
                characteristics: u32_at(line, 36)?,
            })
        })
    }
}

/// Whether a file is a PE executable that carries a signature. What is no such executable carries none.
pub fn is_signed(file: &[u8]) -> bool {
    Pe::parse(file).is_ok_and(|pe| pe.certificates > 0)
}

/// So many bytes from an offset on.
pub(crate) fn part(bytes: &[u8], start: u32, length: u32) -> Option<&[u8]> {
    let start = usize::try_from(start).ok()?;
    bytes.get(start..start.checked_add(usize::try_from(length).ok()?)?)
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array_at(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array_at(bytes, at).map(u32::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::{Sample, kernel};

    #[test]
    fn what_headers_say() {
        let file = kernel().signed().build();
        let pe = Pe::parse(&file).unwrap();
        assert_eq!((pe.machine, pe.entry_point, pe.base_relocations), (Machine::X86_64, 0x1000, 0));
        assert!(is_signed(&file) && !is_signed(&kernel().build()) && !is_signed(b"MZ"));
        let names: Vec<_> = pe.sections().map(|section| section.name.to_string()).collect();
        assert_eq!(names, [".setup", ".text", ".data"]);
        assert!(pe.sections().nth(1).unwrap().is_code());
    }

    #[test]
    fn what_is_no_image() {
        let reason = |file: &[u8]| Pe::parse(file).unwrap_err().to_string();
        assert_eq!(reason(b"#!"), "image: expected a PE executable, found no executable");
        assert_eq!(reason(b"MZ"), "image: expected a PE executable, found headers that break off");
        let mut file = kernel().build();
        file[64..68].copy_from_slice(b"NE\0\0");
        assert_eq!(reason(&file), "image: expected a PE executable, found no PE executable");
        for (at, byte, found) in [
            (68, 0x4c, "an executable for another machine"),
            (64 + 24, 0, "a 32-bit executable"),
            (70, 97, "more than 96 sections"),
            (64 + 24 + 60, 0x10, "a table of sections behind the headers"),
        ] {
            let mut file = kernel().build();
            file[at] = byte;
            if at == 64 + 24 + 60 {
                file[at + 1] = 0;
            }
            assert_eq!(reason(&file), format!("image: expected a PE executable, found {found}"));
        }
    }

    #[test]
    fn every_truncation_of_the_headers() {
        let file = Sample::new().section(".text", b"code").build();
        let end = Pe::parse(&file).unwrap().table.as_ptr() as usize - file.as_ptr() as usize + SECTION_HEADER;
        for length in 0..end {
            assert!(Pe::parse(&file[..length]).is_err(), "{length}");
        }
        assert!(Pe::parse(&file[..end]).is_ok());
    }

    #[test]
    fn names_are_shown_safely() {
        assert_eq!(Name(*b".linux\0x").to_string(), ".linux");
        assert_eq!(Name(*b"\x1b[2J\n.ab").to_string(), "\\x1b[2J\\n.ab");
    }
}
