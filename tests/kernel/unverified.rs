//! `unverified = "allow-without-secure-boot"`: what a `?` in the karg gets on a machine without Secure Boot.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use nix::mount::MsFlags;

use crate::lab::{self, Lab, Run, SYSROOT, mount_at, write};

const ALLOW: &str = "[policy]\nunverified = \"allow-without-secure-boot\"\n";

fn asked(lab: &Lab) {
    lab.config(ALLOW);
    lab.command_line(&lab.karg("V1").replacen('=', "=?", 1));
}

/// The physical root is a tmpfs, which has no fs-verity.
fn boot_from_tmpfs(lab: &Lab, change: impl FnOnce(&Path)) -> Run {
    mount_at("lab", SYSROOT, Some("tmpfs"), MsFlags::empty());
    let source = format!("{}/.", lab.path("").display());
    assert!(Command::new("cp").args(["-a", &source, SYSROOT]).status().unwrap().success());
    change(Path::new(SYSROOT));
    lab.run(&[])
}

/// The root is there, and everything says that nobody verifies it.
fn expect_unverified(lab: &Lab, run: &Run) {
    assert_eq!((run.status, run.stderr.as_str()), (Some(0), ""), "{run:?}");
    let warning = format!("4 sealroot: UNVERIFIED root in place at '/sysroot': composefs:{}", lab.digest());
    assert!(run.log.iter().any(|line| line.starts_with(&warning)), "{run:?}");
    assert!(!run.log.iter().any(|line| line.contains("sealed root in place")), "{run:?}");
    let report = lab.report();
    assert_eq!((&report["verdict"], &report["digest"]), (&"unverified".into(), &lab.digest().into()));
    let setting = &report["policy"]["policy.unverified"];
    assert_eq!(setting["value"], "allow-without-secure-boot");
    assert_eq!(setting["from"], "/usr/lib/sealroot/sealroot.toml");
    let root = lab.mount_of(SYSROOT).expect("a mount at /sysroot");
    assert!(!root.options.iter().any(|option| option.starts_with("verity=r")), "{:?}", root.options);
    assert!(fs::read_to_string("/sysroot/usr/share/text").unwrap().starts_with("text 1\n"));
}

#[test]
fn a_filesystem_without_verity() {
    for check in ["digest", "image", "objects", "data"] {
        lab::with("sha512", move |lab| {
            asked(lab);
            lab.config(&format!("{ALLOW}check = \"{check}\"\n"));
            let run = boot_from_tmpfs(lab, |_| ());
            expect_unverified(lab, &run);
            let gate = lab.run(&["gate"]);
            assert_eq!((gate.status, gate.log.len()), (Some(0), 0), "{gate:?}");
        });
    }
}

#[test]
fn an_image_without_verity() {
    lab::with("sha512", |lab| {
        asked(lab);
        let content = fs::read(lab.image_path()).unwrap();
        fs::remove_file(lab.image_path()).unwrap();
        write(&lab.image_path(), &content);
        expect_unverified(lab, &lab.boot());
    });
}

/// It is no leave to boot something else.
#[test]
fn another_image() {
    lab::with("sha512", |lab| {
        asked(lab);
        let other = lab.value("OTHER");
        let content = fs::read(lab.path("composefs/images").join(other)).unwrap();
        fs::remove_file(lab.image_path()).unwrap();
        write(&lab.image_path(), &content);
        let (image, digest) = (lab.image(), lab.digest());
        let message = format!("measure: {image}: expected sha512:{digest}, computed sha512:{other}");
        lab.expect_refused(&lab.boot(), &message);
    });
}

/// No check of what is read has anything to read to its end.
#[test]
fn an_image_without_end() {
    for check in ["digest", "image"] {
        lab::with("sha512", move |lab| {
            asked(lab);
            lab.config(&format!("{ALLOW}check = \"{check}\"\n"));
            let run = boot_from_tmpfs(lab, |root| {
                let image = root.join("composefs/images").join(lab.digest());
                fs::remove_file(&image).unwrap();
                File::create(&image).unwrap().set_len(0xff_ffff_f000).unwrap();
            });
            let message = format!(
                "measure: {}: expected at most 1073741824 bytes without fs-verity, found 1099511623680",
                lab.image()
            );
            lab.expect_refused(&run, &message);
        });
    }
}

#[test]
fn objects_that_are_others() {
    lab::with("sha512", |lab| {
        asked(lab);
        lab.config(&format!("{ALLOW}check = \"objects\"\n"));
        let object = lab.value("OBJECT_BIG");
        let other = lab.expected_object("OBJECT_TEXT");
        let run = boot_from_tmpfs(lab, |root| {
            let content = fs::read(root.join("composefs").join(lab.value("OBJECT_TEXT"))).unwrap();
            write(&root.join("composefs").join(object), &content);
        });
        let computed = other.split_once(": expected ").unwrap().1;
        let message = format!("objects: '/usr/share/big': {}, computed {computed}", lab.expected_object("OBJECT_BIG"));
        lab.expect_refused(&run, &message);
    });
}

/// An image that has fs-verity is verified, and then all the rest is.
#[test]
fn an_image_with_verity() {
    lab::with("sha512", |lab| {
        asked(lab);
        lab.expect_sealed(&lab.boot(), lab.digest());
    });
}

#[test]
fn not_asked_for() {
    lab::with("sha512", |lab| {
        lab.config(ALLOW);
        let run = boot_from_tmpfs(lab, |_| ());
        let message = format!(
            "measure: {}: expected sha512:{}, found a filesystem without fs-verity, tmpfs: ext4 with the feature \
             'verity', btrfs and f2fs have it: <errno 25>",
            lab.image(),
            lab.digest()
        );
        lab.expect_refused(&run, &message);
    });
}

#[test]
fn not_allowed() {
    lab::with("sha512", |lab| {
        asked(lab);
        lab.config("");
        let message = "ask: kernel command line: expected verification to be required (policy.unverified = \"refuse\"), \
                       found '?' in karg 'composefs.digest'";
        lab.expect_refused(&boot_from_tmpfs(lab, |_| ()), message);
    });
}

/// The report of an unverified boot opens the gate only where the inputs say the same.
#[test]
fn the_gate_decides_again() {
    lab::with("sha512", |lab| {
        asked(lab);
        expect_unverified(lab, &boot_from_tmpfs(lab, |_| ()));
        lab.command_line(&lab.karg("V1"));
        lab.expect_refused(&lab.run(&["gate"]), "gate: expected a sealed root, found a report of an unverified one");
    });
}
