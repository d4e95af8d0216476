//! Physical roots on other filesystems than the usual ext4.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::command::ask;
use crate::disk::Disk;
use crate::kernel::{Kernel, Release, Running};
use crate::lab::{self, Lab, Run, write};
use crate::loop_devices::BlockDevicesOnly;

/// Boots from a filesystem, uses the root, and looks at it from the gate.
pub fn boots(filesystem: &str, kernel: &mut dyn Kernel, lab: &Lab) {
    let report = lab.expect_sealed(&lab.boot_on(kernel), lab.digest());
    let points: Vec<_> = report["mounts"].as_array().unwrap().iter().map(|mount| &mount["point"]).collect();
    assert_eq!(points.len(), 4, "{points:?}");
    assert_eq!(lab.mount_of("/sysroot/var").unwrap().filesystem, filesystem);
    assert!(fs::read_to_string("/sysroot/usr/share/text").unwrap().starts_with("text 1\n"));
    write(Path::new("/sysroot/etc/new"), b"a");
    write(Path::new("/sysroot/var/new"), b"b");
    assert_eq!(fs::read(lab.state_path("etc/upper/new")).unwrap(), b"a");
    assert_eq!(fs::read(lab.state_path("var/new")).unwrap(), b"b");
    let gate = lab.run_on(kernel, &["gate"]);
    assert_eq!((gate.status, gate.log.len()), (Some(0), 0), "{gate:?}");
}

/// The image's name leads to another image.
pub fn refuses_another_image(disk: Disk) {
    lab::with_disk(disk, "sha512", |lab| {
        let other = lab.value("OTHER");
        fs::remove_file(lab.image_path()).unwrap();
        symlink(other, lab.image_path()).unwrap();
        let (image, digest) = (lab.image(), lab.digest());
        let message = format!("measure: {image}: expected sha512:{digest}, measured sha512:{other}");
        lab.expect_refused(&lab.boot(), &message);
    });
}

/// A byte of the image is another, wherever the filesystem keeps it.
pub fn refuses_a_changed_byte(disk: Disk) {
    lab::with_disk(disk, "sha512", |lab| {
        lab.flip_by_content(&lab.image_path(), 1, 9);
        refuses_damage(lab);
    });
}

pub fn refuses_damage(lab: &Lab) {
    let image = lab.image();
    let message = format!("look-inside: {image}: expected content that belongs to its digest, found damage: <errno 5>");
    lab.expect_refused(&lab.boot(), &message);
}

#[test]
fn btrfs_boots() {
    for algorithm in ["sha512", "sha256"] {
        lab::with_disk(Disk::Btrfs, algorithm, |lab| {
            boots("btrfs", &mut Running, lab);
            // btrfs has no device number of its own; the link leads to the device that it was mounted from.
            let link = fs::read_link("/run/systemd/volatile-root").unwrap();
            let number = link.to_str().unwrap().strip_prefix("/dev/block/7:").unwrap_or_else(|| panic!("{link:?}"));
            let backing = fs::read_to_string(format!("/sys/dev/block/7:{number}/loop/backing_file")).unwrap();
            assert!(backing.trim().ends_with("disk.img"), "{backing}");
        });
    }
}

#[test]
fn btrfs_boots_as_linux_6_6() {
    lab::with_disk(Disk::Btrfs, "sha512", |lab| {
        boots("btrfs", &mut Release(6, 6), lab);
        assert_eq!(lab.report()["kernel"]["erofs"], "loop");
    });
}

#[test]
fn btrfs_mounted_read_only() {
    lab::with_disk(Disk::Btrfs, "sha512", |lab| {
        lab.make_read_only();
        boots("btrfs", &mut Running, lab);
    });
}

#[test]
fn btrfs_with_another_image_in_place() {
    lab::with_disk(Disk::Btrfs, "sha512", |lab| {
        fs::remove_file(lab.image_path()).unwrap();
        fs::copy(lab.path("composefs/images").join(lab.value("OTHER")), lab.image_path()).unwrap();
        let (image, digest) = (lab.image(), lab.digest());
        let message = format!("measure: {image}: expected sha512:{digest}, found a file without fs-verity: <errno 61>");
        lab.expect_refused(&lab.boot(), &message);
    });
    refuses_another_image(Disk::Btrfs);
}

#[test]
fn btrfs_with_a_changed_byte() {
    refuses_a_changed_byte(Disk::Btrfs);
}

