//! Mounts that the boot program did not make, wherever sealed content is shown.

use std::fs;
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags};

use super::{after, bind, make_private, passes, passes_with, refuses, refuses_with, tmpfs};
use crate::kernel::Release;
use crate::lab::{self, Lab};

const ETC_OVERLAY: &str = "[etc]\nmount = \"overlay\"\n";
const ETC_TRANSIENT: &str = "[etc]\nmount = \"transient\"\n";
const ETC_BIND: &str = "[etc]\nmount = \"bind\"\n";
const ETC_SEALED: &str = "[etc]\nmount = \"none\"\n";
const VAR_TRANSIENT: &str = "[root]\ntransient = true\n[var]\nmount = \"transient\"\n";
/// /etc can be written to, and is on the root's own mount.
const ROOT_TRANSIENT: &str = "[root]\ntransient = true\n[etc]\nmount = \"none\"\n";

const COVERED: &str = "gate: mount '/etc/default': expected no mount over sealed content, found tmpfs planted";

#[test]
fn over_what_etc_shows_of_the_sealed_one() {
    for config in [ETC_OVERLAY, ETC_TRANSIENT, ETC_SEALED] {
        refuses_with(config, |_| tmpfs("/sysroot/etc/default"), COVERED, "");
        refuses_with(
            config,
            |_| bind("/sysroot/var/lib", "/sysroot/etc/default", MsFlags::empty()),
            "gate: mount '/etc/default': expected no mount over sealed content, found ext4 /dev/",
            "",
        );
        refuses_with(
            config,
            |_| bind("/dev/null", "/sysroot/etc/hostname", MsFlags::empty()),
            "gate: mount '/etc/hostname': expected no mount over sealed content, found devtmpfs dev",
            "",
        );
    }
}

/// A directory of units need not hold any to be what the image says.
#[test]
fn over_an_empty_directory_of_etc() {
    let message = "gate: mount '/etc/new': expected no mount over sealed content, found tmpfs planted";
    for config in [ETC_OVERLAY, ETC_TRANSIENT, ROOT_TRANSIENT] {
        let change = |_: &Lab| {
            fs::create_dir("/sysroot/etc/new").unwrap();
            tmpfs("/sysroot/etc/new");
        };
        refuses_with(config, change, message, "");
    }
}

#[test]
fn over_programs_of_a_root_without_merged_usr() {
    let change = |_: &Lab| {
        fs::remove_file("/sysroot/lib").unwrap();
        fs::create_dir_all("/sysroot/lib/systemd").unwrap();
        tmpfs("/sysroot/lib/systemd");
    };
    let message = "gate: mount '/lib/systemd': expected no mount over sealed content, found tmpfs planted";
    refuses_with(ROOT_TRANSIENT, change, message, "");
}

/// The state of the machine, where it may mount what it likes.
#[test]
fn over_an_etc_of_the_machine() {
    passes_with(ETC_BIND, |_| {
        fs::create_dir("/sysroot/etc/systemd").unwrap();
        tmpfs("/sysroot/etc/systemd");
        fs::write("/sysroot/etc/file", "").unwrap();
        bind("/dev/null", "/sysroot/etc/file", MsFlags::empty());
    });
}

#[test]
fn over_what_var_shows_of_the_sealed_one() {
    // Empty in the image, or the machine's own.
    passes_with(VAR_TRANSIENT, |_| {
        tmpfs("/sysroot/var/lib");
        fs::create_dir("/sysroot/var/new").unwrap();
        fs::write("/sysroot/var/new/file", "").unwrap();
        tmpfs("/sysroot/var/new");
    });
    // Something is there in the root below, whatever /var makes of it.
    let change = |_: &Lab| {
        fs::create_dir("/run/root").unwrap();
        bind("/sysroot", "/run/root", MsFlags::empty());
        fs::write("/run/root/var/lib/file", "").unwrap();
        tmpfs("/sysroot/var/lib");
    };
    let message = "gate: mount '/var/lib': expected no mount over sealed content, found tmpfs planted";
    refuses_with(VAR_TRANSIENT, change, message, "");
}

#[test]
fn over_other_own_mounts() {
    let message = |point| format!("gate: mount '{point}': expected one mount, found another on top of it").leak();
    refuses(|_| tmpfs("/sysroot/var"), message("/var"), "");
    refuses(|_| tmpfs("/sysroot/sysroot"), message("/sysroot"), "");
}

/// /etc looks as it did, but lies on another mount now.
#[test]
fn beneath_an_own_mount() {
    if Release::running() < Release(6, 5) {
        return;
    }
    let change = |_: &Lab| {
        fs::create_dir("/run/beneath").unwrap();
        tmpfs("/run/beneath");
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let copy = rustix::mount::open_tree(CWD, "/run/beneath", flags).unwrap();
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::from_bits_retain(BENEATH);
        rustix::mount::move_mount(&copy, "", CWD, "/sysroot/etc", flags).unwrap();
    };
    refuses(change, "gate: mount '/etc': expected ", "");
}

