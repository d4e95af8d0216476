//! Initramfs of a few files, plain and compressed, and PE executables that carry them, with profiles and with a
//! certificate.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::bytes::{Bytes, Order};
use crate::{Result, output};

/// Where the first section is.
const HEADER: usize = 1024;
/// What every section has but `.initrd`.
const WORD: &str = "composefs=0123\n\0";

pub fn write(folder: &Path) -> Result {
    let compressed = |program: &str, option: &str| output(Command::new(program).arg(option).arg(folder.join("plain")));
    let plain = initramfs();
    fs::write(folder.join("plain"), &plain)?;
    let (gzip, zstd) = (compressed("gzip", "-nc")?, compressed("zstd", "-qc")?);
    let several = [gzip.as_slice(), &zstd, &plain].concat();
    let usual = [".osrel", ".cmdline", ".linux", ".initrd"];
    let profiles = [".linux", ".initrd", ".profile", ".cmdline", ".profile", ".cmdline"];
    fs::write(folder.join("uki-plain"), pe(&plain, &usual))?;
    fs::write(folder.join("uki-zstd"), pe(&zstd, &usual))?;
    fs::write(folder.join("uki-several"), pe(&several, &usual))?;
    fs::write(folder.join("uki-profiles"), pe(&plain, &profiles))?;
    fs::write(folder.join("gzip"), gzip)?;
    fs::write(folder.join("zstd"), zstd)?;
    fs::write(folder.join("several"), several)?;
    Ok(())
}

/// An archive in cpio's format newc: directories, a file of two names, a link.
fn initramfs() -> Vec<u8> {
    let mut archive = Vec::new();
    for folder in [(1, ".", 3), (2, "usr", 3), (3, "usr/lib", 2)] {
        entry(&mut archive, folder, 0o40755, "");
    }
    // The content of a file comes with the last of its names.
    entry(&mut archive, (4, "usr/lib/hardlink", 2), 0o100_644, "");
    entry(&mut archive, (4, "usr/lib/sealroot.toml", 2), 0o100_644, "[policy]\n");
    entry(&mut archive, (5, "usr/link", 1), 0o120_777, "lib");
    entry(&mut archive, (0, "TRAILER!!!", 1), 0, "");
    archive.resize(archive.len().next_multiple_of(512), 0);
    archive
}

/// Appends an entry; a file is its inode, name and number of links.
fn entry(archive: &mut Vec<u8>, (inode, name, links): (usize, &str, usize), mode: usize, content: &str) {
    archive.extend(b"070701");
    // Owner, group, links, time, size, devices, length of the name, checksum.
    let header = [inode, mode, 0, 0, links, 1_700_000_000, content.len(), 0, 0, 0, 0, name.len() + 1, 0];
    for number in header {
        archive.extend(format!("{number:08X}").bytes());
    }
    for text in [&format!("{name}\0"), content] {
        archive.extend(text.bytes());
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
}

/// A PE executable with these sections and a certificate.
fn pe(initramfs: &[u8], sections: &[&str]) -> Vec<u8> {
    let content = |section: &str| if section == ".initrd" { initramfs } else { WORD.as_bytes() };
    let end = HEADER + sections.iter().map(|section| content(section).len()).sum::<usize>();
    let mut file = Bytes::new(Order::Little);
    file.text("MZ").pad(60).fields(&[(4, 64)]).text("PE\0\0");
    file.fields(&[(2, 0x8664), (2, sections.len() as u64), (4, 0), (4, 0), (4, 0), (2, 240), (2, 0x22)]);
    // The optional header: magic, and where the certificates are.
    file.fields(&[(2, 0x20b), (2, 0), (4, 0), (4, 0), (4, 0), (4, 0), (4, 0), (8, 0), (4, 4096), (4, 512)]).zeros(2);
    file.fields(&[(4, 0x10_0000), (4, 512), (4, 0), (4, 0)]).zeros(4).fields(&[(4, 0), (4, 16)]);
    file.zeros(4).fields(&[(4, end as u64), (4, 16)]).zeros(11);
    let mut offset = HEADER;
    for section in sections {
        let (size, start) = (content(section).len() as u64, offset as u64);
        let name_end = file.content.len() + 8;
        file.text(section).pad(name_end);
        file.fields(&[(4, size), (4, 4096 + start), (4, size), (4, start), (4, 0), (4, 0), (2, 0), (2, 0)]);
        file.fields(&[(4, 0x4000_0040)]);
        offset += content(section).len();
    }
    file.pad(HEADER);
    for section in sections {
        file.content.extend(content(section));
    }
    file.fields(&[(4, 16), (2, 0x200), (2, 2), (8, 0)]);
    file.content
}
