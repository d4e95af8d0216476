//! The second look, just before the pivot.

mod foreign;

use std::fs;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use rustix::fs::CWD;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags};
use sealroot::kernel::Kernel;

use crate::disk::DISK;
use crate::kernel::Release;
use crate::lab::{self, Lab, Run};

const NONE: Option<&str> = None;

fn tmpfs(point: &str) {
    mount(Some("planted"), point, Some("tmpfs"), MsFlags::empty(), NONE).unwrap();
}

fn bind(source: &str, point: &str, flags: MsFlags) {
    mount(Some(source), point, NONE, MsFlags::MS_BIND | flags, NONE).unwrap();
}

/// What is mounted there from now on is mounted nowhere else.
fn make_private(point: &str) {
    mount(NONE, point, NONE, MsFlags::MS_PRIVATE, NONE).unwrap();
}

/// Boots, changes something, and goes to the gate.
fn after(change: impl FnOnce(&Lab) + Send + 'static, expect: impl FnOnce(&Lab, &Run) + Send + 'static) {
    after_boot("", change, expect);
}

/// The same, with another configuration.
fn after_boot(
    config: &'static str,
    change: impl FnOnce(&Lab) + Send + 'static,
    expect: impl FnOnce(&Lab, &Run) + Send + 'static,
) {
    lab::with("sha512", move |lab| {
        lab.config(config);
        if config.contains("\"bind\"") {
            // With nothing there but the layers of an overlay it is refused.
            fs::write(lab.state_path("etc/passwd"), "").unwrap();
        }
        let run = lab.boot();
        assert_eq!(run.status, Some(0), "{run:?}");
        change(lab);
        expect(lab, &lab.run(&["gate"]));
    });
}

fn passes(change: impl FnOnce(&Lab) + Send + 'static) {
    passes_with("", change);
}

fn passes_with(config: &'static str, change: impl FnOnce(&Lab) + Send + 'static) {
    after_boot(config, change, |lab, run| {
        assert_eq!((run.status, run.log.len()), (Some(0), 0), "{run:?}");
        assert_eq!(lab.report()["verdict"], "sealed");
    });
}

/// Refused, with a message that starts and ends so.
fn refuses(change: impl FnOnce(&Lab) + Send + 'static, start: &'static str, end: &'static str) {
    refuses_with("", change, start, end);
}

fn refuses_with(
    config: &'static str,
    change: impl FnOnce(&Lab) + Send + 'static,
    start: &'static str,
    end: &'static str,
) {
    after_boot(config, change, move |lab, run| {
        let reason = lab.report()["reason"].as_str().unwrap_or_else(|| panic!("{run:?}")).to_owned();
        assert!(reason.starts_with(start) && reason.ends_with(end), "{reason}");
        lab.expect_refused(run, &reason);
    });
}

#[test]
fn untouched() {
    passes(|_| {});
}

#[test]
fn harmless_mounts() {
    passes(|_| tmpfs("/sysroot/tmp"));
    passes(|_| tmpfs("/sysroot/boot"));
    passes(|_| {
        fs::create_dir("/sysroot/var/folder").unwrap();
        tmpfs("/sysroot/var/folder");
    });
    // What lies on another such mount covers nothing more.
    passes(|_| {
        tmpfs("/sysroot/srv");
        fs::create_dir("/sysroot/srv/below").unwrap();
        tmpfs("/sysroot/srv/below");
        tmpfs("/sysroot/srv");
    });
    // A copy of sealed content covers none.
    passes(|_| {
        bind("/sysroot/usr", "/sysroot/srv", MsFlags::MS_REC);
        make_private("/sysroot/srv");
        tmpfs("/sysroot/srv/bin");
    });
    // The physical root in the new one.
    passes(|_| tmpfs("/sysroot/sysroot/composefs"));
}

#[test]
fn sealed_content_covered() {
    let message = "gate: mount '/usr': expected no mount over sealed content, found tmpfs planted";
    refuses(|_| tmpfs("/sysroot/usr"), message, "");
    // Empty, but what appears there is executed.
    refuses(
        |_| tmpfs("/sysroot/usr/share/empty"),
        "gate: mount '/usr/share/empty': expected no mount over sealed content, found tmpfs planted",
        "",
    );
    refuses(
        |_| {
            fs::write("/run/file", "planted").unwrap();
            mount(Some("/run/file"), "/sysroot/usr/lib/os-release", NONE, MsFlags::MS_BIND, NONE).unwrap();
        },
        "gate: mount '/usr/lib/os-release': expected no mount over sealed content, found tmpfs ",
        "",
    );
}

