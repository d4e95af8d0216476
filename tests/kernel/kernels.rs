//! Kernels that lack something for which there is no other form, or that do not do what they say: refused with what is
//! missing.

use std::fs;
use std::path::Path;

use crate::kernel::{Creation, Kernel, Release};
use crate::lab::{self, Run};
use crate::releases::features;

/// A kernel without a filesystem, as if it were a module that nobody put into the initramfs.
struct Lacks(&'static str);

impl Kernel for Lacks {
    fn open_filesystem(&mut self, filesystem: &str) -> Option<i32> {
        (filesystem == self.0).then_some(libc::ENODEV)
    }
}

#[test]
fn filesystems_that_are_missing() {
    for (filesystem, symbol) in [("erofs", "CONFIG_EROFS_FS"), ("overlay", "CONFIG_OVERLAY_FS")] {
        lab::with("sha512", move |lab| {
            lab.expect_refused(&lab.boot_on(&mut Lacks(filesystem)), &missing(filesystem, symbol));
        });
    }
}

/// The refusal where the kernel lacks a filesystem.
pub fn missing(filesystem: &str, symbol: &str) -> String {
    format!(
        "mount: {filesystem}: open: expected the module '{filesystem}' in the initramfs (the dracut module 'sealroot' \
         puts it there) or {symbol}=y, found neither: <errno 19>"
    )
}

/// Linux 6.5: overlayfs says at the option itself that it does not verify, not at the end as before.
#[test]
fn verity_that_overlayfs_does_not_know() {
    lab::with("sha512", |lab| {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let message = format!(
            "mount: overlay: this kernel is too old for 'verity=': expected Linux 6.6 or newer, found {}: <errno 22>",
            release.trim()
        );
        lab.expect_refused(&lab.boot_on(&mut Release(6, 5)), &message);
    });
}

/// A kernel that is like an older release, and on top of that cannot create one kind of filesystem.
struct Without {
    release: Release,
    filesystem: &'static str,
    writable: bool,
    error: i32,
}

impl Kernel for Without {
    fn release(&self) -> Release {
        self.release
    }

    fn create(&mut self, creation: &Creation<'_>) -> Option<i32> {
        let is_it = creation.filesystem == self.filesystem && creation.has("upperdir") == self.writable;
        is_it.then_some(self.error)
    }
}

#[test]
fn filesystems_without_another_way() {
    for (filesystem, writable, error, message) in [
        ("tmpfs", false, libc::EINVAL, "mount: work directory '/run/sealroot/work': tmpfs: create: <errno 22>"),
        ("erofs", false, libc::EINVAL, "mount: erofs: create: <errno 22>"),
        ("overlay", false, libc::EINVAL, "mount: overlay: create: <errno 22>"),
        ("overlay", true, libc::ENOTBLK, "assemble: '/etc': overlay: create: <errno 15>"),
        ("overlay", true, libc::EINVAL, "assemble: '/etc': overlay: create: <errno 22>"),
    ] {
        lab::with("sha512", move |lab| {
            let mut kernel = Without { release: Release(6, 14), filesystem, writable, error };
            lab.expect_refused(&lab.boot_on(&mut kernel), message);
            // A second attempt is made where too many levels of stacking may be the reason, and nowhere else.
            let second = (filesystem, writable, error) == ("overlay", true, libc::EINVAL);
            assert_eq!(lab.report()["kernel"]["erofs"], if second { "loop" } else { "file" });
        });
    }
}

/// A kernel that cannot create the filesystem below a transient directory.
struct WithoutTransientState;

impl Kernel for WithoutTransientState {
    fn create(&mut self, creation: &Creation<'_>) -> Option<i32> {
        let is_state = creation.options.contains(&("mode".into(), "0755".into()));
        is_state.then_some(libc::EINVAL)
    }
}

/// Not an overlay's error, so no second attempt either.
#[test]
fn transient_state_without_another_way() {
    lab::with("sha512", |lab| {
        lab.config("[var]\nmount = \"transient\"\n");
        lab.expect_refused(&lab.boot_on(&mut WithoutTransientState), "assemble: '/var': tmpfs: create: <errno 22>");
        assert_eq!(lab.report()["kernel"]["erofs"], "file");
    });
}

/// Something is wrong with the layers themselves, in whatever form.
struct RefusesLayers;

impl Kernel for RefusesLayers {
    fn release(&self) -> Release {
        Release(6, 12)
    }

    fn option(&mut self, _: &str, key: &str) -> Option<i32> {
        ["lowerdir+", "lowerdir"].contains(&key).then_some(libc::EINVAL)
    }
}

/// The newer form's error is the one to report, and the form counts as one that the kernel takes.
#[test]
fn layers_that_are_taken_in_no_form() {
    lab::with("sha512", |lab| {
        let run = lab.boot_on(&mut RefusesLayers);
        let report = lab.report();
        let reason = report["reason"].as_str().unwrap_or_else(|| panic!("{run:?}"));
        assert!(reason.starts_with("mount: overlay: option lowerdir+=/proc/self/fd/"), "{reason}");
        assert_eq!(report["kernel"]["layers"], "path");
        lab.expect_refused(&run, reason);
    });
}

/// The kernel does not tell about single mounts who is confined.
struct ForbidsStatmount;

impl Kernel for ForbidsStatmount {
    fn statmount(&mut self) -> Option<i32> {
        Some(libc::EPERM)
    }
}

#[test]
fn statmount_that_is_forbidden() {
    lab::with("sha512", |lab| {
        let report = lab.expect_sealed(&lab.boot_on(&mut ForbidsStatmount), lab.digest());
        let mut expected = features(Release::running());
        expected["mount_table"] = "mountinfo".into();
        assert_eq!(report["kernel"], expected);
        let gate = lab.run_on(&mut ForbidsStatmount, &["gate"]);
        assert_eq!((gate.status, gate.log.len()), (Some(0), 0), "{gate:?}");
    });
}

/// The option that everything depends on is taken and forgotten.
struct IgnoresVerity(Release);

impl Kernel for IgnoresVerity {
    fn release(&self) -> Release {
        self.0
    }

    fn ignores(&mut self, filesystem: &str, key: &str) -> bool {
        (filesystem, key) == ("overlay", "verity")
    }
}

/// The kernel's own word is asked for, in every form that it gives it, and not only by the name of the option.
#[test]
fn verity_that_is_not_in_effect() {
    let refused = |mut kernel: IgnoresVerity, config: &'static str, stage: &'static str| {
        lab::with("sha512", move |lab| {
            lab.config(config);
            let run = lab.boot_on(&mut kernel);
            let reason = lab.report()["reason"].as_str().unwrap_or_else(|| panic!("{run:?}")).to_owned();
            let start = format!("{stage}: sealed root: expected option verity=require and no other verity=, found ro,");
            assert!(reason.starts_with(&start), "{reason}");
            lab.expect_refused(&run, &reason);
        });
    };
    // Looked at where it ends up, or in the private place.
    let last = if Release::running() < Release(6, 15) { "mount" } else { "replace" };
    refused(IgnoresVerity(Release::running()), "", last);
    refused(IgnoresVerity(Release::running()), "[root]\ntransient = true\n", "mount");
    refused(IgnoresVerity(Release(6, 14)), "", "mount");
    refused(IgnoresVerity(Release(6, 6)), "", "mount");
}

/// overlayfs takes a good file for one without a digest (Linux 7.0 to 7.0.6).
struct RefusesGoodFiles;

impl Kernel for RefusesGoodFiles {
    fn open(&mut self, file: &Path) -> Option<i32> {
        file.ends_with("usr/lib/systemd/systemd").then_some(libc::EIO)
    }
}

#[test]
fn good_files_that_overlayfs_refuses() {
    lab::with("sha512", |lab| {
        let run: Run = lab.boot_on(&mut RefusesGoodFiles);
        let message = format!(
            "prove: new root: '/usr/lib/systemd/systemd': {}, measured the same, but overlayfs refuses it (as Linux \
             7.0 to 7.0.6 refuse good files: \"has no fs-verity digest\"): <errno 5>",
            lab.expected_object("OBJECT_INIT")
        );
        lab.expect_refused(&run, &message);
    });
}
