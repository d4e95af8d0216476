//! Physical roots on btrfs as installers lay it out: subvolumes, compressed, on two devices.
#![allow(unsafe_code, reason = "ioctls of directories and files that the test itself made")]

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, umount2};
use rustix::ioctl::{self, Opcode, Setter, Updater, opcode};

use crate::command::ask;
use crate::disk::{DISK, DISK_FILE, Disk, OTHER_HALF};
use crate::filesystems::{boots, refuses_damage};
use crate::kernel::{Kernel, Release, Running};
use crate::lab::{self, Lab};
use crate::loops::Access;

/// `struct btrfs_ioctl_vol_args` of `linux/btrfs.h`
#[repr(C)]
struct VolumeArguments {
    fd: i64,
    name: [u8; 4088],
}

/// `struct fiemap` and one `struct fiemap_extent` of `linux/fiemap.h`
#[repr(C)]
#[derive(Default)]
struct Fiemap {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    count: u32,
    reserved: u32,
    extent: [u64; 5],
    extent_flags: u32,
    extent_reserved: [u32; 3],
}

const CREATE: Opcode = opcode::write::<VolumeArguments>(0x94, 14);
/// `FS_IOC_FIEMAP`, whose size is that of the structure without its extents.
const FIEMAP: Opcode = opcode::read_write::<[u64; 4]>(b'f', 11);
/// `FIEMAP_EXTENT_ENCODED`
const ENCODED: u32 = 8;

fn make_subvolume(path: &Path) {
    let mut arguments = VolumeArguments { fd: 0, name: [0; 4088] };
    let name = path.file_name().unwrap().as_encoded_bytes();
    arguments.name[..name.len()].copy_from_slice(name);
    let parent = File::open(path.parent().unwrap()).unwrap();
    // SAFETY: the structure has the layout that the opcode names, and the kernel only reads it.
    let setter = unsafe { Setter::<CREATE, VolumeArguments>::new(arguments) };
    // SAFETY: as above.
    unsafe { ioctl::ioctl(parent, setter) }.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(fs::metadata(path).unwrap().ino(), 256, "no subvolume");
}

fn is_compressed(file: &Path) -> bool {
    let mut map = Fiemap { length: u64::MAX, count: 1, ..Fiemap::default() };
    // SAFETY: the structure has room for the one extent that it asks for.
    let update = unsafe { Updater::<FIEMAP, Fiemap>::new(&mut map) };
    // SAFETY: as above.
    unsafe { ioctl::ioctl(File::open(file).unwrap(), update) }.unwrap();
    assert_eq!(map.mapped, 1);
    map.extent_flags & ENCODED != 0
}

/// The root is the subvolume `root`, with others in it for the repository and for the state. `test` finds it mounted with these
/// options.
fn with_subvolumes(options: &'static str, flags: MsFlags, test: impl FnOnce(&Lab) + Send + 'static) {
    lab::with_disk(Disk::Btrfs, "sha512", move |lab| {
        let root = Path::new(DISK).join("root");
        for subvolume in ["", "composefs", "state"] {
            make_subvolume(&root.join(subvolume).components().collect::<std::path::PathBuf>());
        }
        let more = options.strip_prefix("subvol=root,").unwrap_or_default();
        lab.mount_with(Access::Writable, DISK, MsFlags::MS_REMOUNT, more).unwrap();
        let status = Command::new("cp").arg("-a").arg(lab.path(".")).arg(&root).status().unwrap();
        assert!(status.success());
        let (status, result) = ask(&["enable", "--repo", root.join("composefs").to_str().unwrap()]);
        assert_eq!(status, 0, "{result}");
        let big = root.join("composefs").join(lab.value("OBJECT_BIG"));
        assert_eq!(is_compressed(&big), options.contains("compress"));
        lab.detach();
        fs::create_dir_all(lab.path("")).unwrap();
        lab.mount_with(Access::Writable, lab.path("").to_str().unwrap(), flags, options).unwrap();
        test(lab);
        while umount2("/sysroot", MntFlags::MNT_DETACH).is_ok() {}
        umount2(&lab.path(""), MntFlags::empty()).unwrap();
    });
}

fn boots_in_subvolumes(options: &'static str, flags: MsFlags, mut kernel: impl Kernel + 'static) {
    with_subvolumes(options, flags, move |lab| {
        let point = lab.path("");
        let options_of = |lab: &Lab| lab.mount_of(point.to_str().unwrap()).unwrap().options;
        let before = options_of(lab);
        boots("btrfs", &mut kernel, lab);
        // A physical root that was mounted read-only is made writable, and keeps its other options.
        assert_eq!(before[1..], options_of(lab)[1..]);
        for option in options.split(',').filter(|option| option.starts_with("compress")) {
            assert!(before.iter().any(|found| found == option), "{before:?}");
        }
        // The mount in the new root is of the subvolume, not of all that is on the disk.
        assert!(Path::new("/sysroot/sysroot/composefs").exists());
        assert!(!Path::new("/sysroot/sysroot/root").exists());
    });
}

#[test]
fn subvolumes() {
    boots_in_subvolumes("subvol=root", MsFlags::empty(), Running);
}

#[test]
fn subvolumes_compressed_and_read_only() {
    boots_in_subvolumes("subvol=root,compress-force=zstd:3", MsFlags::MS_RDONLY, Running);
}

#[test]
fn subvolumes_compressed_as_linux_6_6() {
    boots_in_subvolumes("subvol=root,compress-force=zstd:3", MsFlags::empty(), Release(6, 6));
}

/// A subvolume in the place of the deployment's /etc, as a snapshot of it would be, and one below /var.
#[test]
fn state_in_subvolumes() {
    lab::with_disk(Disk::Btrfs, "sha512", |lab| {
        fs::remove_dir_all(lab.state_path("etc")).unwrap();
        make_subvolume(&lab.state_path("etc"));
        make_subvolume(&lab.state_path("etc/upper"));
        make_subvolume(&lab.state_path("var/snapshots"));
        boots("btrfs", &mut Running, lab);
        assert!(Path::new("/sysroot/var/snapshots").exists());
    });
}

#[test]
fn on_two_devices() {
    for algorithm in ["sha512", "sha256"] {
        lab::with_disk(Disk::Mirror, algorithm, |lab| boots("btrfs", &mut Running, lab));
    }
}

/// Without the option `degraded` the kernel mounts nothing, and there is nothing for the boot program to look at.
#[test]
fn with_one_device_missing() {
    lab::with_disk(Disk::Mirror, "sha512", |lab| {
        lab.detach();
        fs::remove_file(OTHER_HALF).unwrap();
        lab.mount_with(Access::Writable, DISK, MsFlags::empty(), "").unwrap_err();
        lab.mount_with(Access::Writable, DISK, MsFlags::empty(), "degraded").unwrap();
        boots("btrfs", &mut Running, lab);
    });
}

/// What one device has wrong comes from the other.
#[test]
fn a_changed_byte_on_one_device_of_two() {
    for half in [DISK_FILE, OTHER_HALF] {
        lab::with_disk(Disk::Mirror, "sha512", move |lab| {
            lab.flip_by_content_on(&[half], &lab.image_path(), 1, 9);
            boots("btrfs", &mut Running, lab);
        });
    }
}

#[test]
fn a_changed_byte_on_both_devices() {
    lab::with_disk(Disk::Mirror, "sha512", |lab| {
        lab.flip_by_content_on(&[DISK_FILE, OTHER_HALF], &lab.image_path(), 1, 9);
        refuses_damage(lab);
    });
}
