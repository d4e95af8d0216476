//! What must boot, and how.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use crate::expect::mounts;
use crate::lab::{self, write};

#[test]
fn sha512_v1() {
    lab::with("sha512", |lab| {
        let report = lab.expect_sealed(&lab.boot(), lab.value("V1"));
        assert_eq!((&report["format"], &report["karg"]), (&"v1".into(), &"composefs.digest".into()));
        assert_eq!(report["schema"], 2);
        assert_eq!(report["init"], "/usr/lib/systemd/systemd");
        assert_eq!(report["policy"]["policy.check"]["value"], "image");
        assert_eq!(report["policy"]["policy.check"]["from"], "default");
        let points: Vec<_> = report["mounts"].as_array().unwrap().iter().map(|mount| &mount["point"]).collect();
        assert_eq!(points[0], "/");
        for point in ["/etc", "/var", "/sysroot"] {
            assert!(points.contains(&&point.into()), "{points:?}");
        }
    });
}

#[test]
fn sha512_v2() {
    lab::with("sha512", |lab| {
        lab.command_line(&format!("quiet {} rw", lab.karg("V2")));
        let report = lab.expect_sealed(&lab.boot(), lab.value("V2"));
        assert_eq!((&report["format"], &report["karg"]), (&"v2".into(), &"composefs".into()));
    });
    // What bootc writes: the key says no format, and the image is v1.
    lab::with("sha512", |lab| {
        lab.command_line(&format!("composefs={}", lab.digest()));
        let report = lab.expect_sealed(&lab.boot(), lab.digest());
        assert_eq!((&report["format"], &report["karg"]), (&"v1".into(), &"composefs".into()));
    });
    // Under both keys it is one image.
    lab::with("sha512", |lab| {
        lab.command_line(&format!("composefs={} {}", lab.digest(), lab.karg("V1")));
        let report = lab.expect_sealed(&lab.boot(), lab.digest());
        assert_eq!((&report["format"], &report["karg"]), (&"v1".into(), &"composefs.digest".into()));
    });
}

#[test]
fn sha256_v1() {
    lab::with("sha256", |lab| {
        lab.expect_sealed(&lab.boot(), lab.value("V1"));
    });
}

#[test]
fn check_digest() {
    lab::with("sha512", |lab| {
        lab.config("[policy]\ncheck = \"digest\"\n");
        let report = lab.expect_sealed(&lab.boot(), lab.digest());
        assert_eq!(report["policy"]["policy.check"]["from"], "/usr/lib/sealroot/sealroot.toml");
    });
}

#[test]
fn upper_case_and_repeated_kargs() {
    lab::with("sha512", |lab| {
        let karg = lab.karg("V1");
        let upper = karg.replace(lab.digest(), &lab.digest().to_uppercase());
        lab.command_line(&format!("{upper} {karg}"));
        lab.expect_sealed(&lab.boot(), lab.digest());
    });
}

#[test]
fn the_first_image_that_exists() {
    lab::with("sha512", |lab| {
        lab.command_line(&format!("{} {}", lab.karg("V2"), lab.karg("V1")));
        lab.config(lab::ALTERNATIVES);
        fs::remove_file(lab.path("composefs/images").join(lab.value("V2"))).unwrap();
        lab.expect_sealed(&lab.boot(), lab.value("V1"));
    });
}

#[test]
fn both_kargs_prefer_the_first() {
    lab::with("sha512", |lab| {
        lab.command_line(&format!("{} {}", lab.karg("V2"), lab.karg("V1")));
        lab.config(lab::ALTERNATIVES);
        lab.expect_sealed(&lab.boot(), lab.value("V2"));
    });
}

#[test]
fn what_meta_json_claims_decides_nothing() {
    for content in [
        None,
        Some(&b"\xff\x00garbage{"[..]),
        Some(b"{\"version\":1,\"algorithm\":\"fsverity-sha512-12\",\"insecure\":true,\"verity\":false}"),
        Some(b"[[[[[[[["),
        Some(b"{\"features\":{\"compatible\":[\"a\"],\"read-only-compatible\":[\"b\"]}}"),
    ] {
        lab::with("sha512", move |lab| {
            let path = lab.path("composefs/meta.json");
            fs::remove_file(&path).unwrap();
            if let Some(content) = content {
                write(&path, content);
            }
            lab.expect_sealed(&lab.boot(), lab.digest());
        });
    }
}

