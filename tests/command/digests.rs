//! Digests, beside those of fsverity(1).

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::run::{answer, said, sealroot};

const BLOCK: u64 = 4096;
/// Around the size of a block, and of 128 of them, whose hashes are one block of SHA-256 and two of SHA-512.
const SIZES: [u64; 7] = [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 128 * BLOCK, 128 * BLOCK + 1];

/// Files of these sizes and of one more.
fn files(folder: &Path, largest: u64) -> Vec<String> {
    // No two blocks are alike; where it is large, most of it is a hole.
    let content: Vec<u8> = (1..200_000).flat_map(|number| format!("{number}-").into_bytes()).collect();
    let file = |size: u64| {
        let path = folder.join(format!("size-{size}"));
        let mut file = File::create(&path).unwrap();
        file.write_all(&content[..content.len().min(usize::try_from(size).unwrap())]).unwrap();
        file.set_len(size).unwrap();
        path.to_str().unwrap().to_owned()
    };
    SIZES.into_iter().chain([largest]).map(file).collect()
}

fn same_as_fsverity(algorithm: &str, largest: u64) {
    let folder = tempfile::tempdir().unwrap();
    let files = files(folder.path(), largest);
    let arguments = ["digest", "--algorithm", algorithm].into_iter().chain(files.iter().map(String::as_str));
    let ours = sealroot(&arguments.collect::<Vec<_>>());
    let theirs = said(Command::new("fsverity").arg("digest").arg(format!("--hash-alg={algorithm}")).args(&files));
    assert_eq!(ours, theirs);
    assert_eq!((ours.status, ours.out.lines().count()), (Some(0), files.len()));
}

// The largest file needs a third level of hashes, by one byte. One of a gigabyte, with a fourth, is in tests/machines: the
// command as it is shipped computes it in seconds.

#[test]
fn digest_sha256() {
    same_as_fsverity("sha256", 128 * 128 * BLOCK + 1);
}

#[test]
fn digest_sha512() {
    same_as_fsverity("sha512", 64 * 64 * BLOCK + 1);
}

#[test]
fn digest_of_what_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    fs::write(path("file"), "").unwrap();
    let answer = answer(1, &["digest", &path("file"), &path(""), &path("none")]);
    assert_eq!((&answer["schema"], &answer["command"], &answer["answer"]), (&json!(2), &json!("digest"), &json!("no")));
    let errors = answer["result"]["files"].as_array().unwrap().iter().map(|file| file["error"].clone());
    let expected = [json!(null), json!("expected a regular file"), json!("No such file or directory (os error 2)")];
    assert!(errors.eq(expected), "{answer}");
}
