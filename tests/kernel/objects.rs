//! `check = "objects"` and `"data"`: every object that the image refers to, before the pivot.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use nix::sys::stat::Mode;

use crate::lab::{self, Lab, write};

const EIO: i32 = 5;
/// A file that no boot needs, and the first of the names that it has in the image.
const OBJECT: &str = "OBJECT_TEXT";
const FILE: &str = "/usr/share/text";
const FIRST_NAME: &str = "/usr/share/hardlink";

fn check(lab: &Lab, level: &str) {
    lab.config(&format!("[policy]\ncheck = \"{level}\"\n"));
}

/// Whatever `change` does to the object: with `levels` it is a refusal that ends in `found`, with the levels below the
/// boot is sealed and the file cannot be read.
fn refused(levels: &'static [&'static str], found: &'static str, change: fn(&Lab, &Path)) {
    for level in levels {
        lab::with("sha512", move |lab| {
            check(lab, level);
            change(lab, &lab.object_path(OBJECT));
            let message = format!("objects: '{FIRST_NAME}': {}, {found}", lab.expected_object(OBJECT));
            lab.expect_refused(&lab.boot(), &message);
        });
    }
    for level in ["digest", "image", "objects"].iter().filter(|level| !levels.contains(level)) {
        lab::with("sha512", move |lab| {
            check(lab, level);
            change(lab, &lab.object_path(OBJECT));
            lab.expect_sealed(&lab.boot(), lab.digest());
            let error = fs::read(Path::new(lab::SYSROOT).join(&FILE[1..])).unwrap_err();
            // A missing object is found missing when the file is opened.
            assert!([EIO, 2].contains(&error.raw_os_error().unwrap()), "{error}");
        });
    }
}

#[test]
fn all_right() {
    for level in ["objects", "data"] {
        for algorithm in ["sha512", "sha256"] {
            lab::with(algorithm, move |lab| {
                check(lab, level);
                let report = lab.expect_sealed(&lab.boot(), lab.digest());
                let checks: Vec<_> = report["checks"].as_array().unwrap().iter().map(|check| &check["name"]).collect();
                let place = checks.iter().position(|name| *name == "objects").unwrap_or_else(|| panic!("{checks:?}"));
                assert_eq!((checks[place - 1], checks[place + 1]), (&"look-inside".into(), &"mount".into()));
            });
        }
    }
    lab::with("sha512", |lab| {
        let report = lab.expect_sealed(&lab.boot(), lab.digest());
        assert!(!report["checks"].as_array().unwrap().iter().any(|check| check["name"] == "objects"));
    });
}

#[test]
fn missing() {
    refused(&["objects", "data"], "found none", |_, object| fs::remove_file(object).unwrap());
}

#[test]
fn another_good_one() {
    lab::with("sha512", |lab| {
        check(lab, "objects");
        let object = lab.object_path(OBJECT);
        fs::remove_file(&object).unwrap();
        fs::hard_link(lab.object_path("OBJECT_BIG"), &object).unwrap();
        let other = lab.expected_object("OBJECT_BIG");
        let measured = other.split_once(": expected ").unwrap().1;
        let message = format!("objects: '{FIRST_NAME}': {}, measured {measured}", lab.expected_object(OBJECT));
        lab.expect_refused(&lab.boot(), &message);
    });
}

#[test]
fn without_verity() {
    refused(&["objects", "data"], "found a file without fs-verity", |_, object| {
        let content = fs::read(object).unwrap();
        fs::remove_file(object).unwrap();
        write(object, &content);
    });
}

#[test]
fn something_else_than_a_file() {
    refused(&["objects", "data"], "found a symbolic link", |lab, object| {
        let aside = lab.path("composefs/aside");
        fs::rename(object, &aside).unwrap();
        symlink(aside, object).unwrap();
    });
    refused(&["objects", "data"], "found a directory", |_, object| {
        fs::remove_file(object).unwrap();
        fs::create_dir(object).unwrap();
    });
    // A plain open would wait for ever.
    refused(&["objects", "data"], "found a FIFO", |_, object| {
        fs::remove_file(object).unwrap();
        nix::unistd::mkfifo(object, Mode::from_bits_truncate(0o644)).unwrap();
    });
}

#[test]
fn with_a_changed_byte() {
    refused(&["data"], "found damage (<errno 5>)", |lab, object| lab.flip(object, 3, 5));
}

#[test]
fn with_a_changed_merkle_tree() {
    refused(&["data"], "found damage (<errno 5>)", |lab, object| lab.flip(object, lab.verity_blocks(object).0, 0));
}

#[test]
fn with_a_changed_descriptor() {
    refused(&["objects", "data"], "found a file that cannot be opened or measured (<errno 22>)", |lab, object| {
        lab.flip(object, lab.verity_blocks(object).1, 0);
    });
}

/// Several threads look, one failure is told: always the same, that of the object whose digest comes first.
#[test]
fn the_first_of_many() {
    lab::with("sha512", |lab| {
        check(lab, "objects");
        let names = ["OBJECT_BIG", "OBJECT_TEXT", "OBJECT_INIT", "OBJECT_OS_RELEASE"];
        for name in names {
            fs::remove_file(lab.object_path(name)).unwrap();
        }
        let first = names.into_iter().min_by_key(|name| lab.value(name).replace('/', "")).unwrap();
        let path = match first {
            "OBJECT_BIG" => "/usr/share/big",
            "OBJECT_TEXT" => FIRST_NAME,
            "OBJECT_INIT" => "/usr/lib/systemd/systemd",
            _ => "/usr/lib/os-release",
        };
        let message = format!("objects: '{path}': {}, found none", lab.expected_object(first));
        lab.expect_refused(&lab.boot(), &message);
    });
}

#[test]
fn no_directory_of_objects() {
    lab::with("sha512", |lab| {
        check(lab, "objects");
        // The image stays where it is, behind another name.
        let image = lab
            .path("composefs/objects")
            .join(fs::read_link(lab.image_path()).unwrap().strip_prefix("../objects").unwrap());
        fs::rename(image, lab.path("composefs/image")).unwrap();
        fs::remove_file(lab.image_path()).unwrap();
        symlink("../image", lab.image_path()).unwrap();
        fs::rename(lab.path("composefs/objects"), lab.path("composefs/elsewhere")).unwrap();
        lab.expect_refused(&lab.boot(), "objects: repository 'composefs': 'objects': <errno 2>");
    });
}
