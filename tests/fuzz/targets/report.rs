//! The report of an earlier run in the same boot, read again; and what is written of it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sealroot::ask::policy::Action;
use sealroot::boot::report::{EarlierReport, Report, Verdict};
use sealroot::fuzzing::report_text;
use sealroot::verity::Verification;
use sealroot_fuzz::{bounded, check_message};

fuzz_target!(|input: &[u8]| {
    let earlier = match bounded(input.len(), 512, || EarlierReport::parse(input)) {
        Ok(earlier) => earlier,
        Err(error) => return check_message(&error),
    };
    let mut report = Report::default();
    match earlier.verdict() {
        Verdict::Sealed => report.in_place(Verification::Required, earlier.reason(), earlier.mounts().to_vec()),
        Verdict::Unverified => {
            report.in_place(Verification::AllowUnverified, earlier.reason(), earlier.mounts().to_vec());
        }
        Verdict::Refused => report.refused(earlier.reason(), Action::Halt),
        Verdict::NotRequested => report.not_requested(),
    }
    let text = report_text(&report);
    let again = EarlierReport::parse(text.as_bytes()).expect("a report of our own");
    assert_eq!(again.verdict(), earlier.verdict());
    let other: serde_json::Value = serde_json::from_str(&text).expect("what we write is JSON");
    match earlier.verdict() {
        Verdict::Sealed | Verdict::Unverified => {
            assert_eq!(format!("{:?}", again.mounts()), format!("{:?}", earlier.mounts()));
            assert_eq!(other["init"], earlier.reason());
            assert_eq!(other["mounts"].as_array().map(Vec::len), Some(earlier.mounts().len()));
        }
        Verdict::Refused => {
            assert_eq!(again.reason(), earlier.reason());
            assert_eq!(other["reason"], earlier.reason());
            assert!(again.mounts().is_empty());
        }
        Verdict::NotRequested => assert!(again.mounts().is_empty()),
    }
});
