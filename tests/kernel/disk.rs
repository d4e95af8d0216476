//! The disks that the tests boot from, and what can be done to one below its filesystem.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

use nix::errno::Errno;
use nix::kmod;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::expect::loop_devices;
use crate::lab::{Lab, PROGRAM, mount_at};
use crate::loops::{self, Access};
use crate::raw;

/// Size of a block of the disk's filesystem, of fs-verity, and of everything else here.
pub const BLOCK: u64 = 4096;
pub const DISK_FILE: &str = "/run/lab/disk.img";
/// The second device of a disk that has two.
pub const OTHER_HALF: &str = "/run/lab/disk.img.2";
/// Where the disk is mounted.
pub const DISK: &str = "/run/lab/disk";

/// A disk of `qemu/fixture`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Disk {
    Ext4,
    Btrfs,
    /// Without the feature verity.
    PlainExt4,
    Xfs,
    F2fs,
    /// With one small image, at its top.
    Tiny,
    /// With blocks of 1 KiB, and no fs-verity enabled.
    SmallBlocks,
    /// With the feature casefold.
    Casefold,
    /// With images of a tree that has what is rare.
    Names,
    /// A btrfs that keeps everything twice, on two devices.
    Mirror,
    /// The second of them.
    MirrorHalf,
}

impl Disk {
    /// Its type, its file below the fixture's folder, and its letter among a test machine's disks.
    fn names(self) -> (&'static str, &'static str, char) {
        match self {
            Self::Ext4 => ("ext4", "disk", 'a'),
            Self::Btrfs => ("btrfs", "btrfs", 'b'),
            Self::PlainExt4 => ("ext4", "plain", 'c'),
            Self::Xfs => ("xfs", "xfs", 'd'),
            Self::F2fs => ("f2fs", "f2fs", 'e'),
            Self::Tiny => ("ext4", "tiny", 'f'),
            Self::SmallBlocks => ("ext4", "blocks", 'g'),
            Self::Casefold => ("ext4", "casefold", 'h'),
            Self::Names => ("ext4", "names", 'i'),
            Self::Mirror => ("btrfs", "mirror-a", 'j'),
            Self::MirrorHalf => ("btrfs", "mirror-b", 'k'),
        }
    }

    pub fn filesystem(self) -> &'static str {
        self.names().0
    }
}

/// The disks that `qemu/fixture` made, and what they hold.
pub struct Fixture {
    folder: Option<PathBuf>,
    pub values: BTreeMap<String, String>,
    pub program: Vec<u8>,
    contents: Mutex<BTreeMap<Disk, Content>>,
}

/// A test without a fixture fails: it shows nothing.
pub fn fixture() -> &'static Fixture {
    static FIXTURE: OnceLock<Fixture> = OnceLock::new();
    FIXTURE.get_or_init(|| {
        let folder = env::var_os("SEALROOT_FIXTURE").map(PathBuf::from);
        let values = folder.as_ref().map_or("/fixture.env".into(), |folder| folder.join("env"));
        let text = fs::read_to_string(&values).unwrap_or_else(|error| {
            panic!(
                "no {}: {error}: these tests run as root in a test machine, or with SEALROOT_FIXTURE=$(qemu/fixture)",
                values.display()
            )
        });
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        let program = if folder.is_some() { env!("CARGO_BIN_EXE_sealroot-initrd") } else { PROGRAM };
        Fixture {
            folder,
            values: pairs.map(|(name, value)| (name.into(), value.into())).collect(),
            program: fs::read(program).expect("the boot program"),
            contents: Mutex::default(),
        }
    })
}

impl Fixture {
    /// Puts a copy of a disk at [`DISK_FILE`], with holes where it is empty, and that of its other half beside it.
    pub fn copy(&self, disk: Disk) {
        self.copy_to(disk, DISK_FILE);
        if disk == Disk::Mirror {
            self.copy_to(Disk::MirrorHalf, OTHER_HALF);
        }
    }

    fn copy_to(&self, disk: Disk, file: &str) {
        let mut contents = self.contents.lock().unwrap();
        contents.entry(disk).or_insert_with(|| Content::read(&self.source(disk))).write_to(file);
    }

