//! An upper layer of /etc that was mounted with other options before: what is in it then, and cannot be read.

use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};

use crate::command::{COMMAND, status};
use crate::lab::{self, Lab, Run, write};

/// Has an overlay over the sealed /etc with the options that every distribution's container tools use, and does something in it.
fn in_another_overlay(lab: &Lab, change: impl FnOnce(&Path)) {
    lab.config("[etc]\nmount = \"none\"\n");
    lab.expect_sealed(&lab.boot(), lab.digest());
    let (upper, work) = (lab.state_path("etc/upper"), lab.state_path("etc/work"));
    let options = format!(
        "lowerdir=/sysroot/etc,upperdir={},workdir={},metacopy=on,redirect_dir=on",
        upper.display(),
        work.display()
    );
    let etc = Path::new("/run/lab/etc");
    fs::create_dir_all(etc).unwrap();
    mount(Some("other"), etc, Some("overlay"), MsFlags::empty(), Some(options.as_str())).unwrap();
    change(etc);
    umount2(etc, MntFlags::empty()).unwrap();
    lab.forget();
    lab.config("");
}

fn warnings(run: &Run) -> Vec<&str> {
    run.log.iter().map(String::as_str).filter(|line| line.starts_with("4 sealroot: etc: ")).collect()
}

fn folder(lab: &Lab) -> String {
    format!("state/deploy/{}/etc/upper", lab.digest())
}

#[test]
fn files_without_content_and_renamed_directories() {
    lab::with("sha512", |lab| {
        in_another_overlay(lab, |etc| {
            fs::set_permissions(etc.join("hostname"), Permissions::from_mode(0o600)).unwrap();
            fs::rename(etc.join("default"), etc.join("standard")).unwrap();
            write(&etc.join("new"), b"whole");
        });
        let run = lab.boot();
        let report = lab.expect_sealed(&run, lab.digest());
        let folder = folder(lab);
        let mut entries = report["left_behind"]["entries"].as_array().unwrap().clone();
        entries.sort_by_key(Value::to_string);
        let expected = json!([{"path": "hostname", "reason": "metacopy"}, {"path": "standard", "reason": "redirect"}]);
        assert_eq!(Value::Array(entries), expected);
        assert_eq!(
            (&report["left_behind"]["count"], &report["left_behind"]["folder"]),
            (&2.into(), &folder.clone().into())
        );
        let start = format!(
            "4 sealroot: etc: 2 entries that cannot be read, left by an overlay with other options in '{folder}': '"
        );
        let warnings = warnings(&run);
        assert!(warnings.len() == 1 && warnings[0].starts_with(&start), "{run:?}");
        // It is as it says.
        for unreadable in ["hostname", "standard"] {
            let error = fs::symlink_metadata(Path::new("/sysroot/etc").join(unreadable)).unwrap_err();
            assert_ne!(error.kind(), ErrorKind::NotFound, "{unreadable}");
        }
        assert_eq!(fs::read("/sysroot/etc/new").unwrap(), b"whole");
        let (code, result) = status(lab);
        assert_eq!((code, &result["left_behind"]), (0, &report["left_behind"]), "{result}");
        let text = Command::new("chroot").args(["/sysroot", "/var/sealroot", "status"]).output().unwrap().stdout;
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains(&format!("unreadable:  2 of /etc, in '{folder}'\n             ")), "{COMMAND}: {text}");
    });
}

/// One entry in a directory that was copied up for it, whose name is no text.
#[test]
fn below_other_directories() {
    lab::with("sha512", |lab| {
        in_another_overlay(lab, |etc| {
            fs::set_permissions(etc.join("default/settings"), Permissions::from_mode(0o600)).unwrap();
        });
        fs::rename(lab.state_path("etc/upper/default"), lab.state_path("etc/upper/line\nbreak")).unwrap();
        let run = lab.boot();
        let report = lab.expect_sealed(&run, lab.digest());
        let warning = format!(
            "4 sealroot: etc: 1 entry that cannot be read, left by an overlay with other options in '{}': \
             'line\\x5cnbreak/settings' (metacopy)",
            folder(lab)
        );
        assert_eq!(warnings(&run), [warning]);
        let entries = json!([{"path": r"line\nbreak/settings", "reason": "metacopy"}]);
        assert_eq!(report["left_behind"]["entries"], entries);
    });
}

/// Nothing is said of what another overlay copied up whole, of what sealroot's own did, and where /etc is no overlay of its own.
#[test]
fn nothing_that_cannot_be_read() {
    for config in ["", "[etc]\nkeep = [\"hostname\"]\n", "[etc]\nmount = \"transient\"\n"] {
        lab::with("sha512", move |lab| {
            in_another_overlay(lab, |etc| {
                write(&etc.join("hostname"), b"of this machine");
                fs::remove_file(etc.join("passwd")).unwrap();
                fs::create_dir_all(etc.join("new/below")).unwrap();
                if !config.is_empty() {
                    fs::set_permissions(etc.join("shadow"), Permissions::from_mode(0o600)).unwrap();
                }
            });
            lab.config(config);
            let run = lab.boot();
            let report = lab.expect_sealed(&run, lab.digest());
            assert_eq!(report.get("left_behind"), None);
            assert!(!run.log.iter().any(|line| line.contains("cannot be read")), "{run:?}");
        });
    }
}

/// What a boot looks at has a limit, however much there is, and however deep.
#[test]
fn more_than_anyone_looks_through() {
    lab::with("sha512", |lab| {
        let upper = lab.state_path("etc/upper");
        let deep = upper.join("deep/".repeat(300));
        fs::create_dir_all(&deep).unwrap();
        fs::create_dir(upper.join("many")).unwrap();
        for number in 0..6000 {
            write(&upper.join(format!("many/{number}")), b"");
        }
        let run = lab.boot();
        assert_eq!(warnings(&run), [""; 0]);
        assert_eq!(lab.expect_sealed(&run, lab.digest()).get("left_behind"), None);
    });
}
