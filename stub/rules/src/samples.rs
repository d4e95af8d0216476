//! Small PE executables for the tests: as a file, and as the firmware loads it.
#![expect(clippy::arithmetic_side_effects, reason = "a test may stop")]

use crate::pe::Pe;

const SIGNATURE: usize = 64;
const OPTIONAL: usize = SIGNATURE + 24;
const OPTIONAL_SIZE: usize = 112 + 16 * 8;
const TABLE: usize = OPTIONAL + OPTIONAL_SIZE;
const HEADERS: usize = 0x400;
const ALIGNMENT: usize = 0x1000;

/// A PE executable for x86-64 under construction.
#[derive(Clone, Debug)]
pub struct Sample {
    sections: Vec<(String, Vec<u8>)>,
    /// Fields of the optional header, and of lines of the table by their names: offset and value.
    header: Vec<(usize, u32)>,
    patches: Vec<(String, usize, u32)>,
}

impl Sample {
    pub fn new() -> Self {
        Self { sections: Vec::new(), header: Vec::new(), patches: Vec::new() }
    }

    pub fn section(mut self, name: &str, content: &[u8]) -> Self {
        self.sections.push((name.into(), content.into()));
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.sections.retain(|(known, _)| known != name);
        self
    }

    /// A field of a line of the table of sections.
    pub fn patched(mut self, name: &str, offset: usize, value: u32) -> Self {
        self.patches.push((name.into(), offset, value));
        self
    }

    pub fn entry(self, address: u32) -> Self {
        self.field(16, address)
    }

    pub fn alignment(self, alignment: u32) -> Self {
        self.field(32, alignment)
    }

    pub fn size(self, size: u32) -> Self {
        self.field(56, size)
    }

    pub fn base_relocations(self, size: u32) -> Self {
        self.field(112 + 5 * 8 + 4, size)
    }

    pub fn signed(self) -> Self {
        self.field(112 + 4 * 8 + 4, 1000)
    }

    fn field(mut self, offset: usize, value: u32) -> Self {
        self.header.push((offset, value));
        self
    }

    fn headers(&self) -> Vec<u8> {
        let mut bytes = vec![0; HEADERS];
        let mut put = |at: usize, content: &[u8]| bytes[at..at + content.len()].copy_from_slice(content);
        put(0, b"MZ");
        put(0x3c, &(SIGNATURE as u32).to_le_bytes());
        put(SIGNATURE, b"PE\0\0\x64\x86");
        put(SIGNATURE + 6, &(self.sections.len() as u16).to_le_bytes());
        put(SIGNATURE + 20, &(OPTIONAL_SIZE as u16).to_le_bytes());
        put(OPTIONAL, &[0x0b, 0x02]);
        let end = ALIGNMENT
            + self.sections.iter().map(|(_, content)| content.len().next_multiple_of(ALIGNMENT)).sum::<usize>();
        for (offset, value) in
            [(32, ALIGNMENT as u32), (56, end as u32), (60, HEADERS as u32), (68, 0x100_000a), (108, 16)]
        {
            put(OPTIONAL + offset, &value.to_le_bytes());
        }
        for (offset, value) in &self.header {
            put(OPTIONAL + offset, &value.to_le_bytes());
        }
        let (mut raw, mut address) = (HEADERS, ALIGNMENT);
        for (number, (name, content)) in self.sections.iter().enumerate() {
            let line = TABLE + number * 40;
            put(line, &name.as_bytes()[..name.len().min(8)]);
            let code = if [".text", ".setup"].contains(&name.as_str()) { 0x6000_0020_u32 } else { 0x4000_0040 };
            let raw_size = content.len().next_multiple_of(0x200);
            for (offset, value) in [(8, content.len()), (12, address), (16, raw_size), (20, raw), (36, code as usize)] {
                put(line + offset, &(value as u32).to_le_bytes());
            }
            for (_, offset, value) in self.patches.iter().filter(|(patched, ..)| patched == name) {
                // The two counters are 16 bits wide.
                let width = if *offset == 32 { 2 } else { 4 };
                put(line + offset, &value.to_le_bytes()[..width]);
            }
            raw += raw_size;
            address += content.len().next_multiple_of(ALIGNMENT);
        }
        bytes
    }

    /// The file.
    pub fn build(&self) -> Vec<u8> {
        let mut bytes = self.headers();
        for (_, content) in &self.sections {
            bytes.extend(content);
            bytes.resize(bytes.len().next_multiple_of(0x200), 0);
        }
        bytes
    }

    /// The image in memory.
    pub fn load(&self) -> Vec<u8> {
        let mut bytes = self.headers();
        bytes.resize(ALIGNMENT, 0);
        for (_, content) in &self.sections {
            bytes.extend(content);
            bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        }
        bytes
    }
}

/// A file in memory, as firmware loads it: headers, then the sections in their order. `None` where it would load nothing.
///
/// Source: `PeCoffLoaderLoadImage` of edk2.
pub fn loaded(file: &[u8]) -> Option<Vec<u8>> {
    let pe = Pe::parse(file).ok().filter(|pe| pe.image_size <= 1 << 20)?;
    let mut memory = vec![0; pe.image_size as usize];
    let headers = pe.headers_size as usize;
    memory.get_mut(..headers)?.copy_from_slice(file.get(..headers)?);
    for section in pe.sections() {
        let size = match section.virtual_size {
            0 => section.raw_size,
            size => size.min(section.raw_size),
        };
        let from = file.get(section.raw_address as usize..)?.get(..size as usize)?;
        let to = memory.get_mut(section.virtual_address as usize..)?;
        to.get(..section.virtual_size as usize)?;
        to.get_mut(..size as usize)?.copy_from_slice(from);
    }
    Some(memory)
}

/// Like Linux: code at two places, data, no base relocations.
pub fn kernel() -> Sample {
    Sample::new().section(".setup", b"setup").section(".text", b"text").section(".data", b"data").entry(0x1000)
}

/// A unified kernel image with all that is required.
pub fn uki() -> Sample {
    Sample::new()
        .section(".text", b"the stub")
        .section(".rdata", b"its constants")
        .section(".osrel", b"ID=test\n")
        .section(".cmdline", b"root=x composefs=y\n")
        .section(".initrd", b"the initramfs")
        .section(".linux", &kernel().build())
}
