//! Images that the boot stub starts, and a kernel alone.

use std::fs;
use std::path::Path;

use crate::Result;
use crate::bytes::{Bytes, Order};

/// What sections in memory and in the file are multiples of, in bytes.
const PAGE: usize = 4096;
const BLOCK: usize = 512;

pub fn write(folder: &Path) -> Result {
    let kernel = pe(&[(".text", b"code"), (".data", b"data")]);
    let image = |more: &[(&str, &[u8])]| {
        let usual: [(&str, &[u8]); 6] = [
            (".text", b"the stub"),
            (".osrel", b"ID=x\n"),
            (".cmdline", b"quiet\n"),
            (".initrd", b"070701"),
            (".sbat", b"sealroot-stub,1,x\n"),
            (".linux", &kernel),
        ];
        pe(&[&usual[..], more].concat())
    };
    fs::write(folder.join("image"), image(&[]))?;
    fs::write(folder.join("image-uname"), image(&[(".uname", b"6.12")]))?;
    fs::write(folder.join("image-unknown"), image(&[(".ucode", b"x")]))?;
    fs::write(folder.join("kernel"), kernel)?;
    Ok(())
}

/// A PE executable that starts where its first section is.
fn pe(sections: &[(&str, &[u8])]) -> Vec<u8> {
    let headers = (64 + 24 + 240 + 40 * sections.len()).next_multiple_of(BLOCK);
    let in_memory: usize = sections.iter().map(|(_, content)| content.len().next_multiple_of(PAGE)).sum();
    let mut file = Bytes::new(Order::Little);
    file.text("MZ").pad(60).fields(&[(4, 64)]).text("PE\0\0");
    file.fields(&[(2, 0x8664), (2, sections.len() as u64), (4, 0), (4, 0), (4, 0), (2, 240), (2, 0x22)]);
    // The optional header: magic, entry point, alignments, sizes, that code and data are apart, and empty directories.
    file.fields(&[(2, 0x20b), (2, 0), (4, 0), (4, 0), (4, 0), (4, PAGE as u64), (4, PAGE as u64), (8, 0)]);
    file.fields(&[(4, PAGE as u64), (4, BLOCK as u64)]).zeros(2);
    file.fields(&[(4, (PAGE + in_memory) as u64), (4, headers as u64), (4, 0), (2, 10), (2, 0x100)]).zeros(4);
    file.fields(&[(4, 0), (4, 16)]).zeros(16);
    let (mut offset, mut address) = (headers, PAGE);
    for (name, content) in sections {
        let end = file.content.len() + 8;
        file.text(name).pad(end);
        let size = content.len().next_multiple_of(BLOCK);
        let place = [content.len(), address, size, offset].map(|number| (4, number as u64));
        file.fields(&place).fields(&[(4, 0), (4, 0), (2, 0), (2, 0)]);
        file.fields(&[(4, if *name == ".text" { 0x6000_0020 } else { 0x4000_0040 })]);
        offset += size;
        address += content.len().next_multiple_of(PAGE);
    }
    file.pad(headers);
    for (_, content) in sections {
        file.content.extend(*content);
        file.content.resize(file.content.len().next_multiple_of(BLOCK), 0);
    }
    file.content
}