/// More mounts than the kernel tells about in one answer.
#[test]
fn sealed_content_covered_after_many_mounts() {
    refuses(
        |_| {
            for number in 0..300 {
                let point = format!("/sysroot/var/{number}");
                fs::create_dir(&point).unwrap();
                tmpfs(&point);
            }
            tmpfs("/sysroot/usr");
        },
        "gate: mount '/usr': expected no mount over sealed content, found tmpfs planted",
        "",
    );
}

/// More options than there is room for in the kernel's answer about one mount.
#[test]
fn harmless_mount_with_many_options() {
    passes(|_| {
        let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
        for number in 0..100 {
            let layer = format!("/run/{}{number}", "layer".repeat(40));
            fs::create_dir(&layer).unwrap();
            rustix::mount::fsconfig_set_string(&context, "lowerdir+", layer).unwrap();
        }
        rustix::mount::fsconfig_create(&context).unwrap();
        let mount = rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).unwrap();
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        rustix::mount::move_mount(&mount, "", CWD, "/sysroot/tmp", flags).unwrap();
    });
}

/// The options of the root's filesystem are its own; those of a disk may change by themselves.
#[test]
fn options_of_filesystems() {
    let remount = |point: &str, flags: MsFlags| mount(NONE, point, NONE, MsFlags::MS_REMOUNT | flags, NONE).unwrap();
    passes(move |_| remount(DISK, MsFlags::MS_SYNCHRONOUS));
    refuses(
        move |_| remount("/sysroot", MsFlags::MS_RDONLY | MsFlags::MS_SYNCHRONOUS),
        "gate: mount '/': expected overlay composefs:",
        ")",
    );
}

/// A mount that someone else makes while the program records its own is not taken for one of them.
#[test]
fn sealed_content_covered_before_the_record() {
    lab::with("sha512", |lab| {
        let report = lab.expect_sealed(&lab.boot(), lab.digest());
        let own: Vec<_> =
            report["mounts"].as_array().unwrap().iter().map(|mount| ("own", mount["id"].as_u64().unwrap())).collect();
        let sysroot = Path::new(lab::SYSROOT);
        assert_eq!(sealroot::steps::gate::record(sysroot, &own, None, &Kernel::new()).unwrap().len(), own.len());
        // One that is gone again by then is missed.
        let gone = [own.as_slice(), &[("var", u64::MAX)]].concat();
        let refusal = sealroot::steps::gate::record(sysroot, &gone, None, &Kernel::new()).unwrap_err().to_string();
        assert!(
            refusal.starts_with("mount '/var': expected mount ") && refusal.ends_with(", found another mount or none")
        );
        tmpfs("/sysroot/usr");
        let refusal = sealroot::steps::gate::record(sysroot, &own, None, &Kernel::new()).unwrap_err().to_string();
        assert_eq!(refusal, "mount '/usr': expected no mount over sealed content, found tmpfs planted");
    });
}

#[test]
fn own_mounts_covered_or_replaced() {
    refuses(|_| tmpfs("/sysroot/etc"), "gate: mount '/etc': expected one mount, found another on top of it", "");
    refuses(|_| tmpfs("/sysroot"), "gate: mount '/': expected one mount, found another on top of it", "");
    refuses(
        |_| {
            umount2("/sysroot/etc", MntFlags::MNT_DETACH).unwrap();
            tmpfs("/sysroot/etc");
        },
        "gate: mount '/etc': expected overlay overlay rw,nosuid,nodev,relatime ",
        ")",
    );
}

#[test]
fn own_mounts_gone_or_changed() {
    refuses(
        |_| umount2("/sysroot/var", MntFlags::empty()).unwrap(),
        "gate: mount '/var': expected ext4 ",
        "found no mount",
    );
    refuses(
        |_| mount(NONE, "/sysroot/var", NONE, MsFlags::MS_REMOUNT | MsFlags::MS_BIND, NONE).unwrap(),
        "gate: mount '/var': expected ext4 ",
        ")",
    );
    refuses(
        |lab| {
            umount2("/sysroot", MntFlags::MNT_DETACH).unwrap();
            lab.mount_sysroot();
        },
        "gate: mount '/': expected overlay composefs:",
        ")",
    );
    refuses(
        |_| umount2("/sysroot", MntFlags::MNT_DETACH).unwrap(),
        "gate: mount '/sysroot': expected the sealed root, found no mount",
        "",
    );
}