    fn source(&self, disk: Disk) -> PathBuf {
        let (_, name, letter) = disk.names();
        self.folder.as_ref().map_or_else(|| device(letter), |folder| folder.join(name))
    }
}

/// What a disk holds. The fixture's are read once: every test gets a copy, and a device that nobody has open is not
/// cached.
pub struct Content {
    size: u64,
    /// Where each run of blocks that are not all zeros begins, and the run.
    extents: Vec<(u64, Vec<u8>)>,
}

impl Content {
    pub fn read(path: &Path) -> Self {
        let mut source = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let size = source.seek(SeekFrom::End(0)).unwrap();
        let mut extents: Vec<(u64, Vec<u8>)> = Vec::new();
        let mut chunk = vec![0; 256 * BLOCK as usize];
        for start in (0..size).step_by(chunk.len()) {
            let chunk = &mut chunk[..(size - start).min(256 * BLOCK) as usize];
            source.read_exact_at(chunk, start).unwrap();
            for (offset, block) in (start..).step_by(BLOCK as usize).zip(chunk.chunks(BLOCK as usize)) {
                if *block == [0; BLOCK as usize] {
                    continue;
                }
                match extents.last_mut() {
                    Some((begin, extent)) if *begin + extent.len() as u64 == offset => extent.extend(block),
                    _ => extents.push((offset, block.to_vec())),
                }
            }
        }
        Self { size, extents }
    }

    /// Puts it at [`DISK_FILE`].
    pub fn write(&self) -> File {
        self.write_to(DISK_FILE)
    }

    fn write_to(&self, file: &str) -> File {
        let disk = File::create(file).unwrap();
        disk.set_len(self.size).unwrap();
        for (offset, extent) in &self.extents {
            disk.write_all_at(extent, *offset).unwrap();
        }
        disk
    }
}

/// A disk of the machine: a native one and an emulated one name them differently.
fn device(letter: char) -> PathBuf {
    let names = ["/dev/ubd", "/dev/vd"].map(|name| format!("{name}{letter}"));
    let found = names.iter().find(|name| Path::new(name).exists());
    found.unwrap_or_else(|| panic!("no disk: expected one of {names:?}")).into()
}

/// What the disk has at this moment.
pub fn content() -> Vec<u8> {
    fs::read(DISK_FILE).unwrap()
}

/// The modules that `qemu/guest-init` does not load by itself. Elsewhere the kernel finds its own.
pub fn load_more_modules() {
    let Ok(entries) = fs::read_dir("/modules.more") else { return };
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for file in files {
        match kmod::finit_module(File::open(&file).unwrap(), c"", kmod::ModuleInitFlags::empty()) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => panic!("{}: {error}", file.display()),
        }
    }
}

impl Lab {
    pub fn attach(&self) {
        self.try_attach().expect("mount the disk");
    }

    /// The same where the filesystem may be too damaged for that.
    pub fn try_attach(&self) -> nix::Result<()> {
        self.mount_disk(Access::Writable)
    }

    fn mount_disk(&self, access: Access) -> nix::Result<()> {
        let flags = if access == Access::ReadOnly { MsFlags::MS_RDONLY } else { MsFlags::empty() };
        if self.disk != Disk::Mirror {
            return self.mount_with(access, DISK, flags, "");
        }
        let (other, _until_mounted) = loops::until_unused(OTHER_HALF, access);
        self.mount_with(access, DISK, flags, &format!("device={}", other.display()))
    }

    /// Mounts the disk somewhere, or the first device of one that has two, with options of its filesystem.
    pub fn mount_with(&self, access: Access, at: &str, flags: MsFlags, options: &str) -> nix::Result<()> {
        let (device, _until_mounted) = loops::until_unused(DISK_FILE, access);
        let result = mount(Some(&device), at, Some(self.disk.filesystem()), flags, Some(options));
        *self.loop_devices.lock().unwrap() = loop_devices().count();
        result
    }

