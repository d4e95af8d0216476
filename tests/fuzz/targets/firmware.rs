//! What the firmware and the kernel say about themselves. The first line of an input says what the rest is:
//! `secure-boot` (two variables of five bytes each, or what there is of them), `lockdown` or `boot-count`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sealroot::ask::firmware::{Lockdown, SecureBoot, boot_entry, secure_boot};
use sealroot_fuzz::{bounded, check_message};

fuzz_target!(|input: &[u8]| {
    if let Some(variables) = input.strip_prefix(b"secure-boot\n") {
        check_secure_boot(variables);
    } else if let Some(line) = input.strip_prefix(b"lockdown\n") {
        let expected = [&b"[integrity]"[..], b"[confidentiality]"];
        let is_active = line.is_ascii() && expected.iter().any(|mode| line.windows(mode.len()).any(|at| at == *mode));
        assert!(!is_active || Lockdown::parse(line) == Lockdown::Active);
    } else if let Some(variable) = input.strip_prefix(b"boot-count\n") {
        check_boot_count(variable);
    }
});

fn check_secure_boot(variables: &[u8]) {
    let (first, second) = variables.split_at(variables.len().min(5));
    for setup_mode in [None, Some(second)] {
        match bounded(variables.len(), 16, || secure_boot(Some(first), setup_mode)) {
            Ok(SecureBoot::Enforced) => {
                assert!(first.get(4..) == Some(&[1]) && setup_mode.is_none_or(|mode| mode.get(4..) == Some(&[0])));
            }
            Ok(SecureBoot::Off) => assert_eq!(first.len(), 5),
            Ok(other) => panic!("{other:?} from variables that are there"),
            Err(error) => check_message(&error),
        }
    }
    assert_eq!(secure_boot(None, Some(first)), Ok(SecureBoot::Unsupported));
}

fn check_boot_count(variable: &[u8]) {
    match bounded(variable.len(), 16, || boot_entry(variable)) {
        Ok(entry) => {
            assert!(variable[0] & 1 == 0, "a variable that outlives the boot");
            assert!(entry.path().contains(&format!("+{}", entry.tries().left)) || entry.path().contains("+0"));
        }
        Err(error) => check_message(&error),
    }
}
