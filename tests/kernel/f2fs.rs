//! Physical roots on f2fs, which the native kernels have, and of Debian's kernels all but those for virtual machines.

use nix::mount::{MsFlags, mount};

use crate::disk::{DISK, Disk};
use crate::filesystems::{boots, refuses_a_changed_byte, refuses_another_image};
use crate::kernel::{Release, Running};
use crate::lab;

#[test]
fn boots_from_it() {
    for algorithm in ["sha512", "sha256"] {
        lab::with_disk(Disk::F2fs, algorithm, |lab| boots("f2fs", &mut Running, lab));
    }
}

#[test]
fn boots_from_it_as_linux_6_6() {
    lab::with_disk(Disk::F2fs, "sha512", |lab| {
        boots("f2fs", &mut Release(6, 6), lab);
        assert_eq!(lab.report()["kernel"]["erofs"], "loop");
    });
}

/// Making the filesystem writable changes none of its other options.
#[test]
fn mounted_read_only_with_options() {
    lab::with_disk(Disk::F2fs, "sha512", |lab| {
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(None::<&str>, DISK, None::<&str>, flags, Some("nodiscard,background_gc=off")).unwrap();
        let before = lab.mount_of(DISK).unwrap().options;
        boots("f2fs", &mut Running, lab);
        let after = lab.mount_of(DISK).unwrap().options;
        assert!(before.contains(&"background_gc=off".into()), "{before:?}");
        assert_eq!(before[0], "ro");
        assert_eq!(after[0], "rw");
        assert_eq!(before[1..], after[1..]);
    });
}

#[test]
fn large_sectors() {
    lab::with_disk(Disk::F2fs, "sha512", |lab| {
        lab.enlarge_sectors();
        boots("f2fs", &mut Running, lab);
    });
}

#[test]
fn a_changed_byte() {
    refuses_a_changed_byte(Disk::F2fs);
}

#[test]
fn another_image_in_place() {
    refuses_another_image(Disk::F2fs);
}

#[test]
fn missing_verity_enabled() {
    crate::enable::enables(Disk::F2fs, "sha512");
}
