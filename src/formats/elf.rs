//! The interpreter of an ELF program: the file that the kernel loads with it.
//!
//! Source: the System V ABI, "Program Header"; only the fields on the way to `PT_INTERP` are looked at.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::str;

use crate::refusal::Refusal;

const MAGIC: [u8; 4] = *b"\x7fELF";
const CLASS_32: u8 = 1;
const CLASS_64: u8 = 2;
const LITTLE_ENDIAN: u8 = 1;
const BIG_ENDIAN: u8 = 2;
const PT_INTERP: u32 = 3;
/// How much of a file is read at first, in bytes: as a rule all that is wanted.
const START: usize = 1024;
/// The kernel's own limits: a page of program headers, `PATH_MAX` for the interpreter.
const MAX_HEADERS: usize = 65_536;
const MAX_INTERPRETER: u64 = 4096;

/// A read failed.
fn unread(reason: io::Error) -> Refusal {
    Refusal::of("ELF headers").because(reason)
}

/// The headers contradict themselves.
fn wrong(expected: &'static str, found: u64) -> Refusal {
    Refusal::of("ELF headers").expected(expected).found(found)
}

/// The interpreter of a program, `None` for a static program or for a file that is no ELF program.
pub fn interpreter(file: &File) -> Result<Option<String>, Refusal> {
    let mut start = [0; START];
    let count = file.read_at(&mut start, 0).map_err(unread)?;
    let start = start.get(..count).unwrap_or_default();
    let header = Fields { bytes: start, layout: Layout::default() };
    if header.bytes.get(..4) != Some(&MAGIC) {
        return Ok(None);
    }
    let layout = Layout::of(header.bytes)?;
    let header = Fields { layout, ..header };
    let (offset, size, number) = if layout.wide {
        (header.number(32, 8)?, header.number(54, 2)?, header.number(56, 2)?)
    } else {
        (header.number(28, 4)?, header.number(42, 2)?, header.number(44, 2)?)
    };
    let expected_size = if layout.wide { 56 } else { 32 };
    if size != expected_size {
        return Err(wrong("program headers of 32 or 56 bytes", size));
    }
    let total = usize::try_from(size * number).unwrap_or(usize::MAX);
    if total > MAX_HEADERS {
        return Err(wrong("at most 65536 bytes of program headers", total as u64));
    }
    let table = bytes_at(file, start, offset, total)?;
    for bytes in table.chunks_exact(usize::try_from(size).unwrap_or(usize::MAX)) {
        let program_header = Fields { bytes, layout };
        if program_header.number(0, 4)? != u64::from(PT_INTERP) {
            continue;
        }
        let (offset, length) = if layout.wide {
            (program_header.number(8, 8)?, program_header.number(32, 8)?)
        } else {
            (program_header.number(4, 4)?, program_header.number(16, 4)?)
        };
        return read_path(file, start, offset, length).map(Some);
    }
    Ok(None)
}

/// Some bytes of a file, of which `start` is the start.
fn bytes_at<'a>(file: &File, start: &'a [u8], offset: u64, length: usize) -> Result<Cow<'a, [u8]>, Refusal> {
    let from = usize::try_from(offset).ok();
    if let Some(bytes) = from.and_then(|from| start.get(from..from.checked_add(length)?)) {
        return Ok(bytes.into());
    }
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, offset).map_err(unread)?;
    Ok(bytes.into())
}

fn read_path(file: &File, start: &[u8], offset: u64, length: u64) -> Result<String, Refusal> {
    if !(2..=MAX_INTERPRETER).contains(&length) {
        return Err(wrong("an interpreter of 2 to 4096 bytes", length));
    }
    let bytes = bytes_at(file, start, offset, usize::try_from(length).unwrap_or(0))?;
    let path = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
    match str::from_utf8(path) {
        Ok(text) if text.starts_with('/') && !text.contains('\0') => Ok(text.into()),
        _ => Err(Refusal::of("ELF interpreter").expected("a path").found(format_args!("'{}'", path.escape_ascii()))),
    }
}

