//! Bytes changed on the block device, below the filesystem: refused, or an error at read, never wrong content.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::OnceLock;

use crate::expect::{Snapshot, snapshot};
use crate::lab::{self, Lab, write};

const EIO: i32 = 5;

/// What the sealed root holds when nothing is damaged.
fn reference() -> &'static Snapshot {
    static REFERENCE: OnceLock<Snapshot> = OnceLock::new();
    REFERENCE.get_or_init(|| {
        let (sender, receiver) = std::sync::mpsc::channel();
        lab::with("sha512", move |lab| {
            lab.expect_sealed(&lab.boot(), lab.digest());
            sender.send(snapshot()).unwrap();
        });
        let found = receiver.recv().unwrap();
        assert!(found.len() > 4000 && found.values().all(Result::is_ok), "{} entries", found.len());
        found
    })
}

/// Everything that is there is as it was, or an input/output error. Returns the number of errors.
fn expect_no_wrong_content() -> usize {
    let found = snapshot();
    let mut errors = 0;
    for (path, description) in &found {
        match description {
            Err(code) => {
                assert_eq!(*code, EIO, "{}", path.display());
                errors += 1;
            }
            Ok(_) => assert_eq!(reference().get(path), Some(description), "{}", path.display()),
        }
    }
    if errors == 0 {
        assert_eq!(found.len(), reference().len());
    }
    errors
}

fn refused_with_check_image(place: impl FnOnce(&Lab, &Path) -> (u64, u64) + Send + 'static) {
    lab::with("sha512", move |lab| {
        let image = lab.image_path();
        let (block, byte) = place(lab, &image);
        lab.flip(&image, block, byte);
        let message = format!(
            "look-inside: {}: expected content that belongs to its digest, found damage: <errno 5>",
            lab.image()
        );
        lab.expect_refused(&lab.boot(), &message);
    });
}

#[test]
fn image_block_first() {
    refused_with_check_image(|_, _| (0, 1030));
}

#[test]
fn image_block_in_the_middle() {
    refused_with_check_image(|lab, image| (lab.blocks(image) / 2, 99));
}

#[test]
fn image_block_last() {
    refused_with_check_image(|lab, image| (lab.blocks(image) - 1, 0));
}

#[test]
fn merkle_tree() {
    refused_with_check_image(|lab, image| (lab.verity_blocks(image).0, 0));
    // The block that holds the hashes of the first data blocks lies behind the root of the tree.
    refused_with_check_image(|lab, image| (lab.verity_blocks(image).0 + 1, 0));
}

#[test]
fn descriptor_with_another_root_hash() {
    for check in ["image", "digest"] {
        lab::with("sha512", move |lab| {
            lab.config(&format!("[policy]\ncheck = \"{check}\"\n"));
            let image = lab.image_path();
            lab.flip(&image, lab.verity_blocks(&image).1, 16);
            let run = lab.boot();
            let expected = format!("measure: {}: expected sha512:{}, measured sha512:", lab.image(), lab.digest());
            let reason = lab.report()["reason"].as_str().unwrap().to_owned();
            assert!(reason.starts_with(&expected), "{reason}");
            lab.expect_refused(&run, &reason);
        });
    }
}

#[test]
fn descriptor_of_an_unknown_version() {
    for check in ["image", "digest"] {
        lab::with("sha512", move |lab| {
            lab.config(&format!("[policy]\ncheck = \"{check}\"\n"));
            let image = lab.image_path();
            lab.flip(&image, lab.verity_blocks(&image).1, 0);
            let message = format!(
                "measure: {}: expected sha512:{}, found a file that cannot be opened (damaged fs-verity metadata?): \
                 <errno 22>",
                lab.image(),
                lab.digest()
            );
            lab.expect_refused(&lab.boot(), &message);
        });
    }
}

