//! Random corruptions of single bytes on the block device, below the filesystem, of what a boot reads: a thousand over
//! the three kernels that all tests run on.
//!
//! Each ends in one of four ways: the filesystem cannot be mounted, the boot is refused, a read in the sealed root
//! fails, or all is as it was. There is no fifth: no wrong content, no crash, no hang, nothing left mounted.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use crate::disk::{self, BLOCK, DISK, DISK_FILE, Disk};
use crate::expect::{Snapshot, loop_devices, mounts, snapshot};
use crate::lab::{self, Lab, SYSROOT};

/// For each kernel and each of the four levels of `policy.check`.
const COUNT: usize = 84;
const SEED: u64 = 0x5ea1_7007;
/// A boot and the reading of everything take a tenth of a second in an emulated machine.
const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn check_digest() {
    corrupt("digest");
}

#[test]
fn check_image() {
    corrupt("image");
}

#[test]
fn check_objects() {
    corrupt("objects");
}

#[test]
fn check_data() {
    corrupt("data");
}

/// A generator of numbers that look random (SplitMix64).
struct Random(u64);

impl Random {
    /// Other numbers for each kernel and each `check`, always the same ones for both.
    fn own(check: &str) -> Self {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        Self((kernel + check).bytes().fold(SEED, |seed, byte| Self(seed ^ u64::from(byte)).next()))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn choose<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[(self.next() % from.len() as u64) as usize]
    }
}

/// Part of the disk: where it begins, and its length.
type Part = (u64, u64);

/// What a boot reads, by kind.
#[derive(Default)]
struct Places(BTreeMap<&'static str, Vec<Part>>);

#[derive(Clone, Copy)]
struct Corruption {
    place: &'static str,
    offset: u64,
    xor: u8,
}

impl Corruption {
    /// Every second one is of a byte that is not zero: most of the filesystem's own blocks is unused.
    fn random(random: &mut Random, place: &'static str, places: &Places, disk: &[u8]) -> Self {
        let (start, length) = *random.choose(&places.0[place]);
        let used: Vec<_> = (start..start + length).filter(|offset| disk[*offset as usize] != 0).collect();
        let any: Vec<_> = (start..start + length).collect();
        let only_used = random.next() & 1 == 1 && !used.is_empty();
        let offset = *random.choose(if only_used { &used } else { &any });
        Self { place, offset, xor: (random.next() % 255 + 1) as u8 }
    }
}

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, offset, xor } = self;
        write!(f, "{place}: offset {offset:#x} ^ {xor:#04x}")
    }
}

/// What came of one corruption.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// ext4 itself refuses, so that nothing is booted.
    NotMounted,
    /// Refused by this step.
    Refused(String),
    /// Sealed, and at least one read fails, the first one so: about damage of its own, ext4 has many errors to give.
    ReadError(i32),
    /// Sealed, and everything is as it was.
    Unaffected,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotMounted => f.write_str("the physical root cannot be mounted"),
            Self::Refused(stage) => write!(f, "refused ({stage})"),
            Self::ReadError(code) => write!(f, "sealed, a read fails ({:?})", Errno::from_raw(*code)),
            Self::Unaffected => f.write_str("sealed and unaffected"),
        }
    }
}

/// A read-only loop device on the disk, so that the kernel cannot note on it what it finds damaged.
struct Device(PathBuf);

impl Device {
    fn new() -> Self {
        let output = Command::new("losetup").arg("-f").output().unwrap();
        let path = PathBuf::from(String::from_utf8(output.stdout).unwrap().trim());
        let status = Command::new("losetup").arg("-r").args([&path, Path::new(DISK_FILE)]).status().unwrap();
        assert!(status.success(), "losetup {}", path.display());
        Self(path)
    }

    fn mount(&self) -> nix::Result<()> {
        mount(Some(&self.0), SYSROOT, Some("ext4"), MsFlags::MS_RDONLY, None::<&str>)
    }

    /// Expects that no filesystem on it is mounted anywhere, in whatever namespace or not at all attached.
    fn expect_unused(&self) {
        let started = Instant::now();
        loop {
            match File::options().read(true).custom_flags(libc::O_EXCL).open(&self.0) {
                Ok(_) => return,
                // What is no longer mounted may go a little after its last use.
                Err(_) if started.elapsed() < Duration::from_secs(5) => thread::sleep(Duration::from_millis(5)),
                Err(error) => panic!("left mounted: {}: {error}", self.0.display()),
            }
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.0).status();
    }
}

