//! Kernels before Linux 6.6, whose overlayfs does not verify: nothing is tried in its place.
//!
//! These tests run on such a kernel only, and on such a kernel no others do.

use std::fs;

use crate::lab;

fn message() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    format!(
        "mount: overlay: this kernel is too old for 'verity=': expected Linux 6.6 or newer, found {}: <errno 22>",
        release.trim()
    )
}

#[test]
fn refused_with_what_is_needed() {
    for algorithm in ["sha512", "sha256"] {
        lab::with(algorithm, |lab| lab.expect_refused(&lab.boot(), &message()));
    }
}

#[test]
fn refused_again_and_at_the_gate() {
    lab::with("sha512", |lab| {
        lab.expect_refused(&lab.boot(), &message());
        lab.mount_sysroot();
        lab.expect_refused_again(&lab.run(&[]), &format!("earlier-run: refused before: {}", message()));
        lab.mount_sysroot();
        lab.expect_refused_again(&lab.run(&["gate"]), &format!("gate: refused before: {}", message()));
    });
}

#[test]
fn refused_with_every_configuration() {
    for config in ["[policy]\ncheck = \"digest\"\n", "[root]\ntransient = true\n", "[etc]\nmount = \"none\"\n"] {
        lab::with("sha512", move |lab| {
            lab.config(config);
            lab.expect_refused(&lab.boot(), &message());
        });
    }
}

/// What is wrong before the mount is said first.
#[test]
fn damage_is_found_all_the_same() {
    lab::with("sha512", |lab| {
        fs::remove_file(lab.image_path()).unwrap();
        let message = format!("find: {}: expected in the repository 'composefs': <errno 2>", lab.image());
        lab.expect_refused(&lab.boot(), &message);
    });
}
