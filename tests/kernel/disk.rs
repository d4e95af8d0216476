//! The disks that the tests boot from, and what can be done to one below its filesystem.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::kmod;
use nix::mount::{MntFlags, MsFlags, umount2};

use crate::expect::loop_devices;
use crate::lab::{Lab, PROGRAM, mount_at};
use crate::raw;

/// Size of a block of the disk's filesystem, of fs-verity, and of everything else here.
pub const BLOCK: u64 = 4096;
pub const DISK_FILE: &str = "/run/lab/disk.img";
/// Where the disk is mounted.
pub const DISK: &str = "/run/lab/disk";

/// A disk of `qemu/fixture`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disk {
    Ext4,
    Btrfs,
    /// Without the feature verity.
    PlainExt4,
    Xfs,
    F2fs,
    /// With one small image, at its top.
    Tiny,
}

impl Disk {
    /// Its type, its file below the fixture's folder, and what it is in `qemu/runner`'s machine.
    fn names(self) -> [&'static str; 3] {
        match self {
            Self::Ext4 => ["ext4", "disk", "/dev/vda"],
            Self::Btrfs => ["btrfs", "btrfs", "/dev/vdb"],
            Self::PlainExt4 => ["ext4", "plain", "/dev/vdc"],
            Self::Xfs => ["xfs", "xfs", "/dev/vdd"],
            Self::F2fs => ["f2fs", "f2fs", "/dev/vde"],
            Self::Tiny => ["ext4", "tiny", "/dev/vdf"],
        }
    }
}

/// The disks that `qemu/fixture` made, and what they hold.
pub struct Fixture {
    folder: Option<PathBuf>,
    pub values: BTreeMap<String, String>,
    pub program: Vec<u8>,
}

pub fn fixture() -> Option<&'static Fixture> {
    static FIXTURE: OnceLock<Option<Fixture>> = OnceLock::new();
    FIXTURE
        .get_or_init(|| {
            let folder = env::var_os("SEALROOT_FIXTURE").map(PathBuf::from);
            let values = folder.as_ref().map_or("/fixture.env".into(), |folder| folder.join("env"));
            let text = fs::read_to_string(values).ok()?;
            let pairs = text.lines().filter_map(|line| line.split_once('='));
            let program = if folder.is_some() { env!("CARGO_BIN_EXE_sealroot-initrd") } else { PROGRAM };
            Some(Fixture {
                folder,
                values: pairs.map(|(name, value)| (name.into(), value.into())).collect(),
                program: fs::read(program).expect("the boot program"),
            })
        })
        .as_ref()
}

impl Fixture {
    /// Puts a copy of a disk at [`DISK_FILE`], with holes where it is empty.
    pub fn copy(&self, disk: Disk) {
        let [_, name, device] = disk.names();
        let source = self.folder.as_ref().map_or(device.into(), |folder| folder.join(name));
        let mut source = File::open(source).expect("the fixture's disk");
        let size = source.seek(SeekFrom::End(0)).unwrap();
        let copy = File::create(DISK_FILE).unwrap();
        copy.set_len(size).unwrap();
        let mut chunk = vec![0; 64 * BLOCK as usize];
        let zeros = chunk.clone();
        for offset in (0..size).step_by(chunk.len()) {
            let chunk = &mut chunk[..(size - offset).min(64 * BLOCK) as usize];
            source.read_exact_at(chunk, offset).unwrap();
            if *chunk != zeros[..chunk.len()] {
                copy.write_all_at(chunk, offset).unwrap();
            }
        }
    }
}

/// What the disk has at this moment.
pub fn content() -> Vec<u8> {
    fs::read(DISK_FILE).unwrap()
}

/// The modules that `qemu/vm` does not load by itself. Elsewhere the kernel finds its own.
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
        let [filesystem, ..] = self.disk.names();
        let status = Command::new("mount").args(["-t", filesystem, "-o", "loop", DISK_FILE, DISK]).status().unwrap();
        assert!(status.success(), "mount the disk");
        *self.loop_devices.lock().unwrap() = loop_devices();
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
        let [filesystem, ..] = self.disk.names();
        let status = Command::new("mount").args(["-t", filesystem, "-o", "loop,ro", DISK_FILE, DISK]).status().unwrap();
        assert!(status.success(), "mount the disk");
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
        let mut content = [0; BLOCK as usize];
        File::open(file).unwrap().read_exact_at(&mut content, block * BLOCK).unwrap();
        self.detach();
        let disk = File::options().read(true).write(true).open(DISK_FILE).unwrap();
        let mut found = Vec::new();
        for offset in (0..disk.metadata().unwrap().len()).step_by(BLOCK as usize) {
            let mut candidate = [0; BLOCK as usize];
            disk.read_exact_at(&mut candidate, offset).unwrap();
            if candidate == content {
                found.push(offset);
            }
        }
        assert!(!found.is_empty(), "no block {block} of {}", file.display());
        for offset in found {
            disk.write_all_at(&[content[byte as usize] ^ 0xff], offset + byte).unwrap();
        }
        drop(disk);
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
