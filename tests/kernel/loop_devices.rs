//! Images mounted from loop devices, where EROFS does not mount files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use serde_json::Value;

use crate::kernel::{Creation, Kernel, Release};
use crate::lab::{self, PROGRAM};
use crate::releases::{expect_usable, features};

const NONE: Option<&str> = None;

/// EROFS is configured so that it takes block devices only.
pub struct BlockDevicesOnly;

impl Kernel for BlockDevicesOnly {
    fn create(&mut self, creation: &Creation<'_>) -> Option<i32> {
        creation.is_erofs_from_a_file().then_some(libc::ENOTBLK)
    }
}

#[test]
fn erofs_from_block_devices_only() {
    lab::with("sha512", |lab| {
        let report = lab.expect_sealed(&lab.boot_on(&mut BlockDevicesOnly), lab.digest());
        let expected = Value::from("loop");
        assert_eq!(report["kernel"], with_erofs(features(Release::running()), expected));
        expect_read_only();
        expect_usable(lab);
    });
}

/// Nobody can write to the image through its loop device.
fn expect_read_only() {
    let devices = fs::read_dir("/sys/block").unwrap().map(|entry| entry.unwrap().path());
    let holds_image = |device: &PathBuf| {
        fs::read_to_string(device.join("loop/backing_file")).is_ok_and(|file| !file.trim().ends_with("disk.img"))
    };
    let images: Vec<_> = devices.filter(holds_image).collect();
    assert_eq!(images.len(), 1, "{images:?}");
    assert_eq!(fs::read_to_string(images[0].join("ro")).unwrap(), "1\n");
}

fn with_erofs(mut features: Value, erofs: Value) -> Value {
    features["erofs"] = erofs;
    features
}

/// An EROFS that is mounted from a file counts as a level of stacking (some of Linux 6.18, up to 6.18.5).
#[derive(Default)]
pub struct CountsFiles {
    from_a_file: bool,
}

impl Kernel for CountsFiles {
    fn create(&mut self, creation: &Creation<'_>) -> Option<i32> {
        if creation.filesystem == "erofs" {
            self.from_a_file = creation.is_erofs_from_a_file();
        }
        (self.from_a_file && creation.has("upperdir")).then_some(libc::EINVAL)
    }
}

#[test]
fn erofs_from_a_file_that_counts_as_a_level_of_stacking() {
    lab::with("sha512", |lab| {
        let report = lab.expect_sealed(&lab.boot_on(&mut CountsFiles::default()), lab.digest());
        assert_eq!(report["kernel"]["erofs"], "loop");
        expect_usable(lab);
    });
}

/// A /dev without devtmpfs: only what is put there.
fn dev_with(nodes: &[(&str, u64, u64)]) {
    fs::create_dir_all("/run/dev").unwrap();
    mount(Some("dev"), "/run/dev", Some("tmpfs"), MsFlags::empty(), NONE).unwrap();
    for (name, major, minor) in [("null", 1, 3), ("kmsg", 1, 11)].iter().chain(nodes) {
        make_node(&format!("/run/dev/{name}"), *major, *minor);
    }
    mount(Some("/run/dev"), "/dev", NONE, MsFlags::MS_BIND, NONE).unwrap();
}

fn make_node(path: &str, major: u64, minor: u64) {
    let kind = if major == 7 { SFlag::S_IFBLK } else { SFlag::S_IFCHR };
    mknod(path, kind, Mode::from_bits_truncate(0o600), makedev(major, minor)).unwrap();
}

const LOOP_CONTROL: (&str, u64, u64) = ("loop-control", 10, 237);

/// As above, and the nodes of loop devices are made when they were looked for three times.
#[derive(Default)]
struct LateNodes {
    looked_for: usize,
}

impl Kernel for LateNodes {
    fn create(&mut self, creation: &Creation<'_>) -> Option<i32> {
        BlockDevicesOnly.create(creation)
    }

