//! The sections of a unified kernel image, which is a PE executable.
//!
//! Source: the UAPI group's specification "Unified Kernel Image", Microsoft's "PE Format".

use std::collections::BTreeMap;

use object::pe::IMAGE_DIRECTORY_ENTRY_SECURITY;
use object::read::pe::PeFile64;
use object::{Architecture, LittleEndian, Object, ObjectSection};

use crate::refusal::Refusal;

/// No UKI is larger, in bytes.
pub const MAX_SIZE: u64 = 2 << 30;
/// No UKI has more sections and profiles: each profile refers to all sections in front of the first one.
const MAX_SECTIONS: usize = 1024;
const MAX_PROFILES: usize = 64;
/// No section that is text is longer, in bytes.
const MAX_TEXT: usize = 64 << 10;

/// `WIN_CERTIFICATE`: length, revision, type.
const CERTIFICATE_HEADER: usize = 8;
/// `WIN_CERT_TYPE_PKCS_SIGNED_DATA`
const PKCS_SIGNED_DATA: [u8; 2] = [2, 0];

/// A unified kernel image.
#[derive(Debug)]
pub struct Uki<'a> {
    /// What machine it is for.
    pub machine: String,
    /// Whether it is signed.
    pub signature: Signature,
    /// What each profile starts with; there is one at least.
    pub profiles: Vec<Sections<'a>>,
}

/// The content of sections by their names; of several with one name the first counts, as for the stub.
pub type Sections<'a> = BTreeMap<String, &'a [u8]>;

/// Whether there is a signature. Whose it is, and whether it is right, is the firmware's matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signature {
    /// There is one.
    Present,
    /// There is none.
    Absent,
}

/// A PE executable of another kind.
pub fn no_section(name: &str) -> Refusal {
    Refusal::of("").expected("a unified kernel image").found(format_args!("a PE executable without a section '{name}'"))
}

/// A file that is too long, by its length in bytes.
pub fn too_long(length: u64) -> Refusal {
    Refusal::of("").expected(format!("at most {MAX_SIZE} bytes")).found(length)
}

/// More of something than any UKI has.
fn too_many(limit: usize, what: &str) -> Refusal {
    Refusal::of("").expected(format!("at most {limit} {what}")).found("more")
}

impl<'a> Uki<'a> {
    /// Parses the content of a file.
    pub fn parse(content: &'a [u8]) -> Result<Self, Refusal> {
        let file = PeFile64::parse(content)
            .map_err(|reason| Refusal::of("").expected("a PE executable for a 64-bit machine").because(reason))?;
        let mut parts = vec![Sections::new()];
        for (number, section) in file.sections().enumerate() {
            if number >= MAX_SECTIONS {
                return Err(too_many(MAX_SECTIONS, "sections"));
            }
            // The stub knows no names but those in the table of sections. Those that matter are ASCII; no other is equal to
            // one of them.
            let name = section.pe_section().raw_name().escape_ascii().to_string();
            let content = match section.data() {
                Ok(content) => content,
                Err(reason) => {
                    return Err(Refusal::of(format!("section '{name}'")).expected("inside the file").because(reason));
                }
            };
            if name == ".profile" {
                if parts.len() > MAX_PROFILES {
                    return Err(too_many(MAX_PROFILES, "profiles"));
                }
                parts.push(Sections::new());
            }
            if let Some(part) = parts.last_mut() {
                part.entry(name).or_insert(content);
            }
        }
        // What a profile lacks, it takes from what stands before the first one.
        let base = parts.remove(0);
        if parts.is_empty() {
            parts.push(Sections::new());
        }
        for part in &mut parts {
            for (name, content) in &base {
                part.entry(name.clone()).or_insert(content);
            }
        }
        let machine = match file.architecture() {
            Architecture::X86_64 => "x86_64".into(),
            Architecture::Aarch64 => "aarch64".into(),
            other => format!("{other:?}").to_lowercase(),
        };
        Ok(Self { machine, signature: signature(&file, content)?, profiles: parts })
    }
}

/// A section that is text, which may be filled up with zeros.
///
/// # Errors
/// No text is that long.
pub fn text<'a>(sections: &Sections<'a>, name: &'static str) -> Result<Option<&'a [u8]>, Refusal> {
    let Some(section) = sections.get(name) else { return Ok(None) };
    let text = section.split(|byte| *byte == 0).next().unwrap_or_default().trim_ascii();
    if text.len() > MAX_TEXT {
        let expected = format!("text of at most {MAX_TEXT} bytes");
        return Err(Refusal::of(format!("section '{name}'")).expected(expected).found(text.len()));
    }
    Ok(Some(text))
}