/// How the numbers of a file are laid out.
#[derive(Clone, Copy, Debug, Default)]
struct Layout {
    wide: bool,
    big_endian: bool,
}

impl Layout {
    fn of(header: &[u8]) -> Result<Self, Refusal> {
        let byte = |index: usize| header.get(index).copied().unwrap_or(0);
        let wide = match byte(4) {
            CLASS_32 => false,
            CLASS_64 => true,
            found => return Err(wrong("class 1 or 2", found.into())),
        };
        let big_endian = match byte(5) {
            LITTLE_ENDIAN => false,
            BIG_ENDIAN => true,
            found => return Err(wrong("data encoding 1 or 2", found.into())),
        };
        Ok(Self { wide, big_endian })
    }
}

/// Bytes with numbers in them.
#[derive(Clone, Copy)]
struct Fields<'a> {
    bytes: &'a [u8],
    layout: Layout,
}

impl Fields<'_> {
    /// The number of `size` bytes at `offset`.
    fn number(&self, offset: usize, size: usize) -> Result<u64, Refusal> {
        let field = self.bytes.get(offset..offset + size).ok_or(wrong("a complete header", self.bytes.len() as u64))?;
        let join = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
        Ok(if self.layout.big_endian { field.iter().fold(0, join) } else { field.iter().rev().fold(0, join) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: &[u8]) -> File {
        let file = File::from(rustix::fs::memfd_create("elf", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
        file.write_all_at(bytes, 0).unwrap();
        file
    }

    /// A 64-bit little-endian program with one program header and a path behind it.
    fn program(path: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 64 + 56];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[32] = 64;
        bytes[54] = 56;
        bytes[56] = 1;
        bytes[64] = 3;
        bytes[64 + 8] = 120;
        bytes[64 + 32..64 + 40].copy_from_slice(&(path.len() as u64).to_le_bytes());
        bytes.extend(path);
        bytes
    }

    #[test]
    fn interpreters() {
        let found = interpreter(&file(&program(b"/lib64/ld-linux-x86-64.so.2\0"))).unwrap();
        assert_eq!(found.as_deref(), Some("/lib64/ld-linux-x86-64.so.2"));
        // The name lies behind what is read first, or across its end.
        for place in [START, START - 5] {
            let mut far = program(b"/lib/ld.so\0");
            let path = far.split_off(64 + 56);
            far.resize(place, 0);
            far.extend(path);
            far[64 + 8..64 + 16].copy_from_slice(&(place as u64).to_le_bytes());
            assert_eq!(interpreter(&file(&far)).unwrap().as_deref(), Some("/lib/ld.so"));
        }
        for no_program in [&b""[..], b"#!/bin/sh\n", b"\x7fEL"] {
            assert_eq!(interpreter(&file(no_program)).unwrap(), None);
        }
        let mut fixed = program(b"/x\0");
        fixed[64] = 1;
        assert_eq!(interpreter(&file(&fixed)).unwrap(), None);
        // This test itself is a program; where it is dynamic, the kernel has loaded its interpreter.
        let own = File::open("/proc/self/exe").unwrap();
        assert!(interpreter(&own).unwrap().is_none_or(|path| std::path::Path::new(&path).exists()));
    }

    #[test]
    fn contradictions_are_errors() {
        let good = program(b"/lib/ld.so\0");
        for (offset, value) in [(4, 9), (5, 9), (54, 0), (54, 55), (57, 0xff), (33, 0xff), (64 + 32, 0), (64 + 39, 1)] {
            let mut bad = good.clone();
            bad[offset] = value;
            assert!(interpreter(&file(&bad)).is_err(), "byte {offset} = {value}");
        }
        assert!(interpreter(&file(&good[..60])).is_err());
        assert!(interpreter(&file(&good[..100])).is_err());
        assert!(interpreter(&file(&program(b"lib\0"))).is_err());
        assert!(interpreter(&file(&program(b"/a\0b\0"))).is_err());
    }
}
