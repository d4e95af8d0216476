//! `missing-verity = "enable"`: an image file without fs-verity gets it, if it is the right one.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::sync::mpsc;

use crate::disk::{self, Disk};
use crate::kernel::{Kernel, Running};
use crate::lab::{self, Lab, Run, write};
use crate::raw::Call;

/// `FS_IOC_ENABLE_VERITY`
const ENABLE: u64 = 0x4080_6685;

/// The image is an ordinary file with this content.
fn without_verity(lab: &Lab, content: &[u8]) {
    lab.config("[policy]\nmissing-verity = \"enable\"\n");
    fs::remove_file(lab.image_path()).unwrap();
    write(&lab.image_path(), content);
    rustix::fs::sync();
}

fn was_enabled(lab: &Lab, run: &Run) -> bool {
    let line = format!("5 sealroot: {}: fs-verity enabled", lab.image());
    run.log.contains(&line)
}

/// `measure: …` up to what was found.
fn expected(lab: &Lab) -> String {
    format!("measure: {}: expected {}:{}, found a file without fs-verity: ", lab.image(), lab.algorithm, lab.digest())
}

/// The first boot enables fs-verity, on a physical root that is mounted read-only too.
pub fn enables(disk: Disk, algorithm: &'static str) {
    for read_only in [false, true] {
        lab::with_disk(disk, algorithm, move |lab| {
            without_verity(lab, &fs::read(lab.image_path()).unwrap());
            if read_only {
                lab.make_read_only();
            }
            let run = lab.boot();
            assert!(was_enabled(lab, &run), "{run:?}");
            lab.expect_sealed(&run, lab.digest());
            assert_eq!(lab.report()["policy"]["policy.missing-verity"]["value"], "enable");
            assert!(File::options().write(true).open(lab.image_path()).is_err());
        });
    }
}

#[test]
fn the_right_file() {
    enables(Disk::Ext4, "sha512");
    enables(Disk::Ext4, "sha256");
    enables(Disk::Btrfs, "sha512");
}

#[test]
fn once_is_enough() {
    lab::with("sha512", |lab| {
        without_verity(lab, &fs::read(lab.image_path()).unwrap());
        lab.boot();
        lab.forget();
        let run = lab.boot();
        assert!(!was_enabled(lab, &run), "{run:?}");
        lab.expect_sealed(&run, lab.digest());
    });
}

/// A file that is not the one that was asked for is left as it was.
#[test]
fn another_file() {
    lab::with("sha512", |lab| {
        let other = lab.value("OTHER");
        without_verity(lab, &fs::read(lab.path("composefs/images").join(other)).unwrap());
        lab.expect_refused(&lab.boot(), &format!("{}computed sha512:{other}", expected(lab)));
        File::options().write(true).open(lab.image_path()).unwrap();
    });
}

/// Whoever writes to the disk does not say how long the boot takes.
#[test]
fn a_file_without_end() {
    for disk in [Disk::Ext4, Disk::Btrfs] {
        lab::with_disk(disk, "sha512", |lab| {
            without_verity(lab, b"");
            File::options().write(true).open(lab.image_path()).unwrap().set_len(0xff_ffff_f000).unwrap();
            let message = format!(
                "measure: {}: expected at most 1073741824 bytes without fs-verity, found 1099511623680",
                lab.image()
            );
            lab.expect_refused(&lab.boot(), &message);
        });
    }
}

#[test]
fn a_file_that_somebody_writes_to() {
    lab::with("sha512", |lab| {
        without_verity(lab, &fs::read(lab.image_path()).unwrap());
        let _writer = File::options().write(true).open(lab.image_path()).unwrap();
        let message =
            format!("{}enable fs-verity: expected nobody to have the file open for writing: <errno 26>", expected(lab));
        lab.expect_refused(&lab.boot(), &message);
    });
}

#[test]
fn a_disk_that_cannot_be_written_to() {
    lab::with("sha512", |lab| {
        without_verity(lab, &fs::read(lab.image_path()).unwrap());
        lab.protect();
        let run = lab.boot();
        let reason = lab.report()["reason"].as_str().unwrap().to_owned();
        let start = format!("{}physical root: expected to be writable: ", expected(lab));
        assert!(reason.starts_with(&start), "{reason}");
        lab.expect_refused(&run, &reason);
    });
}

/// Enabling is not for filesystems that have no fs-verity.
#[test]
fn a_filesystem_without_it() {
    lab::with_disk(Disk::PlainExt4, "sha512", |lab| {
        lab.config("[policy]\nmissing-verity = \"enable\"\n");
        let message = format!(
            "measure: {}: expected sha512:{}, found a filesystem without fs-verity, ext4: it needs the feature \
             'verity' (tune2fs -O verity), and the kernel CONFIG_FS_VERITY: <errno 95>",
            lab.image(),
            lab.digest()
        );
        lab.expect_refused(&lab.boot(), &message);
    });
}

/// A file that has fs-verity and is another is no file without fs-verity.
#[test]
fn a_file_that_has_it_already() {
    lab::with("sha512", |lab| {
        lab.config("[policy]\nmissing-verity = \"enable\"\n");
        let other = lab.value("OTHER");
        fs::remove_file(lab.image_path()).unwrap();
        symlink(other, lab.image_path()).unwrap();
        let message = format!("measure: {}: expected sha512:{}, measured sha512:{other}", lab.image(), lab.digest());
        lab.expect_refused(&lab.boot(), &message);
    });
}

/// Where the power fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    BeforeEnabling,
    BeforeSyncing,
    AtTheEnd,
}

/// Keeps what the disk has at that moment: what the filesystem has written, and nothing that it still holds in memory.
struct PowerFailure {
    moment: Moment,
    disk: mpsc::Sender<Vec<u8>>,
}

impl Kernel for PowerFailure {
    fn calls(&self) -> &'static [i64] {
        &[libc::SYS_exit_group, libc::SYS_ioctl, libc::SYS_syncfs]
    }

    fn before(&mut self, call: &Call) {
        let moment = match call.number {
            libc::SYS_ioctl if call.arguments[1] == ENABLE => Moment::BeforeEnabling,
            libc::SYS_syncfs => Moment::BeforeSyncing,
            libc::SYS_exit_group => Moment::AtTheEnd,
            _ => return,
        };
        if moment == self.moment {
            self.disk.send(disk::content()).unwrap();
        }
    }
}

#[test]
fn power_failures() {
    for moment in [Moment::BeforeEnabling, Moment::BeforeSyncing, Moment::AtTheEnd] {
        lab::with("sha512", move |lab| {
            without_verity(lab, &fs::read(lab.image_path()).unwrap());
            let (sender, receiver) = mpsc::channel();
            lab.mount_sysroot();
            let run = lab.run_on(&mut PowerFailure { moment, disk: sender }, &[]);
            assert!(was_enabled(lab, &run), "{run:?}");
            let kept = receiver.try_recv().unwrap();
            lab.forget();
            lab.replace_disk(&kept);
            lab.mount_sysroot();
            let run = lab.run_on(&mut Running, &[]);
            // What was not on the disk yet is done again, and what was is not.
            assert_eq!(was_enabled(lab, &run), moment != Moment::AtTheEnd, "{moment:?}: {run:?}");
            lab.expect_sealed(&run, lab.digest());
        });
    }
}
