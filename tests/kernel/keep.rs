//! An /etc of listed files: what `etc.keep` does not keep is set aside, whatever it is, and nothing else is.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};

use nix::mount::MsFlags;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::mkfifo;
use rustix::fs::XattrFlags;
use serde_json::{Value, json};

use crate::disk::Disk;
use crate::lab::{self, Lab, Run, mount_at, write};
use crate::loop_devices::CountsFiles;

const KEEP: &str =
    "[etc]\nkeep = [\"machine-id\", \"hostname\", \"ssh/ssh_host_*\", \"default/*\", \"nm/**\", \"localtime\"]\n";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

fn upper(lab: &Lab, path: &str) -> PathBuf {
    lab.state_path("etc/upper").join(path)
}

/// A file of root's in the upper layer, with its directories.
fn plant(lab: &Lab, path: &str, content: &str) -> PathBuf {
    let path = upper(lab, path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    write(&path, content.as_bytes());
    path
}

pub fn set_attribute(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty())
        .unwrap_or_else(|error| panic!("{} {name}: {error}", path.display()));
}

/// An access list that lets the user 1000 read, `struct posix_acl_xattr_header` and its entries.
pub fn access_list() -> Vec<u8> {
    let entry = |tag: u16, permissions: u16, id: u32| {
        [&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    let nobody = u32::MAX;
    let entries = [(1, 7, nobody), (2, 5, 1000), (4, 5, nobody), (0x10, 5, nobody), (0x20, 5, nobody)];
    let mut list = 2_u32.to_le_bytes().to_vec();
    list.extend(entries.into_iter().flat_map(|(tag, permissions, id)| entry(tag, permissions, id)));
    list
}

fn boot(lab: &Lab, config: &str) -> (Run, Value) {
    lab.config(config);
    let run = lab.boot();
    let report = lab.expect_sealed(&run, lab.digest());
    (run, report)
}

fn this_boot() -> String {
    fs::read_to_string(BOOT_ID).unwrap().trim().into()
}

/// Where this boot's things are, on the physical root.
fn folder(lab: &Lab) -> String {
    format!("state/deploy/{}/etc/rejected/{}", lab.digest(), this_boot())
}

/// Expects exactly these in the report, and nothing of them in /etc, but in the folder of this boot.
fn expect_set_aside(lab: &Lab, report: &Value, expected: &[(&str, &str)]) {
    let entries: Vec<_> = expected.iter().map(|(path, reason)| json!({"path": path, "reason": reason})).collect();
    let found = &report["set_aside"];
    assert_eq!(found["entries"], Value::Array(entries));
    assert_eq!((&found["count"], &found["folder"]), (&json!(expected.len()), &json!(folder(lab))));
    for (path, _) in expected {
        let aside = lab.path(&folder(lab)).join(path);
        assert!(fs::symlink_metadata(&aside).is_ok(), "{} is missing", aside.display());
        assert!(fs::symlink_metadata(upper(lab, path)).is_err(), "{path} is still in the upper layer");
    }
}

fn expect_nothing_set_aside(run: &Run, report: &Value) {
    assert_eq!(report.get("set_aside"), None);
    assert!(!run.log.iter().any(|line| line.contains("set aside")), "{run:?}");
}

fn expect_content(path: &str, content: &str) {
    assert_eq!(fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}")), content, "{path}");
}

fn listed_stays_and_the_rest_goes(lab: &Lab) {
    for (path, content) in
        [("machine-id", "id"), ("ssh/ssh_host_rsa_key", "key"), ("nm/a/b/c", "network"), ("default/other", "default")]
    {
        plant(lab, path, content);
    }
    plant(lab, "ld.so.preload", "/var/evil.so");
    plant(lab, "systemd/system/evil.service", "[Service]");
    plant(lab, "ssh/sshd_config", "PermitRootLogin yes");
    plant(lab, "hostname/deep/file", "a directory in the place of a file");
    let (run, report) = boot(lab, KEEP);
    let gone = [
        ("hostname", "not-listed"),
        ("ld.so.preload", "not-listed"),
        ("ssh/sshd_config", "not-listed"),
        ("systemd", "not-listed"),
    ];
    expect_set_aside(lab, &report, &gone);
    let line = format!(
        "4 sealroot: etc: 4 entries that etc.keep does not keep, set aside in '{}': 'hostname' (not-listed), \
         'ld.so.preload' (not-listed), 'ssh/sshd_config' (not-listed) and 1 more",
        folder(lab)
    );
    assert!(run.log.contains(&line), "{run:?}");
    assert_eq!(report["policy"]["etc.keep"]["value"][0], "machine-id");
    expect_content("/sysroot/etc/machine-id", "id");
    expect_content("/sysroot/etc/ssh/ssh_host_rsa_key", "key");
    expect_content("/sysroot/etc/nm/a/b/c", "network");
    expect_content("/sysroot/etc/default/other", "default");
    expect_content("/sysroot/etc/hostname", "fixture\n");
    for path in ["ld.so.preload", "systemd", "ssh/sshd_config"] {
        assert!(!Path::new("/sysroot/etc").join(path).exists(), "{path}");
    }
    // As it was, for whoever looks into it, and for nobody else.
    let aside = lab.path(&folder(lab));
    assert_eq!(fs::read(aside.join("systemd/system/evil.service")).unwrap(), b"[Service]");
    for closed in [aside.parent().unwrap(), &aside] {
        assert_eq!(fs::metadata(closed).unwrap().mode() & 0o7777, 0o700, "{}", closed.display());
    }
    lab.forget();
    let (run, report) = boot(lab, KEEP);
    expect_nothing_set_aside(&run, &report);
    expect_content("/sysroot/etc/machine-id", "id");
}

#[test]
fn listed_files_stay_and_the_rest_goes() {
    for disk in [Disk::Ext4, Disk::Btrfs, Disk::F2fs] {
        lab::with_disk(disk, "sha512", listed_stays_and_the_rest_goes);
    }
    lab::with("sha512", |lab| {
        plant(lab, "ld.so.preload", "x");
        lab.make_read_only();
        let (_, report) = boot(lab, KEEP);
        expect_set_aside(lab, &report, &[("ld.so.preload", "not-listed")]);
    });
}

/// A directory is made anew with the owner, mode and label that it had.
#[test]
fn directories_are_made_as_they_were() {
    lab::with("sha512", |lab| {
        plant(lab, "nm/a/b", "network");
        let (folder, label) = (upper(lab, "nm/a"), b"system_u:object_r:etc_t:s0\0");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o750)).unwrap();
        rustix::fs::setxattr(&folder, "security.selinux", label, rustix::fs::XattrFlags::empty()).unwrap();
        let inode = fs::metadata(&folder).unwrap().ino();
        boot(lab, KEEP);
        let found = fs::metadata(&folder).unwrap();
        assert_eq!((found.mode() & 0o7777, found.uid(), found.gid()), (0o750, 0, 0));
        assert_ne!(found.ino(), inode);
        let mut buffer = [0; 64];
        let length = rustix::fs::getxattr(&folder, "security.selinux", &mut buffer).unwrap();
        assert_eq!(&buffer[..length], label);
    });
}