#[test]
fn ext4_without_the_feature() {
    lab::with_disk(Disk::PlainExt4, "sha512", |lab| {
        let message = format!(
            "measure: {}: expected sha512:{}, found a filesystem without fs-verity, ext4: it needs the feature \
             'verity' (tune2fs -O verity), and the kernel CONFIG_FS_VERITY: <errno 95>",
            lab.image(),
            lab.digest()
        );
        lab.expect_refused(&lab.boot(), &message);
    });
}

/// The Merkle tree has larger ones.
#[test]
fn ext4_with_small_blocks() {
    for (config, reason) in
        [("", "<errno 61>"), ("[policy]\nmissing-verity = \"enable\"\n", "enable fs-verity: <errno 22>")]
    {
        lab::with_disk(Disk::SmallBlocks, "sha512", move |lab| {
            lab.config(config);
            let found = "found a file without fs-verity, which blocks of 1024 bytes cannot have (mke2fs -b 4096)";
            let message = format!("measure: {}: expected sha512:{}, {found}: {reason}", lab.image(), lab.digest());
            lab.expect_refused(&lab.boot(), &message);
            let repository = lab.path("composefs");
            let (status, result) = ask(&["probe", "--repo", repository.to_str().unwrap()]);
            assert_eq!(status, 1);
            let feature = &result["features"][0];
            let without = "there is none, which blocks of 1024 bytes cannot have (mke2fs -b 4096)";
            assert_eq!((&feature["found"], &feature["without"]), (&false.into(), &without.into()));
            let (status, result) = ask(&["enable", lab.image_path().to_str().unwrap()]);
            assert_eq!(status, 1);
            let error = result["failed"][0]["error"].as_str().unwrap().to_owned();
            assert!(error.starts_with(found), "{error}");
        });
    }
}

/// The first release of Linux whose overlayfs looks at directories, not at what the filesystem could have.
const TAKES_CASEFOLD: Release = Release(6, 17);
/// What `sealroot probe` calls it.
const LAYERS: &str = "overlayfs: layers on this filesystem";

/// The feature is there, and no directory has it.
fn casefold(algorithm: &'static str, config: &'static str) {
    lab::with_disk(Disk::Casefold, algorithm, move |lab| {
        if !config.is_empty() {
            lab.config(config);
        }
        let takes_it = Release::running() >= TAKES_CASEFOLD;
        let probe = |lab: &Lab| {
            let (status, result) = ask(&["probe", "--repo", lab.path("composefs").to_str().unwrap()]);
            assert_eq!(status, i32::from(!takes_it), "{result}");
            let feature = result["features"].as_array().unwrap().iter().find(|feature| feature["feature"] == LAYERS);
            assert_eq!(feature.unwrap()["found"], takes_it);
        };
        probe(lab);
        if takes_it {
            lab.expect_sealed(&lab.boot(), lab.digest());
        } else {
            refused_for_case(lab, &lab.boot());
        }
    });
}

fn refused_for_case(lab: &Lab, run: &Run) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let message = format!(
        "mount: overlay: expected a filesystem without the feature 'casefold', or Linux 6.17 or newer, found {}: <errno 22>",
        release.trim()
    );
    lab.expect_refused(run, &message);
}

#[test]
fn ext4_with_casefold() {
    casefold("sha512", "");
    casefold("sha256", "");
    casefold("sha512", "[etc]\nmount = \"transient\"\n[var]\nmount = \"transient\"\n");
}

/// Sectors as large as the filesystem's blocks, as on disks that are 4K native.
#[test]
fn large_sectors() {
    for (disk, filesystem) in [(Disk::Ext4, "ext4"), (Disk::Btrfs, "btrfs")] {
        lab::with_disk(disk, "sha512", move |lab| {
            lab.enlarge_sectors();
            boots(filesystem, &mut Running, lab);
        });
    }
}

/// The image is mounted by a loop device of its own, whose sectors are small.
#[test]
fn large_sectors_below_a_loop_device() {
    for (disk, filesystem) in [(Disk::Ext4, "ext4"), (Disk::Btrfs, "btrfs")] {
        lab::with_disk(disk, "sha512", move |lab| {
            lab.enlarge_sectors();
            boots(filesystem, &mut BlockDevicesOnly, lab);
            assert_eq!(lab.report()["kernel"]["erofs"], "loop");
        });
    }
}

#[test]
fn xfs() {
    lab::with_disk(Disk::Xfs, "sha512", |lab| {
        let message = format!(
            "measure: {}: expected sha512:{}, found a filesystem without fs-verity, xfs: ext4 with the feature \
             'verity', btrfs and f2fs have it: <errno 25>",
            lab.image(),
            lab.digest()
        );
        lab.expect_refused(&lab.boot(), &message);
    });
}