/// With `check = "digest"` nothing looks at the damaged block before the pivot, unless the mount needs it.
#[test]
fn check_digest_never_gives_wrong_content() {
    reference();
    let mut sealed = 0;
    for place in 0..8 {
        let (sender, receiver) = std::sync::mpsc::channel();
        lab::with("sha512", move |lab| {
            lab.config("[policy]\ncheck = \"digest\"\n");
            let image = lab.image_path();
            let (tree, _) = lab.verity_blocks(&image);
            let blocks = lab.blocks(&image);
            let block = match place {
                0 => 0,
                6 => tree,
                7 => tree + 1,
                part => (blocks - 1) * part / 5,
            };
            lab.flip(&image, block, 7);
            let run = lab.boot();
            if run.status == Some(0) {
                lab.expect_sealed(&run, lab.digest());
                assert_ne!(expect_no_wrong_content(), 0, "block {block} is not read by anything");
                sender.send(()).unwrap();
            } else {
                let reason = lab.report()["reason"].as_str().unwrap().to_owned();
                assert!(reason.ends_with("(os error 5)") || reason.ends_with("(os error 117)"), "{reason}");
                lab.expect_refused(&run, &reason);
            }
        });
        sealed += usize::from(receiver.try_recv().is_ok());
    }
    assert_ne!(sealed, 0, "no damage was left for the reads to find");
}

/// Boots with one object changed and expects the error of reading it, and everything else as it was.
fn object_changed(change: impl FnOnce(&Lab, &Path) + Send + 'static) {
    reference();
    lab::with("sha512", move |lab| {
        change(lab, &lab.object_path("OBJECT_TEXT"));
        lab.expect_sealed(&lab.boot(), lab.digest());
        let found = snapshot();
        assert_eq!(found.len(), reference().len());
        for (path, description) in &found {
            let name = path.file_name().unwrap().to_str().unwrap();
            if ["text", "hardlink"].contains(&name) {
                assert!(description.is_err(), "{} can be read", path.display());
            } else {
                assert_eq!(reference().get(path), Some(description), "{}", path.display());
            }
        }
        let code = fs::read("/sysroot/usr/share/text").unwrap_err().raw_os_error();
        assert_eq!(code, found[Path::new("/sysroot/usr/share/text")].as_ref().err().copied());
    });
}

#[test]
fn object_missing() {
    object_changed(|_, object| fs::remove_file(object).unwrap());
}

#[test]
fn object_swapped_for_another_good_one() {
    object_changed(|lab, object| {
        fs::remove_file(object).unwrap();
        fs::hard_link(lab.object_path("OBJECT_BIG"), object).unwrap();
    });
}

#[test]
fn object_without_verity() {
    object_changed(|_, object| {
        let content = fs::read(object).unwrap();
        fs::remove_file(object).unwrap();
        write(object, &content);
    });
}

#[test]
fn object_that_is_a_link_to_another_file() {
    object_changed(|_, object| {
        fs::remove_file(object).unwrap();
        symlink("/etc/passwd", object).unwrap();
    });
}

#[test]
fn object_with_a_changed_byte() {
    object_changed(|lab, object| lab.flip(object, 3, 5));
}

#[test]
fn init_with_a_changed_byte() {
    lab::with("sha512", |lab| {
        lab.flip(&lab.object_path("OBJECT_INIT"), 1, 5);
        let message = "prove: new root: '/usr/lib/systemd/systemd': expected content that belongs to the image, \
                       found damage: <errno 5>";
        lab.expect_refused(&lab.boot(), message);
    });
}

#[test]
fn interpreter_with_a_changed_byte() {
    lab::with("sha512", |lab| {
        lab.flip(&lab.object_path("OBJECT_INTERPRETER"), 7, 5);
        let message = "prove: new root: '/lib64/ld-linux-x86-64.so.2': expected content that belongs to the image, \
                       found damage: <errno 5>";
        lab.expect_refused(&lab.boot(), message);
    });
}