/// The same directory with the same flags, but another mount: nobody knows what was done in between.
#[test]
fn own_mount_replaced_by_its_like() {
    after(
        |lab| {
            umount2("/sysroot/var", MntFlags::MNT_DETACH).unwrap();
            mount(Some(&lab.state_path("var")), "/sysroot/var", NONE, MsFlags::MS_BIND, NONE).unwrap();
            let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
            mount(NONE, "/sysroot/var", NONE, flags, NONE).unwrap();
        },
        |lab, run| {
            let reason = lab.report()["reason"].as_str().unwrap_or_else(|| panic!("{run:?}")).to_owned();
            let both =
                reason.strip_prefix("gate: mount '/var': expected ").and_then(|both| both.split_once(", found "));
            let (expected, found) = both.unwrap_or_else(|| panic!("{reason}"));
            let like = |text: &str| text.rsplit_once(" (mount ").map(|(like, _)| like.to_owned());
            assert_eq!(like(expected), like(found), "{reason}");
            lab.expect_refused(run, &reason);
        },
    );
}

/// As above, and the other mount has the number in mountinfo that the first one had. Before Linux 6.8 there is nothing
/// else to tell them apart by.
#[test]
fn own_mount_replaced_by_its_like_with_its_number() {
    if Release::running() < Release(6, 8) {
        return passes(take_the_place_of_var);
    }
    refuses(take_the_place_of_var, "gate: mount '/var': expected ext4 ", ")");
}

fn take_the_place_of_var(lab: &Lab) {
    let number = || lab.mount_of("/sysroot/var").unwrap().id;
    let before = number();
    umount2("/sysroot/var", MntFlags::MNT_DETACH).unwrap();
    fs::create_dir("/run/others").unwrap();
    for _ in 0..1000 {
        mount(Some(&lab.state_path("var")), "/sysroot/var", NONE, MsFlags::MS_BIND, NONE).unwrap();
        if number() == before {
            break;
        }
        // Somebody else's mount takes the lowest number that is free.
        umount2("/sysroot/var", MntFlags::empty()).unwrap();
        tmpfs("/run/others");
    }
    assert_eq!(number(), before);
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(NONE, "/sysroot/var", NONE, flags, NONE).unwrap();
}

#[test]
fn a_second_run_looks_as_closely() {
    lab::with("sha512", |lab| {
        lab.expect_sealed(&lab.boot(), lab.digest());
        tmpfs("/sysroot/usr");
        let message = "earlier-run: mount '/usr': expected no mount over sealed content, found tmpfs planted";
        lab.expect_refused(&lab.run(&[]), message);
    });
}

#[test]
fn the_program_never_ran() {
    lab::with("sha512", |lab| {
        lab.mount_sysroot();
        let message = "gate: no report of a sealed root: the boot program did not run, or did not finish";
        lab.expect_refused(&lab.run(&["gate"]), message);
    });
}

#[test]
fn a_report_that_says_nothing_was_asked_for() {
    lab::with("sha512", |lab| {
        lab.mount_sysroot();
        fs::create_dir("/run/sealroot").unwrap();
        fs::write("/run/sealroot/report.json", r#"{"schema":2,"verdict":"not-requested"}"#).unwrap();
        let message = "gate: expected a sealed root, found a report that none was asked for";
        lab.expect_refused(&lab.run(&["gate"]), message);
    });
}

#[test]
fn a_report_that_is_none() {
    lab::with("sha512", |lab| {
        lab.mount_sysroot();
        fs::create_dir("/run/sealroot").unwrap();
        fs::write("/run/sealroot/report.json", "garbage").unwrap();
        let run = lab.run(&["gate"]);
        let reason = lab.report()["reason"].as_str().unwrap().to_owned();
        assert!(reason.starts_with("gate: '/run/sealroot/report.json': "), "{reason}");
        lab.expect_refused(&run, &reason);
    });
}

/// The unit for failures, where the program left no verdict.
#[test]
fn killed_before_a_verdict() {
    lab::with("sha512", |lab| {
        lab.mount_sysroot();
        let message = "earlier-run: expected a verdict, found none: the boot program was killed, or the physical \
                       root was never mounted";
        lab.expect_refused(&lab.run(&["refused"]), message);
        // And then nothing else helps.
        lab.expect_refused_again(&lab.boot(), &format!("earlier-run: refused before: {message}"));
    });
}

#[test]
fn work_that_a_killed_run_left() {
    lab::with("sha512", |lab| {
        fs::create_dir_all("/run/sealroot/work").unwrap();
        tmpfs("/run/sealroot/work");
        fs::create_dir("/run/sealroot/work/image").unwrap();
        assert!(Path::new("/run/sealroot/work/image").exists());
        // On a kernel that needs the place.
        lab.expect_sealed(&lab.boot_on(&mut Release(6, 14)), lab.digest());
    });
}
