//! The list of an initramfs's files.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sealroot::ask::manifest::Manifest;
use sealroot_fuzz::{bounded, check_message};

fuzz_target!(|text: &[u8]| {
    match bounded(text.len(), 64, || Manifest::parse(text)) {
        Ok(manifest) => {
            let written = manifest.to_string();
            assert_eq!(Manifest::parse(written.as_bytes()).as_ref(), Ok(&manifest), "{written}");
            assert!(manifest.entries().all(|(path, entry)| manifest.get(path) == Some(entry)));
        }
        Err(error) => check_message(&error),
    }
});
