//! The fs-verity digest of a file, computed in user space.
//!
//! It says what a file would measure as, nothing more: the next read of the file may give something else. What vouches
//! for content is the kernel's measurement.
//!
//! Source: "File digest computation" and "fs-verity descriptor" in the kernel's
//! `Documentation/filesystems/fsverity.rst`.

use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::mem;
use std::os::unix::fs::FileExt;
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use sha2::block_api::{compress256, compress512};

use crate::verity::digest::{Algorithm, ImageDigest};

/// The block size of the tree, in bytes.
pub const BLOCK: usize = 4096;
/// How much is read at once; whole blocks.
const CHUNK: usize = 64 * BLOCK;
/// How much of a file one thread hashes before it is joined, in bytes: long enough for a thread to be worth its start.
const STRETCH: u64 = 16 * CHUNK as u64;
const MAX_THREADS: usize = 8;
/// Of a thread, whose buffers are on the heap, in bytes.
const STACK: usize = 128 * 1024;
/// `struct fsverity_descriptor` of `linux/fsverity.h`, in bytes.
const DESCRIPTOR: usize = 256;

/// How many threads hash a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// The calling one, which has others beside it that hash other files.
    One,
    /// One for each processor that this process may use, up to eight.
    Several,
}

impl Threads {
    fn count(self) -> usize {
        match self {
            Self::One => 1,
            Self::Several => {
                rustix::thread::sched_getaffinity(None).map_or(1, |set| set.count() as usize).clamp(1, MAX_THREADS)
            }
        }
    }
}

/// How long a file may take.
#[derive(Clone, Copy, Debug)]
pub enum Patience {
    /// As long as it takes.
    Endless,
    /// Until then, or a little longer.
    Until(Instant),
}

impl Patience {
    /// From now on for so long.
    pub fn of(time: Duration) -> Self {
        Instant::now().checked_add(time).map_or(Self::Endless, Self::Until)
    }

    fn check(self) -> io::Result<()> {
        match self {
            Self::Until(end) if Instant::now() >= end => Err(io::ErrorKind::TimedOut.into()),
            Self::Until(_) | Self::Endless => Ok(()),
        }
    }
}

