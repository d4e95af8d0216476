//! What other kernels cannot do: the call fails for real, as a filter of the test's has it, and the program finds
//! another way.

use std::fs;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::lab::{self, Lab, Run, SYSROOT};
use crate::raw::{answer_create, ask_before_create};

/// `ENOTBLK`: what a kernel answers that mounts EROFS from block devices only.
const BLOCK_DEVICE_REQUIRED: i32 = 15;
/// `EINVAL`: among others, too many levels of stacking.
const INVALID: i32 = 22;

/// The filesystems that the program creates with the default configuration, in its order.
const TMPFS: usize = 0;
const EROFS: usize = 1;
const SEALED: usize = 2;
const ETC: usize = 3;

/// Boots on a kernel that cannot create one of these filesystems.
fn boot_without(lab: &Lab, filesystem: usize, error: i32) -> Run {
    lab.mount_sysroot();
    let listener = ask_before_create();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut number = 0;
            while !done.load(Ordering::Relaxed) {
                let mut questions = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
                if poll(&mut questions, PollTimeout::from(20_u8)).unwrap() > 0 {
                    answer_create(&listener, (number == filesystem).then_some(error));
                    number += 1;
                }
            }
        });
        let run = lab.run(&[]);
        done.store(true, Ordering::Relaxed);
        run
    })
}

/// The files behind the loop devices of the machine.
fn loop_devices() -> Vec<String> {
    let mut files: Vec<_> = fs::read_dir("/sys/block")
        .unwrap()
        .filter_map(|entry| fs::read_to_string(entry.unwrap().path().join("loop/backing_file")).ok())
        .collect();
    files.sort();
    files
}

/// Expects that all other loop devices go away; the kernel may do that a little after the last use.
fn expect_loop_devices(expected: &[String]) {
    for _ in 0..50 {
        if loop_devices() == expected {
            return;
        }
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(loop_devices(), expected);
}

/// The image is mounted from a loop device, which is gone with the mount.
fn expect_loop_device(filesystem: usize, error: i32) {
    lab::with("sha512", move |lab| {
        let before = loop_devices();
        let run = boot_without(lab, filesystem, error);
        let report = lab.expect_sealed(&run, lab.digest());
        assert_eq!(report["kernel"]["erofs"], "loop");
        assert!(fs::read_to_string("/sysroot/usr/lib/os-release").unwrap().contains("Sealed fixture"));
        fs::write("/sysroot/etc/new", "a").unwrap();
        assert_eq!(loop_devices().len(), before.len() + 1);
        nix::mount::umount2(SYSROOT, nix::mount::MntFlags::MNT_DETACH).unwrap();
        expect_loop_devices(&before);
    });
}

#[test]
fn erofs_from_block_devices_only() {
    expect_loop_device(EROFS, BLOCK_DEVICE_REQUIRED);
}

#[test]
fn erofs_from_a_file_that_counts_as_a_level_of_stacking() {
    expect_loop_device(ETC, INVALID);
}

#[test]
fn filesystems_without_another_way() {
    for (filesystem, error, message) in [
        (TMPFS, INVALID, "mount: work directory '/run/sealroot/work': tmpfs: create: <errno 22>"),
        (EROFS, INVALID, "mount: erofs: create: <errno 22>"),
        (SEALED, INVALID, "mount: overlay: create: <errno 22>"),
        (ETC, BLOCK_DEVICE_REQUIRED, "assemble: '/etc': overlay: create: <errno 15>"),
    ] {
        lab::with("sha512", move |lab| {
            let before = loop_devices();
            lab.expect_refused(&boot_without(lab, filesystem, error), message);
            expect_loop_devices(&before);
        });
    }
}
