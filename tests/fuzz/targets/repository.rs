//! What a repository says about itself and about an object. The first line of an input says what the rest is:
//! `meta.json` or `metacopy`, the xattr.
#![no_main]

use std::fs;
use std::os::fd::OwnedFd;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sealroot::disk::repository::Repository;
use sealroot::fuzzing::parse_metacopy;
use sealroot_fuzz::{bounded, check_message};
use serde::Deserialize;

fuzz_target!(|input: &[u8]| {
    if let Some(text) = input.strip_prefix(b"meta.json\n") {
        check_metadata(text);
    } else if let Some(value) = input.strip_prefix(b"metacopy\n") {
        check_metacopy(value);
    }
});

/// A physical root with a repository, for as long as this process runs; tests/fuzz/run clears up.
static ROOT: LazyLock<(OwnedFd, String)> = LazyLock::new(|| {
    let path = std::env::temp_dir().join(format!("sealroot-fuzz-{}", std::process::id()));
    fs::create_dir_all(path.join("composefs")).expect("a temporary directory");
    let root = fs::File::open(&path).expect("the temporary directory");
    (root.into(), path.join("composefs/meta.json").to_string_lossy().into_owned())
});

#[derive(Deserialize)]
struct Version {
    version: Option<u64>,
}

#[derive(Deserialize)]
struct WithFeatures {
    features: Option<Features>,
}

#[derive(Deserialize)]
struct Features {
    incompatible: Option<Vec<String>>,
}

fn check_metadata(text: &[u8]) {
    let (root, path) = &*ROOT;
    fs::write(path, text).expect("a temporary file");
    let result = bounded(text.len(), 512, || Repository::open(root));
    // Another reader: what it calls a later version or an incompatible feature is never opened. It takes no key twice;
    // ours may take either, or none. It would take arrays for objects, field by field, which are none.
    let text = std::str::from_utf8(text).unwrap_or_default();
    let value: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    let version = serde_json::from_str(text).map_or(None, |Version { version }| version);
    let version = version.filter(|_| value.is_object());
    let features = serde_json::from_str(text).map_or(None, |WithFeatures { features }| features);
    let features = features.filter(|_| value.is_object() && value["features"].is_object());
    let is_refused = version.is_some_and(|version| version > 1)
        || features.and_then(|features| features.incompatible).is_some_and(|names| !names.is_empty());
    match result {
        Ok(_) => assert!(!is_refused, "{text:?}"),
        Err(error) => check_message(&error),
    }
}

fn check_metacopy(value: &[u8]) {
    if let Some(digest) = bounded(value.len(), 16, || parse_metacopy(value)) {
        let hex: String = value.iter().skip(4).map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(digest.to_hex(), hex);
        assert_eq!(usize::from(value[1]), value.len());
        assert_eq!(digest.algorithm().hex_len(), hex.len());
    }
}
