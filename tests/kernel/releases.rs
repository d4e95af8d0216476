//! The program on a kernel as other releases are: it finds the form that each one knows, and says in the report which.

use std::fs;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};

use crate::kernel::Release;
use crate::lab::{self, Lab, SYSROOT};

const NONE: Option<&str> = None;

/// What the report says about the kernel, by the release that could first.
pub fn features(release: Release) -> Value {
    let form = |since, new: &'static str, old: &'static str| if release >= since { new } else { old };
    json!({
        "erofs": form(Release(6, 12), "file", "loop"),
        "layers": form(Release(6, 15), "fd", form(Release(6, 7), "path", "list")),
        "mounts": form(Release(6, 15), "detached", "attached"),
        "mount_table": form(Release(6, 13), "statmount", "mountinfo"),
        "mount_ids": form(Release(6, 8), "unique", "reused"),
    })
}

/// The sealed root works, and goes without a trace.
pub fn expect_usable(lab: &Lab) {
    assert!(fs::read_to_string("/sysroot/usr/lib/os-release").unwrap().contains("Sealed fixture"));
    fs::write("/sysroot/etc/new", "a").unwrap();
    fs::write("/sysroot/var/new", "a").unwrap();
    assert_eq!(fs::read_to_string(lab.state_path("etc").join("upper/new")).unwrap(), "a");
    umount2(SYSROOT, MntFlags::MNT_DETACH).unwrap();
    lab.expect_loop_devices(0);
}

/// Everything, as on an older release; on one that is older still, as on that.
fn boots_as(mut release: Release) {
    lab::with("sha512", move |lab| {
        let report = lab.expect_sealed(&lab.boot_on(&mut release), lab.digest());
        assert_eq!(report["kernel"], features(release.min(Release::running())));
        let gate = lab.run_on(&mut release, &["gate"]);
        assert_eq!((gate.status, gate.log.len()), (Some(0), 0), "{gate:?}");
        let again = lab.run_on(&mut release, &[]);
        assert_eq!(again.log, ["5 sealroot: sealed root in place already at '/sysroot'"], "{again:?}");
        expect_usable(lab);
    });
    // What a transient root hides is looked at in the private place.
    lab::with("sha512", move |lab| {
        lab.config("[root]\ntransient = true\n");
        let run = lab.boot_on(&mut release);
        assert_eq!((run.status, run.ending.left_open.as_ref().map(|files| files.len())), (Some(0), Some(0)), "{run:?}");
        assert_eq!(lab.report()["kernel"]["mounts"], "attached");
        assert!(!Path::new("/run/sealroot/work").exists());
        fs::write("/sysroot/usr/new", "a").unwrap();
        umount2(SYSROOT, MntFlags::MNT_DETACH).unwrap();
        lab.expect_loop_devices(0);
    });
}

/// Refusals at every step leave nothing behind either.
fn refuses_as(mut release: Release) {
    lab::with("sha512", move |lab| {
        lab.flip(&lab.image_path(), 1, 7);
        let run = lab.boot_on(&mut release);
        let reason = lab.report()["reason"].as_str().unwrap().to_owned();
        assert!(reason.starts_with("look-inside: image '"), "{reason}");
        lab.expect_refused(&run, &reason);
    });
    lab::with("sha512", move |lab| {
        let directory = format!("state/deploy/{}/var", lab.digest());
        fs::remove_dir_all(lab.path(&directory)).unwrap();
        let message = format!(
            "assemble: state directory '{directory}': expected a directory, or var.mount = \"transient\": <errno 2>"
        );
        lab.expect_refused(&lab.boot_on(&mut release), &message);
    });
    lab::with("sha512", move |lab| {
        lab.flip(&lab.object_path("OBJECT_OS_RELEASE"), 0, 5);
        let message = "prove: new root: '/usr/lib/os-release': expected content that belongs to the image, found \
                       damage: <errno 5>";
        lab.expect_refused(&lab.boot_on(&mut release), message);
    });
    lab::with("sha512", move |lab| {
        lab.expect_sealed(&lab.boot_on(&mut release), lab.digest());
        mount(Some("planted"), "/sysroot/usr", Some("tmpfs"), MsFlags::empty(), NONE).unwrap();
        let message = "gate: mount '/usr': expected no mount over sealed content, found tmpfs planted";
        lab.expect_refused(&lab.run_on(&mut release, &["gate"]), message);
    });
}

#[test]
fn boots_as_linux_6_6() {
    boots_as(Release(6, 6));
}

#[test]
fn boots_as_linux_6_7() {
    boots_as(Release(6, 7));
}

#[test]
fn boots_as_linux_6_8() {
    boots_as(Release(6, 8));
}

#[test]
fn boots_as_linux_6_11() {
    boots_as(Release(6, 11));
}

#[test]
fn boots_as_linux_6_12() {
    boots_as(Release(6, 12));
}

#[test]
fn boots_as_linux_6_14() {
    boots_as(Release(6, 14));
}

#[test]
fn boots_as_itself() {
    boots_as(Release::running());
}

#[test]
fn refuses_as_linux_6_6() {
    refuses_as(Release(6, 6));
}

#[test]
fn refuses_as_linux_6_14() {
    refuses_as(Release(6, 14));
}

#[test]
fn refuses_as_itself() {
    refuses_as(Release::running());
}

/// Both ways of asking about mounts give the same words.
#[test]
fn the_same_mount_tree_by_either_way() {
    let tree = |mut release: Release| {
        let (sender, receiver) = std::sync::mpsc::channel();
        lab::with("sha512", move |lab| {
            let mut report = lab.expect_sealed(&lab.boot_on(&mut release), lab.digest());
            let mut mounts = report["mounts"].take();
            for mount in mounts.as_array_mut().unwrap() {
                for (key, value) in mount.as_object_mut().unwrap() {
                    match key.as_str() {
                        "id" | "parent" => assert!(value.take().as_u64().unwrap() > 0),
                        // Layers are named by descriptors or by where they are attached, not by the table.
                        "options" => value.as_array_mut().unwrap().retain(|option| {
                            !["lowerdir", "datadir", "upperdir", "workdir"]
                                .iter()
                                .any(|layer| option.as_str().unwrap().starts_with(layer))
                        }),
                        _ => {}
                    }
                }
            }
            sender.send((report["kernel"]["mount_table"].clone(), mounts)).unwrap();
        });
        receiver.recv().unwrap()
    };
    let (old_way, old) = tree(Release(6, 12));
    let (new_way, new) = tree(Release::running());
    assert_eq!(old_way, "mountinfo");
    assert_eq!(new_way == "statmount", Release::running() >= Release(6, 13));
    assert_eq!(old, new);
    assert_eq!(new.as_array().unwrap().len(), 4);
}

/// A physical root that is read-only is asked about first, and has no options to tell.
#[test]
fn the_form_of_the_mount_table_on_a_read_only_root() {
    lab::with("sha512", |lab| {
        lab.make_read_only();
        let report = lab.expect_sealed(&lab.boot(), lab.digest());
        assert_eq!(report["kernel"], features(Release::running()));
        let gate = lab.run(&["gate"]);
        assert_eq!((gate.status, gate.log.len()), (Some(0), 0), "{gate:?}");
    });
}
