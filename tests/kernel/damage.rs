//! Random damage to a disk, below its filesystem.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::disk::BLOCK;
use crate::random::Random;

/// Part of the disk: where it begins, and its length.
pub type Part = (u64, u64);

/// One change. Offsets and blocks count from the start of the disk.
#[derive(Clone, Copy, Debug)]
enum Change {
    Bit {
        offset: u64,
        bit: u8,
    },
    Byte {
        offset: u64,
        xor: u8,
    },
    /// A block of zeros, as a device may give for one that it has lost.
    Zeros {
        block: u64,
    },
    /// Two blocks, each in the other's place.
    Swap {
        blocks: [u64; 2],
    },
    /// A block that is overwritten by what [`Random`] makes of the seed.
    Noise {
        block: u64,
        seed: u64,
    },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bit { offset, bit } => write!(f, "byte {offset:#x} ^ bit {bit}"),
            Self::Byte { offset, xor } => write!(f, "byte {offset:#x} ^ {xor:#04x}"),
            Self::Zeros { block } => write!(f, "block {block:#x} zeroed"),
            Self::Swap { blocks: [one, other] } => write!(f, "blocks {one:#x} and {other:#x} swapped"),
            Self::Noise { block, seed } => write!(f, "block {block:#x} overwritten from seed {seed:#x}"),
        }
    }
}

/// Changes, made one after the other.
pub struct Damage {
    place: &'static str,
    changes: Vec<Change>,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.place)?;
        self.changes.iter().enumerate().try_for_each(|(index, change)| {
            let separator = if index == 0 { ": " } else { ", " };
            write!(f, "{separator}{change}")
        })
    }
}

/// A disk without damage.
pub struct Intact {
    content: Vec<u8>,
    /// The blocks that are not all zeros: most of what a filesystem has not used is of no interest.
    used: Vec<u64>,
}

impl Intact {
    pub fn new(content: Vec<u8>) -> Self {
        let blocks = content.chunks(BLOCK as usize).zip(0..);
        let used = blocks.filter(|(block, _)| *block != [0; BLOCK as usize]).map(|(_, index)| index).collect();
        Self { content, used }
    }

    fn block(&self, index: u64) -> &[u8] {
        &self.content[(index * BLOCK) as usize..][..BLOCK as usize]
    }

    /// Changes from 1 to 64 bits, bytes and blocks, wherever they are.
    pub fn damage_anywhere(&self, random: &mut Random) -> Damage {
        // As many disks with a few changes as with many.
        let most = 1 << random.below(7);
        let count = 1 + random.below(most);
        let blocks = self.content.len() as u64 / BLOCK;
        let block = |random: &mut Random| match random.coin() {
            true => *random.choose(&self.used),
            false => random.below(blocks),
        };
        let changes = (0..count).map(|_| match random.below(5) {
            0 => {
                let part = (block(random) * BLOCK, BLOCK);
                Change::Bit { offset: self.byte(random, part), bit: random.below(8) as u8 }
            }
            1 => {
                let part = (block(random) * BLOCK, BLOCK);
                self.byte_change(random, part)
            }
            2 => Change::Zeros { block: block(random) },
            3 => Change::Swap { blocks: [block(random), block(random)] },
            _ => Change::Noise { block: block(random), seed: random.next() },
        });
        Damage { place: "anywhere", changes: changes.collect() }
    }

    /// Changes one byte in one of the parts of a place.
    pub fn damage_in(&self, random: &mut Random, place: &'static str, parts: &[Part]) -> Damage {
        let part = *random.choose(parts);
        Damage { place, changes: vec![self.byte_change(random, part)] }
    }

    fn byte_change(&self, random: &mut Random, part: Part) -> Change {
        Change::Byte { offset: self.byte(random, part), xor: (random.below(255) + 1) as u8 }
    }

    /// Every second time one that is not zero: most of the filesystem's own blocks is unused.
    fn byte(&self, random: &mut Random, (start, length): Part) -> u64 {
        let only_used = random.coin();
        let used: Vec<_> = (start..start + length).filter(|offset| self.content[*offset as usize] != 0).collect();
        if only_used && !used.is_empty() { *random.choose(&used) } else { start + random.below(length) }
    }

    /// The blocks that differ after all changes.
    fn changed(&self, damage: &Damage) -> BTreeMap<u64, Vec<u8>> {
        let mut changed = BTreeMap::new();
        for change in &damage.changes {
            match *change {
                Change::Bit { offset, bit } => {
                    self.changed_block(&mut changed, offset / BLOCK)[(offset % BLOCK) as usize] ^= 1 << bit
                }
                Change::Byte { offset, xor } => {
                    self.changed_block(&mut changed, offset / BLOCK)[(offset % BLOCK) as usize] ^= xor
                }
                Change::Zeros { block: index } => self.changed_block(&mut changed, index).fill(0),
                Change::Swap { blocks: [one, other] } => {
                    let moved = std::mem::take(self.changed_block(&mut changed, one));
                    // A block may be swapped with itself.
                    let replaced = if one == other {
                        moved
                    } else {
                        std::mem::replace(self.changed_block(&mut changed, other), moved)
                    };
                    *self.changed_block(&mut changed, one) = replaced;
                }
                Change::Noise { block: index, seed } => {
                    let mut random = Random::new(seed);
                    self.changed_block(&mut changed, index).fill_with(|| random.next() as u8);
                }
            }
        }
        changed
    }

    fn changed_block<'a>(&self, changed: &'a mut BTreeMap<u64, Vec<u8>>, index: u64) -> &'a mut Vec<u8> {
        changed.entry(index).or_insert_with(|| self.block(index).to_vec())
    }

    /// Makes the changes on a file that holds the disk.
    pub fn apply(&self, damage: &Damage, file: &File) {
        for (index, content) in self.changed(damage) {
            file.write_all_at(&content, index * BLOCK).unwrap();
        }
    }

    /// Takes them back.
    pub fn repair(&self, damage: &Damage, file: &File) {
        for index in self.changed(damage).into_keys() {
            file.write_all_at(self.block(index), index * BLOCK).unwrap();
        }
    }
}
