//! The sections of a unified kernel image, which is a PE executable.
//!
//! Source: the UAPI group's specification "Unified Kernel Image", Microsoft's "PE Format".

use std::collections::BTreeMap;
use std::io;

use object::pe::IMAGE_DIRECTORY_ENTRY_SECURITY;
use object::read::pe::PeFile64;
use object::{Architecture, LittleEndian, Object, ObjectSection};
use thiserror::Error;

/// No UKI is larger, in bytes.
pub const MAX_SIZE: u64 = 2 << 30;

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

/// Why a file is no UKI.
#[derive(Debug, Error)]
pub enum PeError {
    /// Another kind of file, or a damaged one.
    #[error("expected a PE executable for a 64-bit machine")]
    Pe(#[source] object::Error),
    /// A signature that is cut off.
    #[error("expected certificates inside the file, found {size} bytes at {offset} in a file of {length}")]
    Certificates {
        /// Where they should be, in bytes.
        offset: u64,
        /// How long they should be.
        size: u64,
        /// How long the file is.
        length: usize,
    },
    /// A section that is cut off.
    #[error("section '{name}': expected inside the file")]
    Section {
        /// Its name.
        name: String,
        /// What is wrong.
        #[source]
        reason: object::Error,
    },
    /// A PE executable of another kind.
    #[error("expected a unified kernel image, found a PE executable without a section '{0}'")]
    NoSection(&'static str),
    /// A file that is too long.
    #[error("expected at most {MAX_SIZE} bytes, found {0}")]
    TooLong(u64),
    /// A file that cannot be read.
    #[error("cannot be read")]
    Read(#[source] io::Error),
}

impl<'a> Uki<'a> {
    /// Parses the content of a file.
    pub fn parse(content: &'a [u8]) -> Result<Self, PeError> {
        let file = PeFile64::parse(content).map_err(PeError::Pe)?;
        let mut parts = vec![Sections::new()];
        for section in file.sections() {
            // Those that matter are ASCII; no other is equal to one of them.
            let name = section.name_bytes().map_err(PeError::Pe)?.escape_ascii().to_string();
            let content = match section.data() {
                Ok(content) => content,
                Err(reason) => return Err(PeError::Section { name, reason }),
            };
            if name == ".profile" {
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

/// A section that every UKI has.
pub fn required<'a>(sections: &Sections<'a>, name: &'static str) -> Result<&'a [u8], PeError> {
    sections.get(name).copied().ok_or(PeError::NoSection(name))
}

fn signature(file: &PeFile64<'_>, content: &[u8]) -> Result<Signature, PeError> {
    let Some(directory) = file.data_directory(IMAGE_DIRECTORY_ENTRY_SECURITY) else { return Ok(Signature::Absent) };
    // Here the address is an offset in the file.
    let (offset, size) = (directory.virtual_address.get(LittleEndian), directory.size.get(LittleEndian));
    if size == 0 {
        return Ok(Signature::Absent);
    }
    let start = offset as usize;
    let Some(table) = start.checked_add(size as usize).and_then(|end| content.get(start..end)) else {
        return Err(PeError::Certificates { offset: offset.into(), size: size.into(), length: content.len() });
    };
    match table.get(CERTIFICATE_HEADER - 2..CERTIFICATE_HEADER) {
        Some(kind) if kind == PKCS_SIGNED_DATA && table.len() > CERTIFICATE_HEADER => Ok(Signature::Present),
        _ => Ok(Signature::Absent),
    }
}