    /// Has the disk on a device with sectors as large as the filesystem's blocks.
    pub fn enlarge_sectors(&self) {
        self.detach();
        let (device, _until_mounted) = loops::with_sectors(DISK_FILE, BLOCK.try_into().unwrap());
        mount(Some(&device), DISK, Some(self.disk.filesystem()), MsFlags::empty(), None::<&str>)
            .expect("mount the disk");
        let size = Path::new("/sys/block").join(device.file_name().unwrap()).join("queue/logical_block_size");
        assert_eq!(fs::read_to_string(size).unwrap().trim(), BLOCK.to_string());
    }

    pub fn detach(&self) {
        umount2(DISK, MntFlags::empty()).expect("unmount the disk");
    }

    /// Puts another content on the disk.
    pub fn replace_disk(&self, content: &[u8]) {
        self.detach();
        fs::write(DISK_FILE, content).unwrap();
        self.attach();
    }

    /// Has the disk on a device that nobody can write to.
    pub fn protect(&self) {
        self.detach();
        self.mount_disk(Access::ReadOnly).expect("mount the disk");
    }

    /// Makes the physical root's filesystem read-only, as `ro` on the command line does.
    pub fn make_read_only(&self) {
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount_at("none", DISK, None, flags);
    }

    /// Changes one byte of one block of a file on the disk, below the filesystem.
    pub fn flip(&self, file: &Path, block: u64, byte: u64) {
        let physical = raw::physical_block(&File::open(file).unwrap(), block.try_into().unwrap());
        assert_ne!(physical, 0, "block {block} of {} is a hole", file.display());
        self.detach();
        let disk = File::options().read(true).write(true).open(DISK_FILE).unwrap();
        let offset = u64::from(physical) * BLOCK + byte;
        let mut content = [0];
        disk.read_exact_at(&mut content, offset).unwrap();
        disk.write_all_at(&[content[0] ^ 0xff], offset).unwrap();
        drop(disk);
        self.attach();
    }

    /// Changes one byte of a block of a file on the disk, below the filesystem, wherever that keeps it, and in all blocks
    /// like it.
    pub fn flip_by_content(&self, file: &Path, block: u64, byte: u64) {
        self.flip_by_content_on(&[DISK_FILE], file, block, byte);
    }

    /// The same on these devices of the disk.
    pub fn flip_by_content_on(&self, devices: &[&str], file: &Path, block: u64, byte: u64) {
        let mut content = [0; BLOCK as usize];
        File::open(file).unwrap().read_exact_at(&mut content, block * BLOCK).unwrap();
        self.detach();
        for device in devices {
            flip_all(device, &content, byte);
        }
        self.attach();
    }

    /// The number of blocks of a file's content.
    pub fn blocks(&self, file: &Path) -> u64 {
        fs::metadata(file).unwrap().len().div_ceil(BLOCK)
    }

    /// The first block of a file's Merkle tree, and the block of its fs-verity descriptor (ext4 keeps the tree at the
    /// next multiple of 64 KiB past the content, the descriptor behind it).
    pub fn verity_blocks(&self, file: &Path) -> (u64, u64) {
        let hashes = if self.algorithm == "sha512" { BLOCK / 64 } else { BLOCK / 32 };
        let tree = fs::metadata(file).unwrap().len().next_multiple_of(65536) / BLOCK;
        let (mut level, mut size) = (self.blocks(file), 0);
        while level > 1 {
            level = level.div_ceil(hashes);
            size += level;
        }
        (tree, tree + size)
    }
}

/// Changes one byte of all blocks of a device that have this content, of which there is one at least.
fn flip_all(device: &str, content: &[u8; BLOCK as usize], byte: u64) {
    let disk = File::options().read(true).write(true).open(device).unwrap();
    let mut found = 0;
    for offset in (0..disk.metadata().unwrap().len()).step_by(BLOCK as usize) {
        let mut candidate = [0; BLOCK as usize];
        disk.read_exact_at(&mut candidate, offset).unwrap();
        if candidate == *content {
            disk.write_all_at(&[content[byte as usize] ^ 0xff], offset + byte).unwrap();
            found += 1;
        }
    }
    assert_ne!(found, 0, "no such block on {device}");
}
