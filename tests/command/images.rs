//! Images in the formats v1 and v2, and files that are none.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::golden::GOLDEN;
use crate::run::{SEALROOT, answer, fails, said, sealroot};

#[test]
fn karg_of_a_digest() {
    let answer = answer(0, &["karg", "--repo", &GOLDEN.repository("sha512"), GOLDEN.value("SHA512_V1")]);
    assert_eq!(answer["result"]["karg"], GOLDEN.karg());
}

#[test]
fn karg_of_a_file() {
    let answer = answer(0, &["karg", &GOLDEN.image("SHA512_V1")]);
    assert_eq!((&answer["result"]["karg"], &answer["result"]["format"]), (&json!(GOLDEN.karg()), &json!("v1")));
}

#[test]
fn karg_of_v2() {
    let digest = GOLDEN.value("SHA512_V2");
    let answer = answer(0, &["karg", "--repo", &GOLDEN.repository("sha512"), digest]);
    assert_eq!(answer["result"]["karg"], format!("composefs={digest}"));
}

#[test]
fn karg_for_bootc() {
    // Whatever the format; the boot program reads it as an image with this digest.
    for name in ["SHA512_V1", "SHA512_V2"] {
        let (image, digest) = (GOLDEN.image(name), GOLDEN.value(name));
        for (more, rest) in [(None, ""), (Some("--sealed"), " rd.shell=0 ")] {
            let arguments = ["karg", "--for", "bootc", &image].into_iter().chain(more).collect::<Vec<_>>();
            let karg = answer(0, &arguments)["result"]["karg"].as_str().unwrap().to_owned();
            let (first, others) = karg.split_once(' ').unwrap_or((&karg, ""));
            assert_eq!(first, format!("composefs={digest}"));
            assert!(!others.contains("composefs") && format!(" {others} ").contains(rest), "{karg}");
            // The generator finds the root, and mounts no other partition: that word comes last in the initrd, and nowhere else.
            assert_eq!(others.ends_with(" rd.systemd.gpt_auto=yes"), more.is_some(), "{karg}");
            assert_eq!(others.contains(" systemd.gpt_auto=no "), more.is_some(), "{karg}");
        }
    }
    // Of SHA-256 the same; and what it is for is one of two.
    let (repository, digest) = (GOLDEN.repository("sha256"), GOLDEN.value("SHA256_V1"));
    let arguments = ["karg", "--for", "bootc", "--repo", &repository, digest];
    assert_eq!(answer(0, &arguments)["result"]["karg"], format!("composefs={digest}"));
    assert_eq!(sealroot(&["karg", "--for", "ostree", "--repo", &repository, digest]).status, Some(2));
    let sealed =
        answer(0, &["karg", "--sealed", &GOLDEN.image("SHA512_V1")])["result"]["karg"].as_str().unwrap().to_owned();
    assert!(sealed.contains(" systemd.gpt_auto=no ") && !sealed.contains("rd.systemd.gpt_auto"), "{sealed}");
    // Without it, and with the name of the default, it is as before.
    assert_eq!(answer(0, &["karg", "--for", "sealroot", &GOLDEN.image("SHA512_V1")])["result"]["karg"], GOLDEN.karg());
}

#[test]
fn inspect_contents() {
    let answer = answer(0, &["inspect", &GOLDEN.image("SHA512_V1")]);
    let contents = &answer["result"]["contents"];
    assert_eq!(contents["object_algorithm"], "sha512");
    assert!(contents["files"].as_u64().unwrap() > contents["objects"].as_u64().unwrap(), "{contents}");
}

#[test]
fn inspect_an_entry() {
    let path = GOLDEN.value("FILE");
    let answer = answer(0, &["inspect", &GOLDEN.image("SHA512_V1"), path]);
    let entry = &answer["result"]["entry"];
    let found = ["path", "type", "object"].map(|field| entry[field].as_str().unwrap());
    assert_eq!(found, [path, "file", GOLDEN.value("FILE_OBJECT_SHA512")]);
}

/// A copy of the repository where no kernel has fs-verity, and the folder that it is in.
fn on_tmpfs() -> tempfile::TempDir {
    let folder = tempfile::tempdir_in("/dev/shm").expect("/dev/shm");
    let copied = said(Command::new("cp").arg("-a").arg(GOLDEN.repository("sha512")).arg(folder.path()));
    assert_eq!(copied.status, Some(0), "{copied:?}");
    folder
}

#[test]
fn verify_in_user_space() {
    let folder = on_tmpfs();
    let answer = answer(0, &["verify", "--repo", folder.path().join("sha512").to_str().unwrap(), "--all"]);
    let images = answer["result"]["images"].as_array().unwrap();
    assert_eq!(images.len(), 3, "{answer}");
    for image in images {
        assert_eq!(image["measured"], "user space: filesystem or kernel without fs-verity");
    }
    let objects = &answer["result"]["objects"];
    assert_eq!((&objects["checked"], &objects["broken"]), (&objects["computed"], &json!([])));
    assert!(objects["checked"].as_u64().unwrap() > 0, "{objects}");
}

#[test]
fn verify_without_that_image() {
    let digest = GOLDEN.value("SHA512_V1");
    let answer = answer(1, &["verify", "--repo", &GOLDEN.repository("sha256"), digest]);
    let errors: Vec<&Value> =
        answer["result"]["images"].as_array().unwrap().iter().map(|image| &image["error"]).collect();
    assert_eq!(errors, [&format!("image 'images/{digest}': No such file or directory (os error 2)")]);
}

#[test]
fn inspect_a_truncated_image() {
    let folder = tempfile::tempdir().unwrap();
    let short = folder.path().join("short");
    fs::write(&short, &fs::read(GOLDEN.image("SHA512_V1")).unwrap()[..16_384]).unwrap();
    let short = short.to_str().unwrap();
    let expected = "expected an EROFS filesystem: out of bounds: failed to fill whole buffer";
    fails(1, &format!("sealroot inspect: image '{short}': {expected}"), &["inspect", short]);
}

#[test]
fn inspect_no_image() {
    let expected = "expected composefs magic 0xd078629a version 1, found 0x464c457f version 65794";
    fails(1, &format!("sealroot inspect: image '{SEALROOT}': {expected}"), &["inspect", SEALROOT]);
}

#[test]
fn inspect_a_relative_path() {
    let image = GOLDEN.image("SHA512_V1");
    fails(2, "sealroot inspect: 'usr': expected an absolute path without '..'", &["inspect", &image, "usr"]);
}

#[test]
fn inspect_a_missing_entry() {
    let image = GOLDEN.image("SHA512_V1");
    let message = format!("sealroot inspect: image '{image}': expected an entry '/none', found none");
    fails(1, &message, &["inspect", &image, "/none"]);
}