/// A boot that was cut off while it moved what stays into a new upper layer: nothing is lost, wherever that was.
#[test]
fn after_a_boot_that_was_cut_off() {
    // Some of it was moved, all of it was and the old layer is gone, or the same name is in both.
    for (moved, left) in [("machine-id", "ssh/ssh_host_rsa_key"), ("machine-id ssh/ssh_host_rsa_key", "")] {
        lab::with("sha512", move |lab| {
            for path in left.split_whitespace() {
                plant(lab, path, path);
            }
            let begun = lab.state_path("etc/upper.0-1.0");
            for path in moved.split_whitespace() {
                let path = begun.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(&path, path.strip_prefix(&begun).unwrap().to_str().unwrap()).unwrap();
            }
            if left.is_empty() {
                fs::remove_dir_all(lab.state_path("etc/upper")).unwrap();
            }
            let (run, report) = boot(lab, KEEP);
            expect_nothing_set_aside(&run, &report);
            for path in ["machine-id", "ssh/ssh_host_rsa_key"] {
                expect_content(&format!("/sysroot/etc/{path}"), path);
            }
            let left: Vec<_> =
                fs::read_dir(lab.state_path("etc")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert_eq!(left.iter().filter(|name| name.to_str().unwrap().starts_with("upper")).count(), 1, "{left:?}");
        });
    }
    lab::with("sha512", |lab| {
        plant(lab, "machine-id", "older");
        let begun = lab.state_path("etc/upper.0-1.0");
        fs::create_dir(&begun).unwrap();
        fs::write(begun.join("machine-id"), "newer").unwrap();
        let (_, report) = boot(lab, KEEP);
        expect_content("/sysroot/etc/machine-id", "newer");
        assert_eq!(report["set_aside"]["entries"], json!([{"path": "machine-id", "reason": "twice"}]));
    });
    // More of them than any machine leaves behind.
    refused(
        "",
        |lab| (0..17).for_each(|number| fs::create_dir(lab.state_path(&format!("etc/upper.{number}"))).unwrap()),
        "/upper': expected at most 16 begun ones (etc.keep), found more",
    );
}

/// What the booted system does with listed files, in the ways in which overlayfs leaves traces of it.
#[test]
fn what_the_system_wrote_stays() {
    lab::with("sha512", |lab| {
        boot(lab, KEEP);
        let etc = Path::new("/sysroot/etc");
        fs::write(etc.join("hostname"), "changed").unwrap();
        fs::write(etc.join("default/settings"), "changed").unwrap();
        fs::DirBuilder::new().recursive(true).mode(0o700).create(etc.join("nm/connections")).unwrap();
        fs::write(etc.join("nm/connections/home"), "secret").unwrap();
        fs::write(etc.join("machine-id"), "id").unwrap();
        fs::rename(etc.join("machine-id"), etc.join("nm/moved")).unwrap();
        fs::create_dir(etc.join("ssh")).unwrap();
        fs::write(etc.join("ssh/ssh_host_rsa_key"), "key").unwrap();
        fs::set_permissions(etc.join("ssh/ssh_host_rsa_key"), fs::Permissions::from_mode(0o600)).unwrap();
        symlink("../usr/share/text", etc.join("localtime")).unwrap();
        lab.forget();
        let (run, report) = boot(lab, KEEP);
        expect_nothing_set_aside(&run, &report);
        for (path, content) in [
            ("hostname", "changed"),
            ("default/settings", "changed"),
            ("nm/connections/home", "secret"),
            ("nm/moved", "id"),
            ("ssh/ssh_host_rsa_key", "key"),
        ] {
            expect_content(etc.join(path).to_str().unwrap(), content);
        }
        assert_eq!(fs::metadata(etc.join("default")).unwrap().mode() & 0o7777, 0o755);
        assert_eq!(fs::read_link(etc.join("localtime")).unwrap(), Path::new("../usr/share/text"));
    });
}

#[test]
fn an_empty_list_keeps_nothing_and_none_keeps_all() {
    lab::with("sha512", |lab| {
        plant(lab, "machine-id", "id");
        let (run, report) = boot(lab, "");
        expect_nothing_set_aside(&run, &report);
        assert_eq!(report["policy"]["etc.keep"], json!({"value": null, "from": "default"}));
        expect_content("/sysroot/etc/machine-id", "id");
        assert!(!lab.state_path("etc/rejected").exists());
        lab.forget();
        let (run, report) = boot(lab, "[etc]\nkeep = []\n");
        expect_set_aside(lab, &report, &[("machine-id", "not-listed")]);
        let line = format!(
            "4 sealroot: etc: 1 entry that etc.keep does not keep, set aside in '{}': 'machine-id' (not-listed)",
            folder(lab)
        );
        assert!(run.log.contains(&line), "{run:?}");
        assert!(!Path::new("/sysroot/etc/machine-id").exists());
    });
}

/// A listed name is no licence.
#[test]
fn listed_and_not_what_a_file_should_be() {
    lab::with("sha512", |lab| {
        let file = |name: &str| plant(lab, &format!("nm/{name}"), "x");
        let mode = |name: &str, mode| fs::set_permissions(file(name), fs::Permissions::from_mode(mode)).unwrap();
        let node = |name: &str, kind, device| {
            mknod(&upper(lab, &format!("nm/{name}")), kind, Mode::from_bits_truncate(0o600), device).unwrap();
        };
        let link = |name: &str, target: &str| symlink(target, upper(lab, &format!("nm/{name}"))).unwrap();
        file("good");
        set_attribute(&file("good-for-users"), "user.note", b"1");
        mode("01-setuid", 0o4755);
        mode("02-setgid", 0o2755);
        mode("03-sticky", 0o1644);
        mode("04-group-writable", 0o664);
        mode("05-writable", 0o646);
        chown(file("06-user"), Some(1000), None).unwrap();
        chown(file("07-group"), None, Some(42)).unwrap();
        fs::hard_link(file("08-hard-link"), upper(lab, "nm/08-other-name")).unwrap();
        node("09-whiteout", SFlag::S_IFCHR, makedev(0, 0));
        node("10-device", SFlag::S_IFCHR, makedev(1, 3));
        node("11-block", SFlag::S_IFBLK, makedev(254, 0));
        mkfifo(&upper(lab, "nm/12-fifo"), Mode::from_bits_truncate(0o600)).unwrap();
        node("13-socket", SFlag::S_IFSOCK, 0);
        link("14-absolute", "/usr/share/text");
        link("15-to-etc", "../passwd");
        link("16-out", "../../../usr/share/text");
        link("17-around", "../../usr/../var/x");
        link("18-short", "../usr/x");
        link("18-to-var", "../../var/x");
        link("19-owned", "../../usr/share/text");
        lchown(upper(lab, "nm/19-owned"), Some(1000), None).unwrap();
        link("good-link", "../../usr/share/text");
        // PID 1 mounts an identifier over what it leads to.
        symlink("../usr/share/text", upper(lab, "machine-id")).unwrap();
        set_attribute(&file("20-metacopy"), "trusted.overlay.metacopy", b"");
        set_attribute(&file("21-redirect"), "trusted.overlay.redirect", b"/secret");
        set_attribute(&file("22-access-list"), "system.posix_acl_access", &access_list());
        let capability = [1, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        set_attribute(&file("23-capability"), "security.capability", &capability);
        set_attribute(&file("24-unknown"), "trusted.something", b"");
        let directory = |name: &str| {
            let path = upper(lab, &format!("nm/{name}"));
            fs::create_dir(&path).unwrap();
            path
        };
        fs::set_permissions(directory("25-open"), fs::Permissions::from_mode(0o1777)).unwrap();
        set_attribute(&directory("26-inherited"), "system.posix_acl_default", &access_list());
        chown(directory("27-user"), Some(1000), None).unwrap();
        // The name of no file is text.
        let bytes = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"nm/28-\xff\n");
        mkfifo(&lab.state_path("etc/upper").join(bytes), Mode::from_bits_truncate(0o600)).unwrap();
        let (_, report) = boot(lab, KEEP);
        let expected = [
            ("01-setuid", "mode"),
            ("02-setgid", "mode"),
            ("03-sticky", "mode"),
            ("04-group-writable", "mode"),
            ("05-writable", "mode"),
            ("06-user", "owner"),
            ("07-group", "owner"),
            ("08-hard-link", "hard-links"),
            ("08-other-name", "hard-links"),
            ("09-whiteout", "kind"),
            ("10-device", "kind"),
            ("11-block", "kind"),
            ("12-fifo", "kind"),
            ("13-socket", "kind"),
            ("14-absolute", "link"),
            ("15-to-etc", "link"),
            ("16-out", "link"),
            ("17-around", "link"),
            ("18-short", "link"),
            ("18-to-var", "link"),
            ("19-owned", "owner"),
            ("20-metacopy", "attributes"),
            ("21-redirect", "attributes"),
            ("22-access-list", "attributes"),
            ("23-capability", "attributes"),
            ("24-unknown", "attributes"),
            ("25-open", "mode"),
            ("26-inherited", "attributes"),
            ("27-user", "owner"),
            ("28-\\xff\\n", "kind"),
        ];
        let below = expected.iter().map(|(name, reason)| json!({"path": format!("nm/{name}"), "reason": reason}));
        let entries: Vec<_> = [json!({"path": "machine-id", "reason": "link"})].into_iter().chain(below).collect();
        assert_eq!(report["set_aside"]["entries"], Value::Array(entries));
        let mut left: Vec<_> =
            fs::read_dir("/sysroot/etc/nm").unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort_unstable();
        assert_eq!(left, ["good", "good-for-users", "good-link"]);
    });
}

/// Nothing that is listed hides more of the sealed /etc than the file of the same name.
#[test]
fn what_would_hide_sealed_files() {
    lab::with("sha512", |lab| {
        let whiteout = |path: &str| {
            mknod(&upper(lab, path), SFlag::S_IFCHR, Mode::from_bits_truncate(0o600), makedev(0, 0)).unwrap();
        };
        whiteout("hostname");
        plant(lab, "default/other", "x");
        set_attribute(&upper(lab, "default"), "trusted.overlay.opaque", b"y");
        let (_, report) = boot(lab, KEEP);
        expect_set_aside(lab, &report, &[("default", "attributes"), ("hostname", "kind")]);
        expect_content("/sysroot/etc/hostname", "fixture\n");
        assert!(Path::new("/sysroot/etc/default/settings").exists());
    });
    // A file in the place of a directory, one that opens up what was closed, and one of the group of the sealed file.
    lab::with("sha512", |lab| {
        plant(lab, "default", "a file");
        let shadow = plant(lab, "shadow", "root::");
        chown(&shadow, None, Some(42)).unwrap();
        let (_, report) = boot(lab, "[etc]\nkeep = [\"default*\", \"shadow\"]\n");
        expect_set_aside(lab, &report, &[("default", "kind"), ("shadow", "owner")]);
        assert!(Path::new("/sysroot/etc/default/settings").exists());
    });
    lab::with("sha512", |lab| {
        plant(lab, "default/other", "x");
        fs::set_permissions(upper(lab, "default"), fs::Permissions::from_mode(0o775)).unwrap();
        let (_, report) = boot(lab, KEEP);
        expect_set_aside(lab, &report, &[("default", "mode")]);
    });
}

fn refused(keep: &'static str, change: fn(&Lab), message: &'static str) {
    lab::with("sha512", move |lab| {
        change(lab);
        lab.config(&format!("[etc]\nkeep = [{keep}]\n"));
        let state = format!("state directory 'state/deploy/{}/etc", lab.digest());
        lab.expect_refused(&lab.boot(), &format!("assemble: {state}{message}"));
    });
}

#[test]
fn too_much() {
    refused(
        "",
        |lab| {
            // A file has at most 65,000 names on ext4.
            for file in 0..2 {
                let first = plant(lab, &format!("{file}"), "");
                (0..32_768).for_each(|name| fs::hard_link(&first, upper(lab, &format!("{file}-{name}"))).unwrap());
            }
        },
        "/upper': expected at most 65536 entries (etc.keep), found more",
    );
    refused(
        "\"deep/**\"",
        |lab| drop(plant(lab, &format!("deep{}/file", "/d".repeat(32)), "")),
        "/upper': expected at most 32 levels of directories (etc.keep), found more",
    );
    lab::with("sha512", |lab| {
        let path = format!("deep{}/file", "/d".repeat(31));
        plant(lab, &path, "x");
        boot(lab, "[etc]\nkeep = [\"deep/**\"]\n");
        expect_content(&format!("/sysroot/etc/{path}"), "x");
    });
}

/// A tree that nobody lists is moved as it is, however much there is in it.
#[test]
fn a_tree_is_moved_without_a_look() {
    lab::with("sha512", |lab| {
        plant(lab, &format!("deep{}/file", "/d".repeat(100)), "x");
        let (_, report) = boot(lab, KEEP);
        expect_set_aside(lab, &report, &[("deep", "not-listed")]);
    });
}

#[test]
fn rejected_is_something_else() {
    refused("", |lab| symlink("../var", lab.state_path("etc/rejected")).unwrap(), "/rejected': <errno 40>");
    refused(
        "",
        |lab| write(&lab.state_path("etc/rejected"), b""),
        "/rejected': expected a directory, found a regular file",
    );
    refused(
        "",
        |lab| fs::create_dir(lab.state_path("etc/rejected")).unwrap(),
        "/rejected': expected owner and mode 0:0 0700, found 0:0 0755",
    );
    refused(
        "",
        |lab| {
            let rejected = lab.state_path("etc/rejected");
            fs::DirBuilder::new().mode(0o700).create(&rejected).unwrap();
            chown(rejected, Some(1000), None).unwrap();
        },
        "/rejected': expected owner and mode 0:0 0700, found 1000:0 0700",
    );
}

#[test]
fn upper_with_attributes_of_its_own() {
    refused(
        "",
        |lab| set_attribute(&upper(lab, ""), "trusted.overlay.opaque", b"y"),
        "/upper': expected no attributes of its own (etc.keep), found some",
    );
}

#[test]
fn only_an_overlay_has_something_to_keep() {
    for (config, mount) in
        [("mount = \"transient\"", "transient"), ("mount = \"none\"", "none"), ("mount = \"bind\"", "bind")]
    {
        lab::with("sha512", move |lab| {
            plant(lab, "ld.so.preload", "x");
            lab.config(&format!("[etc]\n{config}\nkeep = [\"machine-id\"]\n"));
            let message =
                format!("ask: configuration: expected etc.mount = \"overlay\" (etc.keep is set), found \"{mount}\"");
            lab.expect_refused(&lab.boot(), &message);
            assert!(upper(lab, "ld.so.preload").exists());
        });
    }
}

/// Each boot has a folder of its own. None is ever deleted, and from 16 on the log says so.
#[test]
fn folders_of_earlier_boots() {
    lab::with("sha512", |lab| {
        fs::write("/run/lab/boot_id", "").unwrap();
        mount_at("/run/lab/boot_id", BOOT_ID, None, MsFlags::MS_BIND);
        for number in 0..17 {
            fs::write("/run/lab/boot_id", format!("boot-{number}\n")).unwrap();
            plant(lab, "again", &number.to_string());
            let (run, report) = boot(lab, "[etc]\nkeep = []\n");
            expect_set_aside(lab, &report, &[("again", "not-listed")]);
            assert_eq!(report["set_aside"]["earlier_folders"], number);
            let warned =
                run.log.iter().any(|line| line.ends_with("of earlier boots are there, and none is ever deleted"));
            assert_eq!(warned, number >= 16, "{run:?}");
            lab.forget();
        }
        assert_eq!(fs::read_dir(lab.state_path("etc/rejected")).unwrap().count(), 17);
    });
}

/// What the first of two attempts set aside, and what was set aside before a refusal, is told too.
#[test]
fn what_was_set_aside_on_the_way() {
    lab::with("sha512", |lab| {
        plant(lab, "ld.so.preload", "x");
        lab.config("[etc]\nkeep = []\n");
        let report = lab.expect_sealed(&lab.boot_on(&mut CountsFiles::default()), lab.digest());
        assert_eq!(report["kernel"]["erofs"], "loop");
        expect_set_aside(lab, &report, &[("ld.so.preload", "not-listed")]);
    });
    lab::with("sha512", |lab| {
        plant(lab, "ld.so.preload", "x");
        fs::set_permissions(lab.state_path("etc/work"), fs::Permissions::from_mode(0o777)).unwrap();
        lab.config("[etc]\nkeep = []\n");
        let message = format!(
            "assemble: state directory 'state/deploy/{}/etc/work': expected owner and mode 0:0 0700, found 0:0 0777",
            lab.digest()
        );
        lab.expect_refused(&lab.boot(), &message);
        expect_set_aside(lab, &lab.report(), &[("ld.so.preload", "not-listed")]);
    });
}
