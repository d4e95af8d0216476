//! What is read of an image after it was measured: headers, mount points, and every inode with its xattrs.
#![no_main]

use std::fs::File;

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use sealroot::formats::composefs::FormatVersion;
use sealroot::fuzzing::{look_inside, walk};
use sealroot_fuzz::{bounded, check_message, file};

/// All that the assembly may need.
const MOUNT_POINTS: [&str; 3] = ["etc", "var", "sysroot"];

fuzz_target!(|content: &[u8]| {
    let file = file(content);
    // The format is the karg's; the other one is a refusal after 16 bytes.
    let format = if content.get(12) == Some(&2) { FormatVersion::V2 } else { FormatVersion::V1 };
    let look = |file: &File| look_inside(format, file, &MOUNT_POINTS);
    if let Err(error) = bounded(content.len(), 64, || look(&file)) {
        check_message(&error);
        return;
    }
    if let Err(error) = bounded(content.len(), 256, || walk(&file)) {
        check_message(&error);
    }
});

/// The numbers of the EROFS super block by offset and size: compatible features, block size, the root's inode, where
/// inodes and shared xattrs start, incompatible features, devices, xattr prefixes, the packed inode.
const SUPER_BLOCK: [(usize, usize); 12] =
    [(8, 4), (12, 1), (13, 1), (14, 2), (40, 4), (44, 4), (80, 4), (86, 2), (88, 2), (91, 1), (92, 4), (96, 8)];
/// The same for an inode: format, xattrs, mode, links, size, time, where its data starts.
const INODE: [(usize, usize); 8] = [(0, 2), (2, 2), (4, 2), (6, 2), (8, 4), (8, 8), (12, 4), (16, 4)];

// Most of an image is zeros and names: half of the changes go to the numbers instead, the root's first.
fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let mut state = u64::from(seed) << 1 | 1;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap_or_default() % below.max(1)
    };
    if size < 4096 || random(2) == 0 {
        return fuzzer_mutate(data, size, max_size);
    }
    let word = |at: usize| data.get(at..at + 4).and_then(|word| word.try_into().ok()).map_or(0, u32::from_le_bytes);
    let root = word(1024 + 40) as usize * 4096 + (word(1024 + 14) & 0xffff) as usize * 32;
    for _ in 0..=random(3) {
        let (base, (offset, width)) = match random(4) {
            0 => (1024, SUPER_BLOCK[random(SUPER_BLOCK.len())]),
            1 => (root, INODE[random(INODE.len())]),
            _ => (1152 + random((size - 1152) / 32) * 32, INODE[random(INODE.len())]),
        };
        let number = match random(5) {
            0 => random(32) as u64,
            1 => 1 << random(64),
            2 => (1u64 << random(64)).wrapping_sub(1),
            3 => u64::MAX - random(32) as u64,
            _ => random(size) as u64,
        };
        if let Some(field) = data[..size].get_mut(base + offset..base + offset + width) {
            field.copy_from_slice(&number.to_le_bytes()[..width]);
        }
    }
    size
});
