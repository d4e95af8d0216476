//! `sealroot digest`, `fsverity digest` and `openssl dgst` on this machine, with one processor and with two.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Instant;

use anyhow::Result;
use machines::builders;

use crate::pairs::PairRow;
use crate::process::run;
use crate::programs;
use crate::table::Table;

const BYTES: u64 = 1 << 30;

/// Who computes the same, and on how many processors both may.
#[derive(Clone, Copy)]
enum Other {
    Fsverity { processors: usize },
    // It hashes the bytes in one go and builds no tree: what the hash function alone takes there.
    Openssl,
}

impl Other {
    fn processors(self) -> usize {
        match self {
            Self::Fsverity { processors } => processors,
            Self::Openssl => 1,
        }
    }

    fn row(self) -> &'static str {
        match self {
            Self::Fsverity { processors: 1 } => "one processor, `fsverity digest`",
            Self::Fsverity { .. } => "two processors, `fsverity digest` (uses one)",
            Self::Openssl => "one processor, `openssl dgst`",
        }
    }

    fn command(self, algorithm: &str) -> Vec<String> {
        match self {
            Self::Fsverity { .. } => vec!["fsverity".into(), "digest".into(), format!("--hash-alg={algorithm}")],
            Self::Openssl => vec!["openssl".into(), "dgst".into(), format!("-{algorithm}")],
        }
    }
}

/// Measures so many pairs of each.
///
/// # Errors
/// A program cannot be built or fails.
pub fn bench(pairs: u32) -> Result<Vec<Table>> {
    let scratch = builders::scratch()?;
    let data = scratch.path().join("data");
    write_noise(&data)?;
    let command = programs::command()?;
    let mut others = vec![Other::Fsverity { processors: 1 }, Other::Openssl];
    if thread::available_parallelism().is_ok_and(|processors| processors.get() > 1) {
        others.push(Other::Fsverity { processors: 2 });
    }
    let mut measured = Vec::new();
    for algorithm in ["sha256", "sha512"] {
        measured.extend(others.iter().map(|other| (algorithm, *other, Vec::new(), Vec::new())));
    }
    let ours = |algorithm: &str| {
        [&command.display().to_string(), "digest", "--algorithm", algorithm].map(str::to_owned).to_vec()
    };
    for _ in 0..pairs {
        for (algorithm, other, our_times, other_times) in &mut measured {
            our_times.push(seconds(other.processors(), &ours(algorithm), &data)?);
            other_times.push(seconds(other.processors(), &other.command(algorithm), &data)?);
        }
    }
    let rows: Vec<PairRow> = measured
        .iter()
        .map(|(algorithm, other, ours, others)| {
            PairRow::new("digest", "host", &format!("{algorithm}, {}", other.row()), ours, others)
        })
        .collect::<Result<_>>()?;
    let columns = ["digest of 1 GiB, this machine itself", "ratio", "from–to", "sealroot", "the other"];
    Ok(vec![Table::of(&columns, &rows)?])
}

/// How long a command takes for a file on so many processors.
fn seconds(processors: usize, command: &[String], file: &Path) -> Result<f64> {
    let list = if processors == 1 { "0" } else { "0,1" };
    let started = Instant::now();
    run(Command::new("taskset").args(["-c", list]).args(command).arg(file))?;
    Ok(started.elapsed().as_secs_f64())
}

/// Bytes that nothing can compress, the same each time (SplitMix64), in the page cache afterwards.
fn write_noise(file: &Path) -> Result<()> {
    let mut to = BufWriter::with_capacity(1 << 20, File::create(file)?);
    for place in 1..=BYTES / 8 {
        let mut word = place.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        to.write_all(&(word ^ (word >> 31)).to_le_bytes())?;
    }
    Ok(to.flush()?)
}