fn corrupt(check: &'static str) {
    lab::with_disk(Disk::Tiny, "sha512", move |lab| {
        lab.command_line(&lab.karg("TINY"));
        lab.config(&format!("[policy]\ncheck = \"{check}\"\n[etc]\nmount = \"none\"\n[var]\nmount = \"none\"\n"));
        let (places, content) = places(lab);
        let device = Device::new();
        *lab.loop_devices.lock().unwrap() = loop_devices();
        let file = File::options().write(true).open(DISK_FILE).unwrap();

        let mounts_before = mounts().len();
        let mut reference = Snapshot::new();
        assert!(boot(lab, &device, &mut reference) == Outcome::Unaffected);
        assert!(reference.len() > 40 && reference.values().all(Result::is_ok), "{reference:?}");

        let watchdog = Watchdog::start();
        let mut outcomes = BTreeMap::new();
        let mut random = Random::own(check);
        for place in places.0.keys().cycle().take(COUNT) {
            let corruption = Corruption::random(&mut random, place, &places, &content);
            let Corruption { offset, xor, .. } = corruption;
            watchdog.0.send(corruption.to_string()).unwrap();
            let started = Instant::now();
            file.write_all_at(&[content[offset as usize] ^ xor], offset).unwrap();
            let outcome = panic::catch_unwind(AssertUnwindSafe(|| {
                let outcome = boot(lab, &device, &mut reference);
                assert_eq!(mounts().len(), mounts_before, "{:?}", mounts());
                outcome
            }));
            file.write_all_at(&[content[offset as usize]], offset).unwrap();
            let Ok(outcome) = outcome else { panic!("{corruption}: see above") };
            assert!(started.elapsed() < LIMIT, "{corruption}: {:?}", started.elapsed());
            *outcomes.entry(outcome).or_insert(0) += 1;
        }
        println!("{COUNT} corruptions with check = \"{check}\":");
        for (outcome, count) in &outcomes {
            println!("{count:5} {outcome}");
        }
        let count = |wanted: fn(&Outcome) -> bool| -> usize {
            outcomes.iter().filter(|(outcome, _)| wanted(outcome)).map(|(_, count)| count).sum()
        };
        let refused = count(|outcome| matches!(outcome, Outcome::Refused(_)));
        let read_errors = count(|outcome| matches!(outcome, Outcome::ReadError(_)));
        let unaffected = count(|outcome| *outcome == Outcome::Unaffected);
        let not_mounted = count(|outcome| *outcome == Outcome::NotMounted);
        assert_eq!(refused + read_errors + unaffected + not_mounted, COUNT);
        assert!(refused > 0 && unaffected > 0);
        // Where the data of all objects is checked, nothing that is damaged is left to be read.
        assert_eq!(read_errors > 0, check != "data");
    });
}

/// Ends the tests when a corruption has not come to its end in time: something hangs.
struct Watchdog(Sender<String>);

impl Watchdog {
    fn start() -> Self {
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let mut current = String::new();
            loop {
                match receiver.recv_timeout(3 * LIMIT) {
                    Ok(next) => current = next,
                    Err(RecvTimeoutError::Disconnected) => return,
                    Err(RecvTimeoutError::Timeout) => {
                        // Not captured, as what a failing test prints is.
                        let _ = writeln!(std::io::stderr(), "hangs: {current}");
                        process::exit(101);
                    }
                }
            }
        });
        Self(sender)
    }
}

/// Boots what is on the disk, reads everything and takes it away again. The first time, what is read is the reference.
fn boot(lab: &Lab, device: &Device, reference: &mut Snapshot) -> Outcome {
    if device.mount().is_err() {
        device.expect_unused();
        return Outcome::NotMounted;
    }
    let run = lab.run(&[]);
    let outcome = if run.status == Some(0) {
        lab.expect_sealed(&run, lab.value("TINY"));
        let found = snapshot();
        if reference.is_empty() {
            reference.clone_from(&found);
        }
        expect_no_wrong_content(&found, reference).map_or(Outcome::Unaffected, Outcome::ReadError)
    } else {
        assert_eq!(run.status, Some(1), "{run:?}");
        let reason = lab.report()["reason"].as_str().unwrap().to_owned();
        lab.expect_refused(&run, &reason);
        let stage = reason.split(':').next().unwrap();
        let stages = ["find", "measure", "look-inside", "objects", "mount", "assemble", "prove"];
        assert!(stages.contains(&stage), "{reason}");
        Outcome::Refused(stage.into())
    };
    lab.forget();
    device.expect_unused();
    outcome
}

/// Everything that is there is as in the reference, or an error; what is not there is below an error. Returns the
/// first error.
fn expect_no_wrong_content(found: &Snapshot, reference: &Snapshot) -> Option<i32> {
    for (path, description) in found {
        if description.is_ok() {
            assert_eq!(reference.get(path), Some(description), "{}", path.display());
        }
    }
    let is_error = |path: &Path| found.get(path).is_some_and(Result::is_err);
    for path in reference.keys().filter(|path| !found.contains_key(*path)) {
        let explained = path.ancestors().any(|folder| is_error(folder) || is_error(&folder.join("…")));
        assert!(explained, "{} is missing", path.display());
    }
    found.values().find_map(|description| description.as_ref().err().copied())
}

