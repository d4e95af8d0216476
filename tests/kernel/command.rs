//! The command `sealroot` on disks with fs-verity: what it finds, what it enables, what it says of this kernel.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use nix::mount::MsFlags;
use serde_json::{Value, json};

use crate::disk::{self, Disk};
use crate::lab::{self, Lab, SYSROOT, mount_at, write};

/// Where the tests of `tests/machines` put it.
pub const COMMAND: &str = "/usr/bin/sealroot";

/// Runs it and gives its exit status and the `result` of its answer.
pub fn ask(arguments: &[&str]) -> (i32, Value) {
    run(&mut Command::new(COMMAND), arguments)
}

fn run(command: &mut Command, arguments: &[&str]) -> (i32, Value) {
    let output = command.arg("--json").args(arguments).output().expect("the command `sealroot`");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    assert_eq!(answer["error"], Value::Null, "{answer}");
    (output.status.code().unwrap(), answer["result"].clone())
}

/// The paths of what is broken, with what is wrong about each.
fn broken(result: &Value) -> Vec<(String, String)> {
    let broken = result["objects"]["broken"].as_array().unwrap().iter();
    broken.map(|object| (paths(object), object["error"].as_str().unwrap().to_owned())).collect()
}

fn paths(object: &Value) -> String {
    let files = object["files"].as_array().unwrap().iter();
    files.map(|file| file["path"].as_str().unwrap()).collect::<Vec<_>>().join(" ")
}

fn repository(lab: &Lab) -> String {
    lab.path("composefs").to_str().unwrap().into()
}

/// Nothing is written: the disk cannot be.
#[test]
fn verify_what_is_right() {
    for (disk, algorithm) in [(Disk::Ext4, "sha512"), (Disk::Ext4, "sha256"), (Disk::Btrfs, "sha512")] {
        lab::with_disk(disk, algorithm, |lab| {
            lab.protect();
            let before = disk::content();
            let (status, result) = ask(&["verify", "--repo", &repository(lab), "--all", "--data", "--list-unused"]);
            assert_eq!((status, broken(&result)), (0, Vec::new()), "{result}");
            assert!(result["images"].as_array().unwrap().iter().all(|image| image["measured"] == "kernel"), "{result}");
            assert_eq!((&result["objects"]["computed"], &result["unused"]), (&0.into(), &json!([])));
            assert!(disk::content() == before);
        });
    }
}

/// Copies the repository, and with it nothing of fs-verity.
fn copy(lab: &Lab, target: &str) {
    fs::create_dir_all(Path::new(target).parent().unwrap()).unwrap();
    let status = Command::new("cp").args(["-a", &repository(lab), target]).status().unwrap();
    assert!(status.success());
}

/// What has no fs-verity is computed, and the answer says so.
#[test]
fn verify_without_fs_verity() {
    lab::with("sha512", |lab| {
        // A tmpfs.
        let repository = "/run/lab/repository";
        copy(lab, repository);
        let (status, result) = ask(&["verify", "--repo", repository, lab.digest()]);
        assert_eq!((status, broken(&result)), (0, Vec::new()), "{result}");
        assert_eq!(result["objects"]["computed"], result["objects"]["checked"]);
        // A file with several names is told by all of them.
        write(&Path::new(repository).join(lab.value("OBJECT_TEXT")), b"another content");
        let (status, result) = ask(&["verify", "--repo", repository, lab.digest()]);
        let found = broken(&result);
        assert_eq!((status, found.len()), (1, 1), "{result}");
        assert_eq!(found[0].0, "/usr/share/hardlink /usr/share/text");
        let expected = format!("{}, computed sha512:", lab.expected_object("OBJECT_TEXT"));
        assert!(found[0].1.starts_with(&expected), "{found:?}");
    });
}

#[test]
fn verify_what_is_damaged() {
    lab::with("sha512", |lab| {
        let text = lab.object_path("OBJECT_TEXT");
        lab.flip(&text, lab.verity_blocks(&text).1, 16);
        fs::remove_file(lab.object_path("OBJECT_INIT")).unwrap();
        let repository = repository(lab);
        let (status, result) = ask(&["verify", "--repo", &repository, lab.digest()]);
        assert_eq!(status, 1);
        let mut found = broken(&result);
        found.sort();
        let [(init, missing), (hardlinks, damaged)] = &found[..] else { panic!("{found:?}") };
        assert!(init.contains("/usr/lib/systemd/systemd"), "{init}");
        assert_eq!(*missing, format!("{}, found none", lab.expected_object("OBJECT_INIT")));
        assert_eq!(hardlinks, "/usr/share/hardlink /usr/share/text");
        assert!(damaged.starts_with(&lab.expected_object("OBJECT_TEXT")), "{damaged}");
    });
    // A damaged image is broken itself, and others are looked at all the same.
    lab::with("sha512", |lab| {
        lab.flip(&lab.image_path(), lab.blocks(&lab.image_path()) / 2, 9);
        let (status, result) = ask(&["verify", "--repo", &repository(lab), "--all", "--list-unused"]);
        assert_eq!((status, broken(&result)), (1, Vec::new()), "{result}");
        // It may refer to any object.
        let reason = result["unused_error"].as_str().unwrap();
        assert!(reason.contains(lab.digest()) && result["unused"].is_null(), "{result}");
        for image in result["images"].as_array().unwrap() {
            let is_damaged = image["image"] == format!("images/{}", lab.digest());
            assert_eq!(image["error"].is_string(), is_damaged, "{image}");
        }
    });
}