/// `MOVE_MOUNT_BENEATH` of `linux/mount.h`
const BENEATH: u32 = 0x200;

/// What is mounted on a copy of a shared mount is mounted on that, too.
#[test]
fn by_way_of_a_copy() {
    let on_a_copy_of = |original: &'static str, name: &'static str| {
        move |_: &Lab| {
            fs::create_dir("/run/copy").unwrap();
            bind(original, "/run/copy", MsFlags::empty());
            tmpfs(&format!("/run/copy/{name}"));
        }
    };
    let usr = "gate: mount '/usr': expected no mount over sealed content, found tmpfs planted";
    refuses(on_a_copy_of("/sysroot", "usr"), usr, "");
    refuses(on_a_copy_of("/sysroot/etc", "default"), COVERED, "");
    passes(on_a_copy_of("/sysroot", "srv"));
}

/// Whatever will be mounted there covers what is sealed, once somebody looks.
#[test]
fn automounts() {
    let autofs = |point: &str| {
        let (reader, writer) = std::io::pipe().unwrap();
        let options = format!("fd={},minproto=5,maxproto=5,direct", writer.as_raw_fd());
        mount(Some("planted"), point, Some("autofs"), MsFlags::empty(), Some(options.as_str())).unwrap();
        // As long as this program runs: without it the kernel would not wait, but fail.
        std::mem::forget((reader, writer));
    };
    passes(move |_| autofs("/sysroot/srv"));
    for point in ["/sysroot/usr/share", "/sysroot/etc/default"] {
        let inside = point.strip_prefix("/sysroot").unwrap();
        let message = format!("gate: mount '{inside}': expected no mount over sealed content, found autofs planted");
        refuses(move |_| autofs(point), message.leak(), "");
    }
}

/// systemd would leave it there.
#[test]
fn in_place_of_what_systemd_takes_along() {
    for directory in ["run", "dev", "proc", "sys"] {
        let message =
            |found| format!("gate: mount '/{directory}': expected the initramfs's own or none, found {found}").leak();
        let point = format!("/sysroot/{directory}");
        let there = point.clone();
        refuses(move |_| tmpfs(&there), message("tmpfs planted"), "");
        // Neither is a directory of the initramfs's own the right one.
        let (source, there) = (format!("/{directory}/folder"), point.clone());
        let source = if matches!(directory, "proc" | "sys") { format!("/{directory}/fs") } else { source };
        refuses(
            move |_| {
                fs::create_dir_all(&source).unwrap();
                bind(&source, &there, MsFlags::empty());
            },
            message(""),
            "",
        );
    }
}

#[test]
fn what_systemd_takes_along() {
    for directory in ["run", "dev", "proc", "sys"] {
        passes(move |_| bind(&format!("/{directory}"), &format!("/sysroot/{directory}"), MsFlags::empty()));
    }
    // With what is mounted there.
    passes(|_| {
        fs::create_dir("/run/below").unwrap();
        tmpfs("/run/below");
        bind("/run", "/sysroot/run", MsFlags::MS_REC);
        assert!(Path::new("/sysroot/run/below").exists());
    });
}

#[test]
fn changed_in_what_systemd_takes_along() {
    refuses(
        move |_| {
            fs::create_dir("/run/below").unwrap();
            bind("/run", "/sysroot/run", MsFlags::empty());
            make_private("/sysroot/run");
            tmpfs("/sysroot/run/below");
        },
        "gate: mount '/run/below': expected the initramfs's own or none, found tmpfs planted",
        "",
    );
    refuses(
        |_| {
            tmpfs("/sysroot/run");
            bind("/run", "/sysroot/run", MsFlags::empty());
        },
        "gate: mount '/run': expected one mount, found another on top of it",
        "",
    );
    // The initramfs's own, but not what it should be.
    after(
        |_| {
            tmpfs("/sys");
            bind("/sys", "/sysroot/sys", MsFlags::empty());
        },
        |lab, run| {
            umount2("/sys", MntFlags::empty()).unwrap();
            let message = "gate: mount '/sys': expected the initramfs's own or none, found tmpfs planted";
            lab.expect_refused(run, message);
        },
    );
}

#[test]
fn a_second_run_sees_them_too() {
    for (point, reason) in
        [("/etc/default", "expected no mount over sealed content"), ("/run", "expected the initramfs's own or none")]
    {
        lab::with("sha512", move |lab| {
            lab.expect_sealed(&lab.boot(), lab.digest());
            tmpfs(&format!("/sysroot{point}"));
            let message = format!("earlier-run: mount '{point}': {reason}, found tmpfs planted");
            lab.expect_refused(&lab.run(&[]), &message);
        });
    }
}