#[test]
fn no_karg_and_none_required() {
    lab::with("sha512", |lab| {
        lab.command_line("quiet");
        lab.config("[policy]\nkarg = \"optional\"\n");
        let run = lab.boot();
        assert_eq!(run.status, Some(0), "{run:?}");
        assert_eq!(lab.report()["verdict"], "not-requested");
        assert_eq!(lab.mount_of(lab::SYSROOT).unwrap().filesystem, "ext4");
        assert_eq!(lab.run(&["gate"]).status, Some(0));
    });
}

#[test]
fn a_second_run_finds_the_first() {
    lab::with("sha512", |lab| {
        lab.expect_sealed(&lab.boot(), lab.digest());
        let before = lab.report();
        let run = lab.run(&[]);
        assert_eq!(run.status, Some(0), "{run:?}");
        assert_eq!(run.log, ["5 sealroot: sealed root in place already at '/sysroot'"]);
        assert_eq!(lab.report(), before);
    });
}

/// One detach of several uncovers the next physical root.
#[test]
fn stacked_physical_roots_are_all_replaced() {
    lab::with("sha512", |lab| {
        lab.mount_sysroot();
        lab.mount_sysroot();
        lab.expect_sealed(&lab.boot(), lab.digest());
        let roots = mounts().into_iter().filter(|mount| mount.point.as_os_str() == lab::SYSROOT).count();
        assert_eq!(roots, 1);
    });
}

#[test]
fn a_new_physical_root_gets_all_the_checks() {
    lab::with("sha512", |lab| {
        lab.expect_sealed(&lab.boot(), lab.digest());
        nix::mount::umount2(lab::SYSROOT, nix::mount::MntFlags::MNT_DETACH).unwrap();
        fs::remove_file(lab.image_path()).unwrap();
        let run = lab.boot();
        let message = format!("find: {}: expected in the repository 'composefs': <errno 2>", lab.image());
        lab.expect_refused(&run, &message);
    });
}

#[test]
fn the_link_to_the_physical_roots_device() {
    lab::with("sha512", |lab| {
        let device = fs::metadata(lab.path("")).unwrap().dev();
        lab.expect_sealed(&lab.boot(), lab.digest());
        let expected = format!("/dev/block/{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
        let found = fs::read_link("/run/systemd/volatile-root").unwrap();
        assert_eq!(found.to_str(), Some(expected.as_str()));
    });
    lab::with("sha512", |lab| {
        fs::create_dir("/run/systemd").unwrap();
        symlink("/dev/null", "/run/systemd/volatile-root").unwrap();
        lab.expect_sealed(&lab.boot(), lab.digest());
        assert_eq!(fs::read_link("/run/systemd/volatile-root").unwrap().to_str(), Some("/dev/null"));
    });
}

#[test]
fn bypasses_are_named() {
    const SEALED: &str = "systemd.import_credentials=no systemd.imds=no fstab=no rd.fstab=no rd.shell=0 rd.emergency=halt noresume \
                          systemd.mask=systemd-sysext.service systemd.mask=systemd-confext.service systemd.gpt_auto=no \
                          systemd.factory_reset=no rootflags=errors=remount-ro \
                          systemd.condition_first_boot=no systemd.firstboot=no systemd.mask=dracut-shutdown.service";
    lab::with("sha512", |lab| {
        lab.config("[etc]\nmount = \"transient\"\n[var]\nmount = \"transient\"\n");
        lab.command_line(&format!("{} {SEALED}", lab.karg("V1")));
        let run = lab.boot();
        let report = lab.expect_sealed(&run, lab.digest());
        assert_eq!(report["bypasses"], serde_json::json!([]));
        assert!(!run.log.iter().any(|line| line.contains("ways around the seal")), "{run:?}");
        // The one for people says the same.
        let image = lab.image_path();
        let (_, result) = crate::command::ask(&["karg", "--sealed", image.to_str().unwrap()]);
        assert_eq!(result["karg"], format!("{} {SEALED}", lab.karg("V1")));
    });
    lab::with("sha512", |lab| {
        let run = lab.boot();
        let report = lab.expect_sealed(&run, lab.digest());
        let expected = serde_json::json!([
            "imported-credentials",
            "metadata-service",
            "fstab",
            "initrd-shell",
            "hibernation",
            "extensions",
            "other-partitions",
            "factory-reset",
            "disk-errors",
            "first-boot",
            "shutdown-initrd",
            "writable-etc",
            "writable-var"
        ]);
        assert_eq!(report["bypasses"], expected);
        let warning = "4 sealroot: ways around the seal are open, with what closes each: imported-credentials \
                       (systemd.import_credentials=no), metadata-service (systemd.imds=no), fstab (fstab=no rd.fstab=no), ";
        assert!(run.log.iter().any(|line| line.starts_with(warning)), "{run:?}");
    });
}
