//! What a filesystem writes to its disk, write by write, and the disks that a power cut on the way can leave.
//!
//! The kernel's dm-log-writes notes each write when the device has done it, and each flush. What was done before a flush
//! is on the disk after it; of what came later, a device with a cache may have written any part.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::device_mapper::Mapped;
use crate::loops::{Access, LoopDevice};
use crate::random::Random;

/// Size of a sector: what a device writes as a whole or not at all.
const SECTOR: usize = 512;
const LOG_FILE: &str = "/run/lab/log.img";
/// Room for the log, in bytes. It is sparse.
const LOG_SIZE: u64 = 512 << 20;
/// `WRITE_LOG_MAGIC` of `drivers/md/dm-log-writes.c`
const MAGIC: u64 = 0x006a_7366_7773_6872;
/// `LOG_FLUSH_FLAG`, `LOG_FUA_FLAG`, `LOG_DISCARD_FLAG` and `LOG_MARK_FLAG`
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;
const MARK: u64 = 8;

/// One write of the device.
struct Write {
    sector: u64,
    flags: u64,
    data: Vec<u8>,
}

/// All writes, in the order in which they were done.
pub struct Recording(Vec<Write>);

impl Recording {
    /// Notes what `write` has the disk in a file write; it gets the device that stands for the disk.
    pub fn of(disk: &str, write: impl FnOnce(&Path)) -> Self {
        File::create(LOG_FILE).unwrap().set_len(LOG_SIZE).unwrap();
        {
            let (below, log) = (LoopDevice::new(disk, Access::Writable), LoopDevice::new(LOG_FILE, Access::Writable));
            let parameters = format!("{} {}", below.path().display(), log.path().display());
            let sectors = fs::metadata(disk).unwrap().len() / SECTOR as u64;
            let device = Mapped::new("recorded", sectors, "log-writes", &parameters);
            write(&device.path);
        }
        let recording = Self(read_log(&File::open(LOG_FILE).unwrap()));
        fs::remove_file(LOG_FILE).unwrap();
        recording
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Cuts the power somewhere.
    pub fn cut(&self, random: &mut Random) -> Cut {
        let after = random.below(self.0.len() as u64 + 1) as usize;
        let flushed = self.0[..after].iter().rposition(|write| write.flags & FLUSH != 0).unwrap_or(0);
        let manner = *random.choose(&[Manner::AllWritten, Manner::CacheLost, Manner::SomeWritten, Manner::SomeTorn]);
        let mut written = BTreeMap::new();
        // The write that the device was at has no end, and what is said to be on the disk when it ends is there.
        for index in flushed..(after + 1).min(self.0.len()) {
            let write = &self.0[index];
            let is_safe = index < after && write.flags & FUA != 0;
            let sectors = (write.data.len() / SECTOR) as u64;
            let fate = match manner {
                Manner::AllWritten => Fate::from(index < after),
                _ if is_safe => Fate::Written,
                Manner::CacheLost => Fate::Lost,
                Manner::SomeTorn if sectors > 0 && random.coin() => Fate::Torn(random.next()),
                Manner::SomeWritten | Manner::SomeTorn => Fate::from(random.coin()),
            };
            written.insert(index, fate);
        }
        Cut { after, manner, written }
    }

    /// Writes to a disk that is as before what was written until the cut.
    pub fn apply(&self, cut: &Cut, disk: &File) {
        for (index, write) in self.0.iter().enumerate().take(cut.after + 1) {
            let fate = cut.written.get(&index).copied().unwrap_or(Fate::Written);
            let offset = write.sector * SECTOR as u64;
            match fate {
                Fate::Written => disk.write_all_at(&write.data, offset).unwrap(),
                Fate::Lost => {}
                Fate::Torn(seed) => {
                    let mut random = Random::new(seed);
                    for (offset, sector) in (offset..).step_by(SECTOR).zip(write.data.chunks(SECTOR)) {
                        if random.coin() {
                            disk.write_all_at(sector, offset).unwrap();
                        }
                    }
                }
            }
        }
    }
}

/// What becomes of the writes since the last flush.
#[derive(Clone, Copy, Debug)]
enum Manner {
    AllWritten,
    CacheLost,
    SomeWritten,
    /// As above, and of some only some sectors.
    SomeTorn,
}

/// What becomes of one write.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Written,
    Lost,
    /// Of some sectors, chosen from this seed.
    Torn(u64),
}

impl From<bool> for Fate {
    fn from(is_written: bool) -> Self {
        if is_written { Self::Written } else { Self::Lost }
    }
}

/// Where the power is cut, and what the disk has of the last writes.
pub struct Cut {
    after: usize,
    manner: Manner,
    written: BTreeMap<usize, Fate>,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "after write {}, {:?}", self.after, self.manner)?;
        if let Manner::SomeWritten | Manner::SomeTorn = self.manner {
            write!(f, " {:x?}", self.written)?;
        }
        Ok(())
    }
}

/// Reads the log: a sector about it, then for each write a sector about that and its data. All numbers have 64 bits and
/// are little-endian.
fn read_log(log: &File) -> Vec<Write> {
    let read = |offset: u64, length: u64| {
        let mut bytes = vec![0; length as usize];
        log.read_exact_at(&mut bytes, offset).unwrap();
        bytes
    };
    let numbers = |offset: u64| -> [u64; 4] {
        let bytes = read(offset, 32);
        [0, 8, 16, 24].map(|at| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()))
    };
    let [magic, version, count, sector_size] = numbers(0);
    // The size of a sector has 32 bits.
    assert_eq!((magic, version, sector_size & 0xffff_ffff), (MAGIC, 1, SECTOR as u64));
    let sector = SECTOR as u64;
    let mut offset = sector;
    let mut writes = Vec::new();
    for _ in 0..count {
        let [start, sectors, flags, data_length] = numbers(offset);
        offset += sector;
        // The end of the log is a mark, whose text is behind the numbers.
        if flags & MARK != 0 {
            continue;
        }
        assert_eq!((flags & DISCARD, data_length), (0, 0), "only writes are expected");
        let data = read(offset, sectors * sector);
        offset += sectors * sector;
        writes.push(Write { sector: start, flags, data });
    }
    writes
}