/// A section that every UKI has.
pub fn required<'a>(sections: &Sections<'a>, name: &'static str) -> Result<&'a [u8], Refusal> {
    sections.get(name).copied().ok_or_else(|| no_section(name))
}

fn signature(file: &PeFile64<'_>, content: &[u8]) -> Result<Signature, Refusal> {
    let Some(directory) = file.data_directory(IMAGE_DIRECTORY_ENTRY_SECURITY) else { return Ok(Signature::Absent) };
    // Here the address is an offset in the file.
    let (offset, size) = (directory.virtual_address.get(LittleEndian), directory.size.get(LittleEndian));
    if size == 0 {
        return Ok(Signature::Absent);
    }
    let start = offset as usize;
    let Some(table) = start.checked_add(size as usize).and_then(|end| content.get(start..end)) else {
        let found = format!("{size} bytes at {offset} in a file of {}", content.len());
        return Err(Refusal::of("").expected("certificates inside the file").found(found));
    };
    match table.get(CERTIFICATE_HEADER - 2..CERTIFICATE_HEADER) {
        Some(kind) if kind == PKCS_SIGNED_DATA && table.len() > CERTIFICATE_HEADER => Ok(Signature::Present),
        _ => Ok(Signature::Absent),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A PE executable with these sections, whose content is their name.
    fn pe(names: &[&[u8]]) -> Vec<u8> {
        let mut bytes = [b"MZ".to_vec(), vec![0; 58], 64_u32.to_le_bytes().to_vec(), b"PE\0\0".to_vec()].concat();
        let count = (names.len() as u16).to_le_bytes();
        // `IMAGE_FILE_HEADER`, and `IMAGE_OPTIONAL_HEADER64` without directories.
        bytes.extend([&[0x64, 0x86], &count[..], &[0; 12], &[112, 0, 0, 0]].concat());
        bytes.extend([&[0x0b, 0x02][..], &[0; 110]].concat());
        let mut offset = bytes.len() + names.len() * 40;
        for name in names {
            let mut header = [0; 40];
            header[..name.len()].copy_from_slice(name);
            for (at, value) in [(8, 8), (16, 8), (20, offset)] {
                header[at..at + 4].copy_from_slice(&(value as u32).to_le_bytes());
            }
            offset += 8;
            bytes.extend(header);
        }
        for name in names {
            bytes.extend([*name, &[0; 8][name.len()..]].concat());
        }
        bytes
    }

    #[test]
    fn profiles_take_what_they_lack() {
        let content = pe(&[b".linux", b".profile", b".cmdline", b".profile"]);
        let uki = Uki::parse(&content).unwrap();
        assert_eq!((uki.machine.as_str(), uki.signature, uki.profiles.len()), ("x86_64", Signature::Absent, 2));
        assert!(uki.profiles.iter().all(|profile| profile[".linux"] == b".linux\0\0"));
        assert_eq!(text(&uki.profiles[0], ".cmdline").unwrap(), Some(&b".cmdline"[..]));
        assert_eq!(text(&uki.profiles[1], ".cmdline").unwrap(), None);
    }

    #[test]
    fn more_than_any_uki_has_is_an_error() {
        let parse =
            |count, name: &[u8]| Uki::parse(&pe(&vec![name; count])).map(|_| ()).map_err(|error| error.to_string());
        assert_eq!(parse(1024, b".x"), Ok(()));
        assert_eq!(parse(1025, b".x"), Err("expected at most 1024 sections, found more".into()));
        assert_eq!(parse(64, b".profile"), Ok(()));
        assert_eq!(parse(65, b".profile"), Err("expected at most 64 profiles, found more".into()));
        let long = vec![b'x'; MAX_TEXT + 1];
        let error = text(&Sections::from([(".cmdline".into(), &long[..])]), ".cmdline").unwrap_err();
        assert_eq!(error.to_string(), "section '.cmdline': expected text of at most 65536 bytes, found 65537");
    }

    #[test]
    fn names_are_those_that_the_stub_sees() {
        // In a table of strings behind the symbols, of which there are none, this would be another name.
        let mut content = pe(&[b"/4"]);
        let table = content.len() as u32;
        content[64 + 12..64 + 16].copy_from_slice(&table.to_le_bytes());
        content.extend([&11_u32.to_le_bytes()[..], b".linux\0"].concat());
        let uki = Uki::parse(&content).unwrap();
        assert_eq!(uki.profiles[0].keys().collect::<Vec<_>>(), ["/4"]);
    }
}
