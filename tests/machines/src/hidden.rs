//! A directory of ext4 that lists less than a look-up by name finds in it: its index is out of order, so that the kernel's binary
//! search comes to a block that its reading in order skips. Nothing says so: the kernel checks no order, and the checksums are right.
//!
//! Source: "Hash Tree Directories" and "Checksums" in the kernel's `Documentation/filesystems/ext4`.

/// What the directory is made of.
#[derive(Debug)]
pub struct Hidden<'a> {
    /// The inode of the directory, and of the one it is in.
    pub inode: u32,
    /// The same of its parent.
    pub parent: u32,
    /// The filesystem's identifier, from which checksums begin.
    pub uuid: [u8; 16],
    /// The name that is not listed, its hash, and its inode.
    pub name: &'a str,
    /// By the hash function half MD4.
    pub hash: u32,
    /// What it names.
    pub target: u32,
}

const BLOCK: usize = 4096;
/// Behind the entries of a block: an entry without a name that has their checksum.
const TAIL: usize = 12;

fn crc32c(mut crc: u32, bytes: &[u8]) -> u32 {
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
        }
    }
    crc
}

impl Hidden<'_> {
    /// Its three blocks: the index, a block without entries, and the one with the name.
    pub fn blocks(&self) -> Vec<u8> {
        // (hash, block): the search for the name ends at the third, reading in order never comes to it.
        let later = |more| (self.hash.wrapping_add(more), 1);
        let index = [(0, 1), later(8), (self.hash, 2), later(2), later(4), later(10), later(12), later(14)];
        [self.index(&index), self.leaf(None), self.leaf(Some((self.name, self.target)))].concat()
    }

    fn seed(&self) -> u32 {
        // The generation of the inode is 0.
        [&self.uuid[..], &self.inode.to_le_bytes(), &[0; 4]].iter().fold(!0, |crc, part| crc32c(crc, part))
    }

    fn index(&self, entries: &[(u32, u32)]) -> Vec<u8> {
        const ENTRIES: usize = 32;
        let limit = (BLOCK - ENTRIES - 8) / 8;
        let mut block = Vec::with_capacity(BLOCK);
        block.extend(entry(self.inode, ".", 12));
        block.extend(entry(self.parent, "..", BLOCK - 12));
        // Half MD4, eight bytes of this, no levels between.
        block.extend([0, 0, 0, 0, 1, 8, 0, 0]);
        block.extend((limit as u16).to_le_bytes());
        block.extend((entries.len() as u16).to_le_bytes());
        block.extend(entries[0].1.to_le_bytes());
        for (hash, number) in &entries[1..] {
            block.extend(hash.to_le_bytes());
            block.extend(number.to_le_bytes());
        }
        let used = block.len();
        block.resize(BLOCK, 0);
        let checksum = [&block[..used], &[0; 4], &[0; 4]].iter().fold(self.seed(), |crc, part| crc32c(crc, part));
        let at = ENTRIES + limit * 8 + 4;
        block[at..at + 4].copy_from_slice(&checksum.to_le_bytes());
        block
    }

    fn leaf(&self, name: Option<(&str, u32)>) -> Vec<u8> {
        let (name, inode) = name.unwrap_or(("", 0));
        let mut block = entry(inode, name, BLOCK - TAIL);
        block.resize(BLOCK - TAIL, 0);
        let checksum = crc32c(self.seed(), &block);
        block.extend([0, 0, 0, 0, TAIL as u8, 0, 0, 0xde]);
        block.extend(checksum.to_le_bytes());
        block
    }
}

/// An entry that takes so many bytes, without those behind its name.
fn entry(inode: u32, name: &str, length: usize) -> Vec<u8> {
    const FILE: u8 = 1;
    const DIRECTORY: u8 = 2;
    let kind = match name {
        "" => 0,
        "." | ".." => DIRECTORY,
        _ => FILE,
    };
    let mut bytes = inode.to_le_bytes().to_vec();
    bytes.extend((length as u16).to_le_bytes());
    bytes.extend([name.len() as u8, kind]);
    bytes.extend(name.bytes());
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}