    fn open(&mut self, file: &Path) -> Option<i32> {
        let number = file.to_str()?.strip_prefix("/dev/loop")?.parse().ok()?;
        self.looked_for += 1;
        if self.looked_for == 3 {
            make_node(file.to_str()?, 7, number);
        }
        None
    }
}

#[test]
fn a_loop_device_whose_node_comes_late() {
    lab::with("sha512", |lab| {
        lab.mount_sysroot();
        dev_with(&[LOOP_CONTROL]);
        let mut kernel = LateNodes::default();
        let report = lab.expect_sealed(&lab.run_on(&mut kernel, &[]), lab.digest());
        assert_eq!(report["kernel"]["erofs"], "loop");
        assert_eq!(kernel.looked_for, 3);
    });
}

/// EROFS takes block devices only, and somebody else is quicker to take the first free one.
#[derive(Default)]
struct TakesLoopDevice {
    taken: Option<PathBuf>,
}

impl Kernel for TakesLoopDevice {
    fn create(&mut self, creation: &Creation<'_>) -> Option<i32> {
        BlockDevicesOnly.create(creation)
    }

    fn open(&mut self, file: &Path) -> Option<i32> {
        let _number: u32 = file.to_str()?.strip_prefix("/dev/loop")?.parse().ok()?;
        if self.taken.is_none() {
            let status = Command::new("losetup").arg("-r").arg(file).arg(PROGRAM).status().unwrap();
            assert!(status.success());
            self.taken = Some(file.into());
        }
        None
    }
}

#[test]
fn a_loop_device_that_somebody_else_takes() {
    lab::with("sha512", |lab| {
        let mut kernel = TakesLoopDevice::default();
        let run = lab.boot_on(&mut kernel);
        let status = Command::new("losetup").arg("-d").arg(kernel.taken.unwrap()).status().unwrap();
        assert!(status.success());
        let report = lab.expect_sealed(&run, lab.digest());
        assert_eq!(report["kernel"]["erofs"], "loop");
        expect_usable(lab);
    });
}

#[test]
fn no_loop_devices() {
    lab::with("sha512", |lab| {
        lab.mount_sysroot();
        dev_with(&[LOOP_CONTROL]);
        let run = lab.run_on(&mut BlockDevicesOnly, &[]);
        let reason = lab.report()["reason"].as_str().unwrap().to_owned();
        assert!(reason.starts_with("mount: erofs: loop device '/dev/loop"), "{reason}");
        assert!(reason.contains("': open: "), "{reason}");
        lab.expect_refused(&run, &reason);
    });
    lab::with("sha512", |lab| {
        lab.mount_sysroot();
        dev_with(&[]);
        let message = "mount: erofs: '/dev/loop-control': expected the module 'loop' in the initramfs (the dracut \
                       module 'sealroot' puts it there) or CONFIG_BLK_DEV_LOOP=y, found neither (needed where EROFS \
                       cannot be mounted from a file, as before Linux 6.12): <errno 2>";
        lab.expect_refused(&lab.run_on(&mut BlockDevicesOnly, &[]), message);
    });
}

/// The reason of the first attempt is not lost where the second one fails in another way.
#[test]
fn no_loop_devices_where_stacking_would_need_them() {
    lab::with("sha512", |lab| {
        lab.mount_sysroot();
        dev_with(&[]);
        let message = "assemble: '/etc': overlay: create: <errno 22>; with the image on a loop device: mount: erofs: \
                       '/dev/loop-control': expected the module 'loop' in the initramfs (the dracut module 'sealroot' \
                       puts it there) or CONFIG_BLK_DEV_LOOP=y, found neither (needed where EROFS cannot be mounted \
                       from a file, as before Linux 6.12): <errno 2>";
        lab.expect_refused(&lab.run_on(&mut CountsFiles::default(), &[]), message);
    });
}
