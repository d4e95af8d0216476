//! What the firmware knows a program by: the digest that is signed, and that its list of forbidden programs has.
//!
//! Source: Microsoft's "Windows Authenticode Portable Executable Signature Format", "Calculating the PE Image Hash"; the UEFI
//! specification, "Signature Database".

use std::ops::Range;

use sha2::{Digest, Sha256};

use crate::refusal::Refusal;

/// Where headers say where they go on.
const NEXT_HEADER: usize = 0x3c;
/// `PE\0\0` and `IMAGE_FILE_HEADER`
const FILE_HEADER: usize = 24;
/// `IMAGE_NT_OPTIONAL_HDR64_MAGIC`
const PE32_PLUS: u16 = 0x20b;
/// From the optional header on: what is not hashed, since signing changes it.
const CHECKSUM: usize = 64;
const CERTIFICATES: usize = 144;
const SECTION_HEADER: usize = 40;

/// `EFI_CERT_SHA256_GUID`, c1c41626-504c-4092-aca9-41f936934328
const SHA256: [u8; 16] =
    [0x26, 0x16, 0xc4, 0xc1, 0x4c, 0x50, 0x92, 0x40, 0xac, 0xa9, 0x41, 0xf9, 0x36, 0x93, 0x43, 0x28];
/// `EFI_SIGNATURE_LIST`, and `EFI_SIGNATURE_DATA` of a SHA-256 digest.
const LIST_HEADER: u32 = 28;
const ENTRY: u32 = 16 + 32;

/// The SHA-256 digest of a PE executable for a 64-bit machine, signed or not.
///
/// # Errors
/// It is none, or it is cut off.
pub fn digest(file: &[u8]) -> Result<[u8; 32], Refusal> {
    let parts = parts(file).ok_or_else(|| Refusal::of("").expected("a whole PE executable for a 64-bit machine"))?;
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    Ok(hash.finalize().into())
}

/// The list for the variable `dbx` that forbids the program with this digest. Nobody is named as its owner.
pub fn forbidding(digest: [u8; 32]) -> Vec<u8> {
    let sizes = [LIST_HEADER + ENTRY, 0, ENTRY].map(u32::to_le_bytes).concat();
    [&SHA256[..], &sizes, &[0; 16], &digest].concat()
}

/// What is hashed, in its order: headers, sections by their place in the file, and what is behind them but for the certificates.
fn parts(file: &[u8]) -> Option<Vec<&[u8]>> {
    let header = usize::try_from(u32_at(file, NEXT_HEADER)?).ok()?;
    let optional = header.checked_add(FILE_HEADER)?;
    let is_pe = file.get(..2)? == b"MZ" && file.get(header..)?.starts_with(b"PE\0\0");
    if !is_pe || u16_at(file, optional)? != PE32_PLUS {
        return None;
    }
    // The directory of the certificates must be there.
    if u32_at(file, optional + 108)? <= 4 {
        return None;
    }
    let headers = usize::try_from(u32_at(file, optional + 60)?).ok()?;
    let (checksum, certificates) = (optional + CHECKSUM, optional + CERTIFICATES);
    let mut parts =
        vec![file.get(..checksum)?, file.get(checksum + 4..certificates)?, file.get(certificates + 8..headers)?];
    let mut end = headers;
    for section in sections(file, header, optional)? {
        parts.push(file.get(section.clone())?);
        end = end.checked_add(section.len())?;
    }
    let certificates_size = usize::try_from(u32_at(file, certificates + 4)?).ok()?;
    parts.push(file.get(end..file.len().checked_sub(certificates_size)?)?);
    Some(parts)
}

fn sections(file: &[u8], header: usize, optional: usize) -> Option<Vec<Range<usize>>> {
    let count = usize::from(u16_at(file, header + 6)?);
    let start = optional + usize::from(u16_at(file, header + 20)?);
    let table = file.get(start..start + count * SECTION_HEADER)?;
    let mut sections = Vec::new();
    for line in table.chunks_exact(SECTION_HEADER) {
        let (size, start) = (usize::try_from(u32_at(line, 16)?).ok()?, usize::try_from(u32_at(line, 20)?).ok()?);
        if size > 0 {
            sections.push(start..start.checked_add(size)?);
        }
    }
    sections.sort_by_key(|section| section.start);
    Some(sections)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_le_bytes)
}
