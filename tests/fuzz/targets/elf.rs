//! The interpreter of a program.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sealroot::fuzzing::interpreter;
use sealroot_fuzz::{bounded, check_message, file};

fuzz_target!(|content: &[u8]| {
    let program = file(content);
    // A table of headers and a name, each with a limit of its own.
    match bounded(content.len(), 2, || interpreter(&program)) {
        Ok(None) => {}
        Ok(Some(path)) => {
            assert!(path.starts_with('/') && !path.contains('\0') && path.len() <= 4096);
            assert!(content.windows(path.len()).any(|window| window == path.as_bytes()));
        }
        Err(error) => check_message(&error),
    }
});