/// A repository that was copied without fs-verity gets it, file by file, if the file is the right one.
#[test]
fn enable_a_copied_repository() {
    for (disk, algorithm) in [(Disk::Ext4, "sha512"), (Disk::Ext4, "sha256"), (Disk::Btrfs, "sha512")] {
        lab::with_disk(disk, algorithm, |lab| {
            let path = lab.path("copy");
            let copied = path.to_str().unwrap();
            copy(lab, copied);
            let count = |result: &Value| ["enabled", "already"].map(|key| result[key].as_u64().unwrap());
            // One object is another, one is being written to, and one has no digest for a name.
            let wrong = path.join(lab.value("OBJECT_TEXT"));
            let right = fs::read(&wrong).unwrap();
            write(&wrong, b"another content");
            let busy = path.join(lab.value("OBJECT_INIT"));
            let writer = File::options().write(true).open(&busy).unwrap();
            let stray = Path::new(lab.value("OBJECT_TEXT")).with_file_name("stray");
            write(&path.join(&stray), b"");
            let (status, result) = ask(&["enable", "--repo", copied]);
            assert_eq!(status, 1, "{result}");
            assert_eq!(result["ignored"], json!([stray]));
            let failed = result["failed"].as_array().unwrap();
            let error = |name: &str| {
                let failed = failed.iter().find(|failed| failed["path"] == lab.value(name)).unwrap();
                failed["error"].as_str().unwrap().to_owned()
            };
            assert_eq!(failed.len(), 2, "{failed:?}");
            assert!(error("OBJECT_TEXT").contains(", computed "), "{failed:?}");
            assert!(error("OBJECT_INIT").contains("os error 26"), "{failed:?}");
            let [enabled, _] = count(&result);
            // Repaired and started again, it does what is left, and then nothing.
            drop(writer);
            fs::remove_file(&wrong).unwrap();
            write(&wrong, &right);
            let (status, result) = ask(&["enable", "--repo", copied]);
            let [rest, already] = count(&result);
            assert_eq!((status, rest), (0, 2), "{result}");
            assert!(already >= enabled, "{result}");
            assert_eq!(count(&ask(&["enable", "--repo", copied]).1), [0, rest + already]);
            let (status, result) = ask(&["verify", "--repo", copied, "--all"]);
            assert_eq!((status, broken(&result)), (0, Vec::new()), "{result}");
            assert_eq!(result["objects"]["computed"], 0);
        });
    }
}

#[test]
fn enable_files() {
    lab::with("sha512", |lab| {
        let (file, nowhere) = (lab.path("file"), "/run/lab/file");
        write(&file, &[7; 10_000]);
        write(Path::new(nowhere), b"");
        let file = file.to_str().unwrap();
        let (status, result) = ask(&["enable", "--algorithm", "sha512", file, nowhere]);
        assert_eq!((status, &result["enabled"]), (1, &1.into()), "{result}");
        let error = result["failed"][0]["error"].as_str().unwrap();
        assert!(error.starts_with("found a filesystem without fs-verity, tmpfs: "), "{error}");
        assert!(File::options().write(true).open(file).is_err());
        // The kernel measures what is computed in user space.
        let (_, measured) = ask(&["digest", "--algorithm", "sha512", file]);
        let (_, again) = ask(&["enable", "--algorithm", "sha512", file]);
        assert_eq!((&again["already"], &again["failed"]), (&1.into(), &json!([])), "{measured}");
    });
    lab::with_disk(Disk::PlainExt4, "sha512", |lab| {
        let (status, result) = ask(&["enable", "--repo", &repository(lab)]);
        assert_eq!((status, &result["enabled"]), (1, &0.into()));
        let error = result["failed"][0]["error"].as_str().unwrap();
        assert!(error.contains("it needs the feature 'verity' (tune2fs -O verity)"), "{error}");
    });
}