/// What is to be corrupted, and the disk as it is. Unmounts it.
fn places(lab: &Lab) -> (Places, Vec<u8>) {
    let repository = Path::new(DISK).join("composefs");
    let name = repository.join("images").join(lab.value("TINY"));
    let image = fs::canonicalize(&name).unwrap();
    let verity = |file: &Path| (lab.blocks(file), lab.verity_blocks(file), inode(file));
    let image_verity = verity(&image);
    let folders = [DISK.into(), repository.clone(), repository.join("images"), image.parent().unwrap().into(), name];
    let mut way: BTreeSet<_> = folders.iter().map(|path: &PathBuf| inode(path)).collect();
    way.extend([inode(&repository.join("objects")), inode(&image)]);
    let (mut way_to_objects, mut objects) = (BTreeSet::new(), Vec::new());
    for folder in fs::read_dir(repository.join("objects")).unwrap() {
        let folder = folder.unwrap().path();
        way_to_objects.insert(inode(&folder));
        for object in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            way_to_objects.insert(inode(&object));
            objects.extend((object != image).then(|| verity(&object)));
        }
    }
    lab.detach();

    let content = disk::content();
    let disk = Ext4(&content);
    let mut places = Places::default();
    let mut add = |place, parts: Vec<Part>| places.0.entry(place).or_default().extend(parts);
    let block = |block: u64| (block * BLOCK, BLOCK);
    for (is_image, (blocks, (tree, descriptor), inode)) in
        [(true, image_verity)].into_iter().chain(objects.into_iter().map(|object| (false, object)))
    {
        for (logical, physical) in disk.blocks(inode) {
            let place = match logical {
                _ if logical < blocks => ["object", "image"],
                _ if logical < tree => continue,
                _ if logical < descriptor => ["Merkle tree of an object", "Merkle tree of the image"],
                _ => ["descriptor of an object", "descriptor of the image"],
            };
            add(place[usize::from(is_image)], vec![block(physical)]);
            if is_image && logical >= descriptor {
                add("blocks behind the image", (physical + 1..physical + 5).map(block).collect());
            }
        }
    }
    for (inodes, [inode_place, block_place]) in [
        (way, ["inodes on the way to the image", "directories on the way to the image"]),
        (way_to_objects, ["inodes of objects", "directories of objects"]),
    ] {
        for inode in inodes {
            add(inode_place, vec![disk.inode(inode)]);
            // The blocks of directories and of a link; those of files are above.
            if !disk.is_file(inode) {
                add(block_place, disk.blocks(inode).into_iter().map(|(_, physical)| block(physical)).collect());
            }
        }
    }
    add("superblock and group descriptors", vec![(1024, 1024), block(1)]);
    for (place, parts) in &places.0 {
        assert!(!parts.is_empty(), "{place}");
    }
    (places, content)
}

fn inode(path: &Path) -> u64 {
    fs::symlink_metadata(path).unwrap().ino()
}

/// As much of an ext4 as it takes to find the blocks of a file in a filesystem of one group.
struct Ext4<'a>(&'a [u8]);

impl Ext4<'_> {
    fn number(&self, offset: u64, size: u64) -> u64 {
        let bytes = &self.0[offset as usize..(offset + size) as usize];
        bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    fn inode(&self, number: u64) -> Part {
        let size = self.number(1024 + 88, 2);
        let table = self.number(BLOCK + 8, 4);
        assert!(number <= self.number(1024 + 40, 4), "more than one group");
        (table * BLOCK + (number - 1) * size, size)
    }

    fn is_file(&self, inode: u64) -> bool {
        self.number(self.inode(inode).0, 2) >> 12 == 8
    }

    /// The blocks of a file, counted as in the file and as on the disk. A link that fits into its inode has none.
    fn blocks(&self, inode: u64) -> Vec<(u64, u64)> {
        let header = self.inode(inode).0 + 40;
        if self.number(header, 2) != 0xf30a {
            return Vec::new();
        }
        assert_eq!(self.number(header + 6, 2), 0, "extents in blocks of their own");
        let extents = (1..=self.number(header + 2, 2)).map(|index| header + 12 * index);
        let blocks = extents.flat_map(|extent| {
            let [logical, length, physical] = [(0, 4), (4, 2), (8, 4)].map(|(at, size)| self.number(extent + at, size));
            (0..length).map(move |index| (logical + index, physical + index))
        });
        blocks.collect()
    }
}