/// Computes the digest of a file with blocks of [`BLOCK`] bytes and no salt.
///
/// # Errors
/// The file cannot be read; `TimedOut` if it takes too long.
pub fn digest(file: &File, algorithm: Algorithm, threads: Threads, patience: Patience) -> io::Result<ImageDigest> {
    let threads = || threads.count();
    let digest = match algorithm {
        Algorithm::Sha256 => compute::<Sha256>(file, algorithm, threads, STRETCH, patience)?,
        Algorithm::Sha512 => compute::<Sha512>(file, algorithm, threads, STRETCH, patience)?,
    };
    ImageDigest::from_bytes(algorithm, &digest).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// `stretch` is how much of the file one thread hashes before it is joined: whole chunks.
fn compute<H: Hash>(
    file: &File,
    algorithm: Algorithm,
    threads: impl Fn() -> usize,
    stretch: u64,
    patience: Patience,
) -> io::Result<Vec<u8>> {
    let mut tree = Tree::<H>::new();
    let mut size = 0;
    // Most files end in their first stretch.
    let mut at_once = 1;
    loop {
        for hashed in hash_stretches::<H>(file, size, at_once, stretch, patience)? {
            for hash in hashed.hashes.chunks_exact(H::SIZE) {
                tree.add_hash(0, hash);
            }
            size += hashed.length;
            if hashed.length < stretch {
                return Ok(descriptor_digest::<H>(algorithm, size, &tree.root_hash()));
            }
        }
        at_once = threads();
    }
}

/// A part of a file, hashed block by block. Only the one at the end of the file is shorter than the others.
struct Stretch {
    hashes: Vec<u8>,
    length: u64,
}

/// Hashes some stretches that follow each other, each on a thread of its own.
fn hash_stretches<H: Hash>(
    file: &File,
    start: u64,
    count: usize,
    size: u64,
    patience: Patience,
) -> io::Result<Vec<Stretch>> {
    let hash = |index: usize| hash_stretch::<H>(file, start + index as u64 * size, size, patience);
    thread::scope(|scope| {
        let others: Vec<_> = (1..count)
            .map(|index| thread::Builder::new().stack_size(STACK).spawn_scoped(scope, move || hash(index)))
            .collect();
        let mut stretches = vec![hash(0)?];
        for (index, other) in (1..).zip(others) {
            // A thread that cannot be had is no reason to fail.
            stretches.push(match other.map(ScopedJoinHandle::join) {
                Ok(Ok(result)) => result?,
                _ => hash(index)?,
            });
        }
        Ok(stretches)
    })
}

fn hash_stretch<H: Hash>(file: &File, start: u64, size: u64, patience: Patience) -> io::Result<Stretch> {
    let mut buffer = vec![0; CHUNK];
    let mut stretch = Stretch { hashes: Vec::new(), length: 0 };
    while stretch.length < size {
        // Most files end in their first chunk.
        if start + stretch.length > 0 {
            patience.check()?;
        }
        let count = read_chunk(file, &mut buffer, start + stretch.length)?;
        let (data, _) = buffer.split_at_mut(count.next_multiple_of(BLOCK));
        data.get_mut(count..).unwrap_or_default().fill(0);
        H::hash_blocks(data, &mut stretch.hashes);
        stretch.length += count as u64;
        if count < CHUNK {
            break;
        }
    }
    Ok(stretch)
}

/// Fills the buffer from an offset on, except at the end of the file.
fn read_chunk(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn descriptor_digest<H: Hash>(algorithm: Algorithm, size: u64, root_hash: &[u8]) -> Vec<u8> {
    // Version, algorithm, log2 of the block size, size of the salt, size of a signature.
    let header = [1, algorithm.to_kernel(), 12, 0, 0, 0, 0, 0];
    let mut descriptor = [&header[..], &size.to_le_bytes(), root_hash].concat();
    descriptor.resize(DESCRIPTOR, 0);
    let mut digest = Vec::new();
    H::hash(&descriptor, &mut digest);
    digest
}

/// A Merkle tree while its data comes in.
struct Tree<H: Hash> {
    /// The block of each level that is not hashed yet; the level above the data first.
    levels: Vec<Vec<u8>>,
    hash: PhantomData<H>,
}

impl<H: Hash> Tree<H> {
    fn new() -> Self {
        Self { levels: Vec::new(), hash: PhantomData }
    }

    /// Adds a hash to a level; those of the data belong to the lowest.
    fn add_hash(&mut self, level: usize, hash: &[u8]) {
        // A full block is hashed when one more hash comes: it may be the only one of its level.
        if self.levels.get(level).is_some_and(|hashes| hashes.len() >= BLOCK) {
            self.close_block(level);
        }
        if self.levels.len() == level {
            self.levels.push(Vec::with_capacity(BLOCK));
        }
        if let Some(hashes) = self.levels.get_mut(level) {
            hashes.extend_from_slice(hash);
        }
    }

    /// Hashes the block of a level into the level above.
    fn close_block(&mut self, level: usize) {
        let Some(mut block) = self.levels.get_mut(level).map(mem::take) else { return };
        block.resize(BLOCK, 0);
        let mut hash = Vec::with_capacity(H::SIZE);
        H::hash(&block, &mut hash);
        self.add_hash(level + 1, &hash);
        block.clear();
        if let Some(emptied) = self.levels.get_mut(level) {
            *emptied = block;
        }
    }

    /// The hash of the one block that has no other beside it; zeros where there is no data.
    fn root_hash(mut self) -> Vec<u8> {
        for level in 0.. {
            match self.levels.get(level) {
                None => break,
                Some(hash) if level + 1 == self.levels.len() && hash.len() == H::SIZE => return hash.clone(),
                Some(_) => self.close_block(level),
            }
        }
        vec![0; H::SIZE]
    }
}

/// A hash function, for data whose length is a multiple of the function's own block: all that fs-verity hashes is.
/// sha2's functions for data of any length cost a tenth more.
trait Hash {
    /// Of a hash, in bytes.
    const SIZE: usize;
    /// Appends the hash of `data`.
    fn hash(data: &[u8], hashes: &mut Vec<u8>);
    /// Appends the hash of each block of `data`.
    fn hash_blocks(data: &[u8], hashes: &mut Vec<u8>) {
        for block in data.chunks_exact(BLOCK) {
            Self::hash(block, hashes);
        }
    }
}

/// SHA-256 of FIPS 180-4.
struct Sha256;

impl Hash for Sha256 {
    const SIZE: usize = 32;

    fn hash(data: &[u8], hashes: &mut Vec<u8>) {
        // Section 5.3.3.
        let mut state =
            [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];
        compress256(&mut state, data.as_chunks().0);
        compress256(&mut state, &[padding(data.len())]);
        state.iter().for_each(|word| hashes.extend_from_slice(&word.to_be_bytes()));
    }
}

/// SHA-512 of FIPS 180-4.
struct Sha512;

impl Sha512 {
    /// Section 5.3.5.
    const INITIAL: [u64; 8] = [
        0x6a09_e667_f3bc_c908,
        0xbb67_ae85_84ca_a73b,
        0x3c6e_f372_fe94_f82b,
        0xa54f_f53a_5f1d_36f1,
        0x510e_527f_ade6_82d1,
        0x9b05_688c_2b3e_6c1f,
        0x1f83_d9ab_fb41_bd6b,
        0x5be0_cd19_137e_2179,
    ];
}

impl Hash for Sha512 {
    const SIZE: usize = 64;

    fn hash(data: &[u8], hashes: &mut Vec<u8>) {
        let mut state = Self::INITIAL;
        compress512(&mut state, data.as_chunks().0);
        compress512(&mut state, &[padding(data.len())]);
        state.iter().for_each(|word| hashes.extend_from_slice(&word.to_be_bytes()));
    }

    #[cfg(all(feature = "cli", target_arch = "x86_64"))]
    fn hash_blocks(data: &[u8], hashes: &mut Vec<u8>) {
        use crate::sys::sha512_lanes::{self, LANES};
        for blocks in data.chunks(LANES * BLOCK) {
            let found = if blocks.len() == LANES * BLOCK { sha512_lanes::hash(blocks, &Self::INITIAL) } else { None };
            match found {
                Some(found) => {
                    found.iter().flatten().for_each(|word| hashes.extend_from_slice(&word.to_be_bytes()));
                }
                None => blocks.chunks_exact(BLOCK).for_each(|block| Self::hash(block, hashes)),
            }
        }
    }
}

/// The last block that is hashed, behind data that fills whole blocks: a bit that is set, and the length in bits.
fn padding<const N: usize>(length: usize) -> [u8; N] {
    let mut block = [0; N];
    if let Some(first) = block.first_mut() {
        *first = 0x80;
    }
    if let Some(last) = block.last_chunk_mut() {
        *last = (8 * length as u64).to_be_bytes();
    }
    block
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn file(size: usize) -> File {
        let file = File::from(rustix::fs::memfd_create("data", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
        let content: Vec<_> = (0..251).cycle().take(size).collect();
        file.write_all_at(&content, 0).unwrap();
        file
    }

    /// However many threads there are: at the borders of what one of them hashes, too.
    #[test]
    fn several_threads() {
        let stretch = CHUNK;
        for size in [0, 1, stretch - 1, stretch, stretch + 1, 2 * stretch, 3 * stretch + BLOCK + 5, 4 * stretch] {
            let file = file(size);
            let alone = compute::<Sha256>(&file, Algorithm::Sha256, || 1, STRETCH, Patience::Endless).unwrap();
            for threads in [2, 3] {
                let together =
                    compute::<Sha256>(&file, Algorithm::Sha256, || threads, stretch as u64, Patience::Endless).unwrap();
                assert_eq!(together, alone, "{size} bytes, {threads} threads");
            }
        }
    }

    /// Whatever a processor has for many blocks at once gives what sha2 gives for each.
    #[test]
    fn many_blocks_at_once() {
        for count in 0..20 {
            let data: Vec<u8> = (0..count * BLOCK).map(|index| (index * 7 + index / 251) as u8).collect();
            let (mut together, mut alone) = (Vec::new(), Vec::new());
            Sha512::hash_blocks(&data, &mut together);
            data.chunks(BLOCK).for_each(|block| Sha512::hash(block, &mut alone));
            assert_eq!(together, alone, "{count} blocks");
        }
    }

    /// As `fsverity digest` of fsverity-utils 1.5 prints them. Where the number of hashes fills a block, and the next one
    /// does not fit, the tree gets a level more.
    #[test]
    fn digests_of_another_program() {
        let (sha256, sha512) = (Algorithm::Sha256, Algorithm::Sha512);
        for (algorithm, size, expected) in [
            (sha256, 0, "3d248ca542a24fc62d1c43b916eae5016878e2533c88238480b26128a1f1af95"),
            (sha256, 1, "b803429503d95915829b29fdbc8bbad142f3abfd11b1cadf5526582e685c0551"),
            (sha256, 4095, "5f4953aad672b0188023d6cd6fbce9d09508eb7dad165b6298ce0086bc1e72db"),
            (sha256, 4096, "13e9b8848ae484a36acb3f3cac0ceb2f7601e96633d15c92f9bd3dd44e492157"),
            (sha256, 4097, "b0d074abef4d544404facfab6ba242f6a8ccbde90f1325cd286f3c8aa8d0f8aa"),
            (sha256, 524288, "d82861203d50ae9b60948504a704f35f5118bd229aeb1a22d6dae47b1767c4c4"),
            (sha256, 524289, "4dc6905041c9c4ee73e13b53f63f5d289c46da359b664a965ead7f8cc4d799d4"),
            (
                sha512,
                0,
                "ccf9e5aea1c2a64efa2f2354a6024b90dffde6bbc017825045dce374474e13d1\
                 0adb9dadcc6ca8e17a3c075fbd31336e8f266ae6fa93a6c3bed66f9e784e5abf",
            ),
            (
                sha512,
                1,
                "9fcf5172b085b1c8f9365eecb37a1869e193a4705654a5829f11939cd01d5c0f\
                 d97276be8cd9d49f76cfc8dcfeb80f8128e3548a1de50b56912b9e3fc7bde27b",
            ),
            (
                sha512,
                4095,
                "1f4a9ea21af349cae1d1aa1ce4e560ce6d1e5882d8e2e7696b5afd14191f876e\
                 608444553101ba7ff16386a79c7e8739b2905ed14baf8036ebd05e6f09063b2a",
            ),
            (
                sha512,
                4096,
                "7bf994782b368ecc4e20ce9144701b1a30524d5bbc90987625de22eebc8cf370\
                 ec846c1b5e77f9099c6f6cfc0b590359b9ac8083a43e5f7fa5ec05a25dab6e03",
            ),
            (
                sha512,
                4097,
                "97a1e45daaa69bd7b31908cf835318ba36476984ffa7f4a5913c0187db04ce5f\
                 19dc80306f493741d4ad1cdd212b7a9d2691aa3d42563d35471363fbb0fc7f1c",
            ),
            (
                sha512,
                262144,
                "f3d1adb48d9e641487f0674034e494b8e1ad589f9430b34f2a7e56acdf051807\
                 53d3f491f48c0958a8482edb1cda90fc82f0edd2bc6d22573bc743abd8e42a48",
            ),
            (
                sha512,
                262145,
                "db774f463acc1e672e4da91d045eb146f2647efec545951fb7005067ff9899da\
                 3ae94dc206531b40985587ce4e5eb173a235d51b488074067d9e34131814b9de",
            ),
            (
                sha512,
                16777217,
                "69b64bbea49e846e3c173e529e08a3aeafeefe3630625169d9b66f9e63ee0e12\
                 170208af2f31fef79a0eff60353a63e613ad505f27df3e49d11c1c9e0aa76d16",
            ),
        ] {
            assert_eq!(
                digest(&file(size), algorithm, Threads::Several, Patience::Endless).unwrap().to_hex(),
                expected,
                "{algorithm} of {size} bytes"
            );
        }
    }
}
