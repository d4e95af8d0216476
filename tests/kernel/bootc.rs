//! What bootc installs, booted without a key that says so: the image is one of its own, and its state lies as it lays it out.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::lab::{self, Lab, Run, write};

/// Boots bootc's image, by the karg that bootc writes.
fn boot(lab: &Lab, config: &str) -> Run {
    if !config.is_empty() {
        lab.config(config);
    }
    lab.command_line(&format!("rw composefs={}", lab.value("BOOTC")));
    lab.boot()
}

fn state(lab: &Lab, name: &str) -> PathBuf {
    lab.path("state/deploy").join(lab.value("BOOTC")).join(name)
}

/// As every tool of composefs before: the layers of an overlay.
fn make_layers(lab: &Lab) {
    fs::remove_dir_all(state(lab, "etc")).unwrap();
    fs::create_dir_all(state(lab, "etc/upper")).unwrap();
    fs::create_dir_all(state(lab, "etc/work")).unwrap();
}

fn setting(report: &Value, key: &str) -> Value {
    report["policy"][key].clone()
}

#[test]
fn the_sealed_root_says_how_its_state_lies() {
    lab::with("sha512", |lab| {
        write(&state(lab, "etc/hostname"), b"of this machine");
        write(&lab.path("state/os/default/var/shared"), b"");
        let report = lab.expect_sealed(&boot(lab, ""), lab.value("BOOTC"));
        assert_eq!(fs::read("/sysroot/etc/hostname").unwrap(), b"of this machine");
        assert!(Path::new("/sysroot/var/shared").exists());
        assert_eq!(lab.mount_of("/sysroot/etc").unwrap().filesystem, "ext4");
        lab.expect_flags("/sysroot/etc", &["rw", "nosuid", "nodev"]);
        assert_eq!(setting(&report, "layout"), json!({"value": "bootc", "from": "sealed root"}));
        assert_eq!(setting(&report, "etc.mount"), json!({"value": "bind", "from": "sealed root"}));
        assert!(!state(lab, "etc/upper").exists());
    });
}

/// What the configuration says holds, whatever the image is.
#[test]
fn the_configuration_comes_first() {
    for (config, layout, from) in [
        ("layout = \"composefs\"\n", "composefs", "/usr/lib/sealroot/sealroot.toml"),
        ("[etc]\nmount = \"overlay\"\n", "bootc", "sealed root"),
        // A list of what the overlay keeps speaks for the overlay.
        ("[etc]\nkeep = [\"hostname\"]\n", "bootc", "sealed root"),
    ] {
        lab::with("sha512", move |lab| {
            make_layers(lab);
            let report = lab.expect_sealed(&boot(lab, config), lab.value("BOOTC"));
            assert_eq!(lab.mount_of("/sysroot/etc").unwrap().filesystem, "overlay");
            assert_eq!(setting(&report, "layout"), json!({"value": layout, "from": from}));
            assert_eq!(setting(&report, "etc.mount")["value"], "overlay");
        });
    }
    lab::with("sha512", |lab| {
        let report = lab.expect_sealed(&boot(lab, "[etc]\nmount = \"transient\"\n"), lab.value("BOOTC"));
        assert_eq!(setting(&report, "etc.mount")["value"], "transient");
    });
}

/// No layout hides the /etc of another.
#[test]
fn another_layout_than_the_one_that_holds() {
    let refused = |lab: &Lab, run: &Run, expected: &str| {
        let name = format!("state/deploy/{}/etc", lab.value("BOOTC"));
        lab.expect_refused(run, &format!("assemble: state directory '{name}': expected {expected}"));
    };
    lab::with("sha512", move |lab| {
        make_layers(lab);
        write(&state(lab, "etc/upper/hostname"), b"of this machine");
        let expected = "files of /etc (etc.mount = \"bind\"), found nothing but the layers of an overlay";
        refused(lab, &boot(lab, ""), expected);
        lab.forget();
        // The key that the message names.
        lab.expect_sealed(&boot(lab, "layout = \"composefs\"\n"), lab.value("BOOTC"));
        assert_eq!(fs::read("/sysroot/etc/hostname").unwrap(), b"of this machine");
    });
    for config in ["layout = \"composefs\"\n", "[etc]\nmount = \"overlay\"\n", "[etc]\nkeep = []\n"] {
        lab::with("sha512", move |lab| {
            fs::remove_dir_all(state(lab, "etc")).unwrap();
            fs::create_dir(state(lab, "etc")).unwrap();
            write(&state(lab, "etc/hostname"), b"of this machine");
            refused(lab, &boot(lab, config), "the layers of an overlay (etc.mount = \"overlay\"), found 'hostname'");
        });
    }
    // Neither is hidden by nothing.
    lab::with("sha512", |lab| {
        make_layers(lab);
        fs::remove_dir_all(state(lab, "etc/upper")).unwrap();
        fs::remove_dir_all(state(lab, "etc/work")).unwrap();
        lab.expect_sealed(&boot(lab, ""), lab.value("BOOTC"));
    });
}
