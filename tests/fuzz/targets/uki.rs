//! A unified kernel image, and the initramfs in it; or an initramfs alone.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sealroot::formats::uki::authenticode;
use sealroot::formats::uki::initramfs::{Budget, Initramfs};
use sealroot::formats::uki::pe::Uki;
use sealroot_fuzz::{bounded, check_message};

/// What decompressing may hold beyond its input: two windows of zstd.
const WINDOWS: usize = 256 * 1024 * 1024;

fuzz_target!(|content: &[u8]| {
    if !content.starts_with(b"MZ") {
        return unpack(content);
    }
    if let Err(error) = authenticode::digest(content) {
        check_message(&error);
    }
    // Each profile refers to the sections, whose names are few bytes in a table.
    match bounded(content.len(), 64, || Uki::parse(content)) {
        Ok(uki) => {
            assert!(!uki.profiles.is_empty());
            for section in uki.profiles.iter().flat_map(|profile| profile.values()) {
                let whole = content.as_ptr_range();
                assert!(section.is_empty() || whole.contains(&section.as_ptr()));
            }
            if let Some(initrd) = uki.profiles[0].get(".initrd") {
                unpack(initrd);
            }
        }
        Err(error) => check_message(&error),
    }
});

fn unpack(content: &[u8]) {
    // Names and contents are kept, and compressed ones are a thousand times as long.
    let read = || Initramfs::read(content, &mut Budget::for_input(content.len()), &|path| path.starts_with('u'));
    match bounded(content.len() + WINDOWS / 64, 64, read) {
        Ok(initramfs) => assert!(initramfs.paths().all(|path| initramfs.get(path).is_some())),
        Err(error) => check_message(&error),
    }
}