#[test]
fn os_release_with_a_changed_byte() {
    lab::with("sha512", |lab| {
        lab.flip(&lab.object_path("OBJECT_OS_RELEASE"), 0, 5);
        let message = "prove: new root: '/usr/lib/os-release': expected content that belongs to the image, found \
                       damage: <errno 5>";
        lab.expect_refused(&lab.boot(), message);
    });
}

#[test]
fn os_release_without_its_object() {
    lab::with("sha512", |lab| {
        fs::remove_file(lab.object_path("OBJECT_OS_RELEASE")).unwrap();
        let object = lab.expected_object("OBJECT_OS_RELEASE");
        let message = format!("prove: new root: '/usr/lib/os-release': {object}, found none: <errno 2>");
        lab.expect_refused(&lab.boot(), &message);
    });
}

#[test]
fn init_without_its_object() {
    lab::with("sha512", |lab| {
        fs::remove_file(lab.object_path("OBJECT_INIT")).unwrap();
        let object = lab.expected_object("OBJECT_INIT");
        let message = format!("prove: new root: '/usr/lib/systemd/systemd': {object}, found none: <errno 2>");
        lab.expect_refused(&lab.boot(), &message);
    });
}

/// What is in an object's place and is none, in the words of the refusal.
#[test]
fn init_with_something_else_for_its_object() {
    let refused = |change: fn(&Path), found: &'static str| {
        lab::with("sha512", move |lab| {
            let object = lab.object_path("OBJECT_INIT");
            fs::rename(&object, object.with_extension("moved")).unwrap();
            change(&object);
            let expected = lab.expected_object("OBJECT_INIT");
            let message = format!("prove: new root: '/usr/lib/systemd/systemd': {expected}, {found}");
            lab.expect_refused(&lab.boot(), &message);
        });
    };
    refused(|object| write(object, b"other"), "found a file without fs-verity: <errno 5>");
    refused(|object| fs::create_dir(object).unwrap(), "found a directory: <errno 2>");
    refused(
        |object| symlink(object.with_extension("moved").file_name().unwrap(), object).unwrap(),
        "found a symbolic link: <errno 2>",
    );
    refused(|object| symlink("/etc/passwd", object).unwrap(), "found a symbolic link: <errno 2>");
}

#[test]
fn init_swapped_for_another_object() {
    lab::with("sha512", |lab| {
        let object = lab.object_path("OBJECT_INIT");
        fs::remove_file(&object).unwrap();
        fs::hard_link(lab.object_path("OBJECT_BIG"), &object).unwrap();
        let (expected, other) = (lab.expected_object("OBJECT_INIT"), lab.expected_object("OBJECT_BIG"));
        let measured = other.split_once(": expected ").unwrap().1;
        let message =
            format!("prove: new root: '/usr/lib/systemd/systemd': {expected}, measured {measured}: <errno 5>");
        lab.expect_refused(&lab.boot(), &message);
    });
}

#[test]
fn inits_of_the_command_line() {
    for (init, message) in [
        (
            "/etc/hostname",
            Some("prove: new root: '/etc/hostname': expected a sealed file, found one on another mount: <errno 18>"),
        ),
        (
            "/sysroot/state",
            Some("prove: new root: '/sysroot/state': expected a sealed file, found one on another mount: <errno 18>"),
        ),
        ("/nowhere", Some("prove: new root: '/nowhere': <errno 2>")),
        ("relative", Some("prove: karg 'init': expected an absolute path, found 'relative'")),
        ("/usr/share", Some("prove: new root: '/usr/share': expected a regular file, found a directory")),
        // systemd takes the last one.
        ("/sbin/init init=/nowhere", Some("prove: new root: '/nowhere': <errno 2>")),
        ("/sbin/init", None),
        ("/usr/bin/busybox", None),
    ] {
        lab::with("sha512", move |lab| {
            lab.command_line(&format!("{} init={init}", lab.karg("V1")));
            let run = lab.boot();
            match message {
                Some(message) => lab.expect_refused(&run, message),
                None => assert_eq!(lab.expect_sealed(&run, lab.digest())["init"], init),
            }
        });
    }
}
