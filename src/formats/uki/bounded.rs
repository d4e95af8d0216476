//! How much an initramfs may be when it is unpacked: a few bytes must not become hours of work.

use std::io::{self, BufRead, Read};

/// No initramfs is larger when it is unpacked, in bytes.
const MAX_UNPACKED: u64 = 2 << 30;
/// What a small one may be when it is unpacked, in bytes, and how much more for each byte of its input. Real ones are four
/// times as long as their input.
const SMALL: u64 = 64 << 20;
const MAX_RATIO: u64 = 32;
/// So many archives one after the other that are compressed on their own, or not at all.
const MAX_STREAMS: usize = 1024;
/// Zeros in front of an archive or an entry; honest ones fill up a block or a page.
pub(super) const MAX_ZEROS: u64 = 4 << 20;

/// What may still be unpacked of one input, whatever the number of initramfs in it.
#[derive(Debug)]
pub struct Budget {
    /// What there was at the start, in bytes, and what is left of it.
    total: u64,
    left: u64,
    streams: usize,
}

impl Budget {
    /// For an input of so many bytes.
    pub fn for_input(length: usize) -> Self {
        let total = (length as u64).saturating_mul(MAX_RATIO).saturating_add(SMALL).min(MAX_UNPACKED);
        Self { total, left: total, streams: MAX_STREAMS }
    }

    #[cfg(test)]
    pub(super) fn of(total: u64) -> Self {
        Self { total, left: total, streams: MAX_STREAMS }
    }

    /// Takes one archive that is compressed on its own, or not at all.
    pub(super) fn take_stream(&mut self) -> io::Result<()> {
        let left = self.streams.checked_sub(1);
        self.streams = left.ok_or_else(|| io::Error::other(format!("expected at most {MAX_STREAMS} archives")))?;
        Ok(())
    }
}

/// A stream that takes what it gives from a budget, and knows how much was read of it.
pub(super) struct Bounded<'a> {
    source: &'a mut dyn BufRead,
    budget: &'a mut Budget,
    offset: u64,
}

impl<'a> Bounded<'a> {
    pub(super) fn new(source: &'a mut dyn BufRead, budget: &'a mut Budget) -> Self {
        Self { source, budget, offset: 0 }
    }

    /// How much was read, in bytes.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Skips what is zero; says whether something follows.
    pub(super) fn skip_zeros(&mut self) -> io::Result<bool> {
        let start = self.offset;
        loop {
            let buffer = self.fill_buf()?;
            let (length, zeros) = (buffer.len(), zeros(buffer));
            self.consume(zeros);
            if self.offset - start > MAX_ZEROS {
                return Err(too_many_zeros());
            }
            if zeros < length || length == 0 {
                return Ok(length > 0);
            }
        }
    }
}

impl BufRead for Bounded<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let Budget { total, left, .. } = *self.budget;
        let buffer = self.source.fill_buf()?;
        if left == 0 && !buffer.is_empty() {
            return Err(io::Error::other(format!("expected at most {total} bytes in all for an input of its length")));
        }
        let length = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        Ok(buffer.get(..length).unwrap_or_default())
    }

    fn consume(&mut self, count: usize) {
        self.source.consume(count);
        self.offset += count as u64;
        self.budget.left = self.budget.left.saturating_sub(count as u64);
    }
}

impl Read for Bounded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

/// How many zeros there are at the start.
pub(super) fn zeros(bytes: &[u8]) -> usize {
    // Blocks of them are compared at once.
    const BLOCK: [u8; 64] = [0; 64];
    let blocks = bytes.as_chunks().0.iter().take_while(|block| **block == BLOCK).count() * BLOCK.len();
    blocks + bytes.get(blocks..).unwrap_or_default().iter().take_while(|byte| **byte == 0).count()
}

/// The error for more of them than anybody means.
pub(super) fn too_many_zeros() -> io::Error {
    io::Error::other(format!("expected at most {MAX_ZEROS} zeros in front of an archive, found more"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_at_the_start() {
        for count in [0, 1, 63, 64, 65, 127, 128, 1000] {
            assert_eq!(zeros(&vec![0; count]), count);
            assert_eq!(zeros(&[vec![0; count], vec![1], vec![0; 200]].concat()), count);
        }
    }

    #[test]
    fn a_budget_grows_with_its_input() {
        let total = |length| Budget::for_input(length).total;
        assert_eq!([total(0), total(1), total(usize::MAX)], [SMALL, SMALL + MAX_RATIO, MAX_UNPACKED]);
    }
}