/// What is said of the kernel is what the boot program then finds out.
#[test]
fn probe_agrees_with_the_boot() {
    lab::with("sha512", |lab| {
        let (status, result) = ask(&["probe", "--repo", &repository(lab)]);
        assert_eq!(status, 0, "{result}");
        let found = |feature: &str| {
            let mut features = result["features"].as_array().unwrap().iter();
            let name = |found: &Value| found["feature"].as_str().unwrap().starts_with(feature);
            features.find(|found| name(found)).unwrap_or_else(|| panic!("{feature}"))["found"] == true
        };
        assert!(found("fs-verity at ") && found("overlayfs: verity=require"));
        let kernel = lab.expect_sealed(&lab.boot(), lab.digest())["kernel"].clone();
        assert_eq!(found("EROFS from a file"), kernel["erofs"] == "file", "{kernel}");
        assert_eq!(found("overlayfs: detached mounts as layers"), kernel["mounts"] == "detached", "{kernel}");
        assert_eq!(found("overlayfs: layers one by one"), kernel["layers"] != "list", "{kernel}");
        assert_eq!(found("statmount with source and options"), kernel["mount_table"] == "statmount", "{kernel}");
    });
    lab::with_disk(Disk::PlainExt4, "sha512", |lab| {
        let (status, result) = ask(&["probe", "--repo", &repository(lab)]);
        assert_eq!((status, &result["features"][0]["found"]), (1, &false.into()), "{result}");
    });
}

/// `status`, as it is asked inside the new root.
pub fn status(lab: &Lab) -> (i32, Value) {
    for folder in ["proc", "run"] {
        let target = format!("{SYSROOT}/{folder}");
        mount_at(&format!("/{folder}"), &target, None, MsFlags::MS_BIND | MsFlags::MS_REC);
    }
    let command = lab.state_path("var").join("sealroot");
    fs::copy(COMMAND, &command).unwrap();
    run(Command::new("chroot").args([SYSROOT, "/var/sealroot"]), &["status"])
}

#[test]
fn status_of_a_sealed_root() {
    lab::with("sha512", |lab| {
        lab.expect_sealed(&lab.boot(), lab.digest());
        let (code, result) = status(lab);
        assert_eq!((code, &result["sealed"], &result["problems"]), (0, &true.into(), &json!([])), "{result}");
        assert_eq!(result["image"], format!("sha512:{}", lab.digest()));
        assert_eq!((&result["format"], &result["check"]), (&"v1".into(), &"image".into()));
        // No firmware, no boot stub.
        assert_eq!(result["stub"], Value::Null);
        assert_eq!((&result["not_kept"], &result["keeping"]), (&Value::Null, &Value::Null));
        let points: Vec<_> = result["not_sealed"].as_array().unwrap().iter().map(|mount| &mount["point"]).collect();
        assert_eq!(points, ["/etc", "/var", "/sysroot"]);
        let booted: Vec<_> =
            result["deployments"].as_array().unwrap().iter().filter(|found| found["booted"] == true).collect();
        assert_eq!(booted.len(), 1, "{result}");
    });
}

#[test]
fn status_of_an_etc_of_listed_files() {
    lab::with("sha512", |lab| {
        write(&lab.state_path("etc/upper/ld.so.preload"), b"/var/planted.so");
        lab.config("[etc]\nkeep = [\"machine-id\"]\n");
        lab.expect_sealed(&lab.boot(), lab.digest());
        let (code, result) = status(lab);
        let left = &result["not_kept"];
        assert_eq!((code, &left["count"], &result["keeping"]), (0, &1.into(), &false.into()), "{result}");
        assert_eq!(left["entries"], json!([{"path": "ld.so.preload", "reason": "not-listed"}]));
        let folder = left["folder"].as_str().unwrap();
        let text = Command::new("chroot").args([SYSROOT, "/var/sealroot", "status"]).output().unwrap().stdout;
        let text = String::from_utf8(text).unwrap();
        let lines = format!(
            "not kept:    changes of /etc are lost at the next boot: sealroot-keep.service does not run\n\
             not kept:    1 of /etc, in '{folder}'\n             ld.so.preload (not-listed)\n"
        );
        assert!(text.contains(&lines), "{text}");
        crate::keep::keeping(|| assert_eq!(status(lab).1["keeping"], true));
    });
}

#[test]
fn status_of_a_transient_root() {
    lab::with("sha512", |lab| {
        lab.config("[root]\ntransient = true\n");
        assert_eq!(lab.boot().status, Some(0));
        let (code, result) = status(lab);
        assert_eq!((code, &result["transient"]), (0, &true.into()), "{result}");
        assert_eq!(result["image"], format!("sha512:{}", lab.digest()));
    });
}

#[test]
fn status_that_does_not_hold_together() {
    for (change, problem) in [
        (
            (|lab: &Lab| lab.command_line(&lab.karg("OTHER"))) as fn(&Lab),
            "kernel command line: expected the digest of the root, found another or none",
        ),
        (
            |_| fs::remove_file("/run/sealroot/report.json").unwrap(),
            "report: expected one of the boot program, found none",
        ),
        (
            |_| {
                let report = fs::read_to_string("/run/sealroot/report.json").unwrap();
                fs::write("/run/sealroot/report.json", report.replace("\"sealed\"", "\"unverified\"")).unwrap();
            },
            "report: expected verdict 'sealed', found 'unverified'",
        ),
    ] {
        lab::with("sha512", move |lab| {
            lab.expect_sealed(&lab.boot(), lab.digest());
            change(lab);
            let (code, result) = status(lab);
            assert_eq!((code, &result["sealed"]), (1, &false.into()));
            assert_eq!(result["problems"], json!([problem]), "{result}");
        });
    }
}
