//! Numbers that look random, from a seed that is printed: what failed once can be done again.

use std::env;
use std::fs;

const SEED: u64 = 0x5ea1_7007;

/// `SEALROOT_SEED`, in decimal or with `0x` in hexadecimal. Without it always the same one.
pub fn seed() -> u64 {
    let Ok(text) = env::var("SEALROOT_SEED") else { return SEED };
    let number = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    number.unwrap_or_else(|error| panic!("SEALROOT_SEED: '{text}': {error}"))
}

/// How many of something there are to be: the variable's value, or a sample.
pub fn count(variable: &str, sample: usize) -> usize {
    let Ok(text) = env::var(variable) else { return sample };
    text.parse().unwrap_or_else(|error| panic!("{variable}: '{text}': {error}"))
}

/// Says in the kernel log what comes next: what a test prints is lost if it makes the kernel panic. A record has room
/// for less than 1 KiB.
pub fn announce(text: &str) {
    fs::write("/dev/kmsg", format!("<5>test: {text:.900}")).unwrap();
}

/// A generator (SplitMix64).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Other numbers for each name, always the same ones for the same seed.
    pub fn named(seed: u64, name: &str) -> Self {
        Self(name.bytes().fold(seed, |seed, byte| Self(seed ^ u64::from(byte)).next()))
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }

    pub fn choose<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}
