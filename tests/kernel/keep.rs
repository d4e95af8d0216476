//! An /etc of listed files: what `etc.keep` lists is copied from the disk, nothing else of it comes to /etc, and what changes is
//! written back.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::mount::{MntFlags, MsFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{Pid, mkfifo};
use rustix::fs::XattrFlags;
use serde_json::{Value, json};

use crate::command::COMMAND;
use crate::disk::Disk;
use crate::expect::wait_until;
use crate::lab::{self, KEPT, Lab, Run, mount_at, write};
use crate::loop_devices::CountsFiles;

const KEEP: &str =
    "[etc]\nkeep = [\"machine-id\", \"hostname\", \"ssh/ssh_host_*\", \"default/*\", \"nm/**\", \"localtime\"]\n";

fn upper(lab: &Lab, path: &str) -> PathBuf {
    lab.state_path("etc/upper").join(path)
}

/// A file of root's that is kept on the disk, with its directories.
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

fn etc(path: &str) -> PathBuf {
    Path::new("/sysroot/etc").join(path)
}

/// Does something in the booted system while sealroot-keep.service runs there. All that it does is on the disk afterwards.
pub fn keeping(meanwhile: impl FnOnce()) {
    let (status, said, _) = run_keep(meanwhile);
    assert_eq!((status, said.as_str()), (Some(0), ""));
}

/// The same, however it ends: with the exit status, what it said of failures, and how much it changed.
fn run_keep(meanwhile: impl FnOnce()) -> (Option<i32>, String, String) {
    fs::create_dir_all("/etc").unwrap();
    mount_at("/sysroot/etc", "/etc", None, MsFlags::MS_BIND);
    let process = Command::new(COMMAND).arg("keep").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let id = Pid::from_raw(process.id().try_into().unwrap());
    let work = || {
        wait_until("changes are watched", || watches(id));
        meanwhile();
    };
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    kill(id, Signal::SIGTERM).unwrap();
    let output = process.wait_with_output().unwrap();
    result.unwrap_or_else(|failure| std::panic::resume_unwind(failure));
    umount2("/etc", MntFlags::MNT_DETACH).unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stderr), text(output.stdout))
}

/// Whether a process is told about changes. It saves what there is only after that.
fn watches(process: Pid) -> bool {
    let files = fs::read_dir(format!("/proc/{process}/fdinfo")).into_iter().flatten();
    files.flatten().any(|file| fs::read_to_string(file.path()).is_ok_and(|text| text.contains("inotify wd:")))
}

/// Expects exactly these in the report, and nothing of them in /etc; on the disk they are where they were.
fn expect_not_kept(lab: &Lab, report: &Value, expected: &[(&str, &str)]) {
    let entries: Vec<_> = expected.iter().map(|(path, reason)| json!({"path": path, "reason": reason})).collect();
    let found = &report["not_kept"];
    assert_eq!(found["entries"], Value::Array(entries));
    let folder = format!("state/deploy/{}/etc/upper", lab.digest());
    assert_eq!((&found["count"], &found["folder"]), (&json!(expected.len()), &json!(folder)));
    for (path, _) in expected {
        assert!(fs::symlink_metadata(upper(lab, path)).is_ok(), "{path} is missing");
        assert!(fs::symlink_metadata(Path::new(KEPT).join("upper").join(path)).is_err(), "{path} was taken");
    }
}

fn expect_all_kept(run: &Run, report: &Value) {
    assert_eq!(report.get("not_kept"), None);
    assert!(!run.log.iter().any(|line| line.contains("does not keep")), "{run:?}");
}

fn expect_content(path: &Path, content: &str) {
    let found = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(found, content, "{}", path.display());
}

fn listed_comes_and_the_rest_stays(lab: &Lab) {
    for (path, content) in
        [("machine-id", "id"), ("ssh/ssh_host_rsa_key", "key"), ("nm/a/b/c", "network"), ("default/other", "default")]
    {
        plant(lab, path, content);
    }
    plant(lab, "ld.so.preload", "/var/evil.so");
    plant(lab, "systemd/system/evil.service", "[Service]");
    plant(lab, "ssh/sshd_config", "PermitRootLogin yes");
    plant(lab, "hostname/deep/file", "a directory in the place of a file");
    for _ in 0..2 {
        let (run, report) = boot(lab, KEEP);
        let left = [
            ("hostname", "not-listed"),
            ("ld.so.preload", "not-listed"),
            ("ssh/sshd_config", "not-listed"),
            ("systemd", "not-listed"),
        ];
        expect_not_kept(lab, &report, &left);
        let line = format!(
            "4 sealroot: etc: 4 entries that etc.keep does not keep, left in 'state/deploy/{}/etc/upper': 'hostname' \
             (not-listed), 'ld.so.preload' (not-listed), 'ssh/sshd_config' (not-listed) and 1 more",
            lab.digest()
        );
        assert!(run.log.contains(&line), "{run:?}");
        assert_eq!(report["policy"]["etc.keep"]["value"][0], "machine-id");
        expect_content(&etc("machine-id"), "id");
        expect_content(&etc("ssh/ssh_host_rsa_key"), "key");
        expect_content(&etc("nm/a/b/c"), "network");
        expect_content(&etc("default/other"), "default");
        expect_content(&etc("hostname"), "fixture\n");
        for path in ["ld.so.preload", "systemd", "ssh/sshd_config"] {
            assert!(!etc(path).exists(), "{path}");
        }
        // What is written is in memory.
        fs::write(etc("written"), "x").unwrap();
        fs::write(etc("machine-id"), "changed").unwrap();
        lab.forget();
    }
    expect_content(&upper(lab, "machine-id"), "id");
    assert!(!upper(lab, "written").exists());
}

#[test]
fn listed_files_come_and_the_rest_stays() {
    for disk in [Disk::Ext4, Disk::Btrfs, Disk::F2fs] {
        lab::with_disk(disk, "sha512", listed_comes_and_the_rest_stays);
    }
    lab::with("sha512", |lab| {
        plant(lab, "ld.so.preload", "x");
        lab.make_read_only();
        let (_, report) = boot(lab, KEEP);
        expect_not_kept(lab, &report, &[("ld.so.preload", "not-listed")]);
    });
}

/// Nobody but root finds what the booted system keeps, nobody writes below the overlay, and nothing on the disk is run.
#[test]
fn where_the_booted_system_finds_it() {
    lab::with("sha512", |lab| {
        boot(lab, KEEP);
        assert_eq!(fs::metadata(KEPT).unwrap().mode() & 0o7777, 0o700);
        for (path, flags) in [("", ["ro", "nosuid", "nodev", "noexec"]), ("/disk", ["rw", "nosuid", "nodev", "noexec"])]
        {
            let mount = lab.mount_of(&format!("{KEPT}{path}")).unwrap();
            for flag in flags {
                assert!(mount.flags.iter().any(|found| found == flag), "{path} {flag}: {mount:?}");
            }
        }
        // A second start finds the root in place, and leaves it so.
        assert_eq!(lab.run(&[]).status, Some(0));
        assert!(Path::new(KEPT).join("disk/upper").exists());
    });
}

/// What stops a boot takes it away again.
#[test]
fn nothing_is_left_of_a_refused_boot() {
    lab::with("sha512", |lab| {
        boot(lab, KEEP);
        mount_at("none", "/sysroot/usr", Some("tmpfs"), MsFlags::empty());
        assert_eq!(lab.run(&["gate"]).status, Some(1));
        assert!(lab.mount_of(KEPT).is_none());
        assert!(lab.mount_of("/sysroot").is_none());
    });
}

/// A directory is made with the mode and the label that it had, or as the sealed one.
#[test]
fn directories_are_made_as_they_were() {
    lab::with("sha512", |lab| {
        plant(lab, "nm/a/b", "network");
        plant(lab, "default/other", "x");
        let label = b"system_u:object_r:etc_t:s0\0";
        fs::set_permissions(upper(lab, "nm/a"), fs::Permissions::from_mode(0o750)).unwrap();
        fs::set_permissions(upper(lab, "default"), fs::Permissions::from_mode(0o777)).unwrap();
        fs::set_permissions(upper(lab, "nm/a/b"), fs::Permissions::from_mode(0o600)).unwrap();
        for path in ["nm/a", "nm/a/b"] {
            set_attribute(&upper(lab, path), "security.selinux", label);
        }
        let (run, report) = boot(lab, KEEP);
        expect_all_kept(&run, &report);
        for (path, mode) in [("nm/a", 0o750), ("nm/a/b", 0o600), ("default", 0o755)] {
            let found = fs::metadata(etc(path)).unwrap();
            assert_eq!((found.mode() & 0o7777, found.uid(), found.gid()), (mode, 0, 0), "{path}");
        }
        for path in ["nm/a", "nm/a/b"] {
            let mut buffer = [0; 64];
            let length = rustix::fs::getxattr(etc(path), "security.selinux", &mut buffer[..]).unwrap();
            assert_eq!(&buffer[..length], label);
        }
    });
}

/// What the booted system does with listed files is there at the next boot, and nothing else is.
#[test]
fn what_the_system_wrote_is_kept() {
    for disk in [Disk::Ext4, Disk::Btrfs, Disk::F2fs] {
        lab::with_disk(disk, "sha512", |lab| {
            plant(lab, "ssh/ssh_host_old_key", "old");
            plant(lab, "nm/gone/file", "gone");
            plant(lab, "default/kept", "as it was");
            boot(lab, KEEP);
            let inode = fs::metadata(upper(lab, "default/kept")).unwrap().ino();
            keeping(|| {
                fs::write("/etc/hostname", "changed").unwrap();
                let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
                fs::File::options().write(true).open("/etc/hostname").unwrap().set_modified(time).unwrap();
                fs::write("/etc/default/settings", "changed").unwrap();
                fs::DirBuilder::new().recursive(true).mode(0o700).create("/etc/nm/connections").unwrap();
                fs::write("/etc/nm/connections/home", "secret").unwrap();
                fs::write("/etc/machine-id", "id").unwrap();
                fs::rename("/etc/machine-id", "/etc/nm/moved").unwrap();
                fs::write("/etc/ssh/ssh_host_rsa_key", "key").unwrap();
                fs::set_permissions("/etc/ssh/ssh_host_rsa_key", fs::Permissions::from_mode(0o600)).unwrap();
                fs::remove_file("/etc/ssh/ssh_host_old_key").unwrap();
                fs::remove_dir_all("/etc/nm/gone").unwrap();
                symlink("../usr/share/text", "/etc/localtime").unwrap();
                // Not listed.
                fs::write("/etc/ld.so.preload", "x").unwrap();
                fs::write("/etc/ssh/sshd_config", "x").unwrap();
            });
            // What did not change was not written.
            assert_eq!(fs::metadata(upper(lab, "default/kept")).unwrap().ino(), inode);
            lab.forget();
            let (run, report) = boot(lab, KEEP);
            expect_all_kept(&run, &report);
            for (path, content) in [
                ("hostname", "changed"),
                ("default/settings", "changed"),
                ("default/kept", "as it was"),
                ("nm/connections/home", "secret"),
                ("nm/moved", "id"),
                ("ssh/ssh_host_rsa_key", "key"),
            ] {
                expect_content(&etc(path), content);
            }
            assert_eq!(fs::metadata(etc("nm/connections")).unwrap().mode() & 0o7777, 0o700);
            // What `.updated` is for.
            let times = [etc("hostname"), upper(lab, "hostname")].map(|file| fs::metadata(file).unwrap().mtime());
            assert_eq!(times, [1_000_000_000; 2]);
            assert_eq!(fs::metadata(etc("ssh/ssh_host_rsa_key")).unwrap().mode() & 0o7777, 0o600);
            assert_eq!(fs::read_link(etc("localtime")).unwrap(), Path::new("../usr/share/text"));
            for path in ["machine-id", "ssh/ssh_host_old_key", "nm/gone", "ld.so.preload", "ssh/sshd_config"] {
                assert!(!etc(path).exists() && !upper(lab, path).exists(), "{path}");
            }
        });
    }
}

/// A file is on the disk soon after it was written: what follows may be a power cut.
#[test]
fn what_was_written_is_soon_on_the_disk() {
    lab::with("sha512", |lab| {
        plant(lab, "ssh/ssh_host_key", "old");
        boot(lab, KEEP);
        keeping(|| {
            // Where no directory was, in one that is sealed, and in place of what is on the disk.
            for path in ["nm/new/file", "default/other", "ssh/ssh_host_key"] {
                let file = Path::new("/etc").join(path);
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(file, "new").unwrap();
                let saved = || fs::read(upper(lab, path)).is_ok_and(|content| content == b"new");
                wait_until(&format!("{path} is on the disk"), saved);
            }
            // Moved there, as programs do that write a file anew.
            fs::write("/etc/ssh/other", "newer").unwrap();
            fs::rename("/etc/ssh/other", "/etc/ssh/ssh_host_key").unwrap();
            wait_until("it is replaced", || fs::read(upper(lab, "ssh/ssh_host_key")).unwrap() == b"newer");
            fs::remove_file("/etc/default/other").unwrap();
            wait_until("it is removed", || !upper(lab, "default/other").exists());
        });
        assert!(!lab.state_path("etc/new").exists());
    });
}

/// What cannot be written is said, tried again, and an error in the end if it is still not on the disk.
#[test]
fn what_cannot_be_written() {
    lab::with("sha512", |lab| {
        // A directory in the place of the file.
        plant(lab, "machine-id/file", "x");
        boot(lab, KEEP);
        fs::write(etc("machine-id"), "id").unwrap();
        // Too large to come back.
        fs::write(etc("default/large"), vec![0; (4 << 20) + 1]).unwrap();
        let run = run_keep(|| {
            fs::write("/etc/hostname", "all the same").unwrap();
            wait_until("another file is on the disk", || upper(lab, "hostname").exists());
        });
        let expected = "<4>sealroot keep: etc: 'default/large': expected at most 4194304 bytes (etc.keep), found more, not kept\n\
             <4>sealroot keep: etc: 'machine-id': Is a directory (os error 21), not kept\n\
             sealroot keep: etc: 'default/large': expected at most 4194304 bytes (etc.keep), found more\n\
             sealroot keep: etc: 'machine-id': Is a directory (os error 21)\n";
        assert_eq!(run, (Some(1), expected.into(), "kept: 2 changes of /etc\n".into()));
    });
}

/// What an interrupted run left is cleared away, and nothing on the disk leads the one that writes anywhere else.
#[test]
fn what_is_planted_where_is_written() {
    lab::with("sha512", |lab| {
        write(&lab.state_path("etc/new"), b"half a file");
        fs::create_dir(upper(lab, "ssh")).unwrap();
        symlink("/var", upper(lab, "nm")).unwrap();
        symlink("/var/machine-id", upper(lab, "machine-id")).unwrap();
        boot(lab, KEEP);
        keeping(|| {
            fs::write("/etc/machine-id", "id").unwrap();
            wait_until("it is on the disk", || upper(lab, "machine-id").is_file());
        });
        assert!(!lab.state_path("etc/new").exists());
        assert!(fs::symlink_metadata(upper(lab, "machine-id")).unwrap().is_file());
        assert!(!Path::new("/sysroot/var/machine-id").exists());
    });
    lab::with("sha512", |lab| {
        fs::create_dir(lab.state_path("etc/new")).unwrap();
        symlink("/var", upper(lab, "nm")).unwrap();
        boot(lab, KEEP);
        fs::create_dir(etc("nm")).unwrap();
        fs::write(etc("nm/file"), "x").unwrap();
        let run = run_keep(|| ());
        assert_eq!(run.0, Some(1), "{run:?}");
        assert!(run.1.contains("etc: 'nm': Symbolic link loop (os error 40), not kept"), "{run:?}");
        assert!(!Path::new("/sysroot/var/file").exists());
    });
}

#[test]
fn without_anything_to_keep() {
    lab::with("sha512", |lab| {
        let keep = || {
            let output = Command::new(COMMAND).arg("keep").output().unwrap();
            (output.status.code(), String::from_utf8(output.stderr).unwrap())
        };
        let no_list = (Some(1), "sealroot keep: etc.keep: expected a list, found none\n".to_owned());
        assert_eq!(keep(), no_list);
        boot(lab, "");
        assert_eq!(keep(), no_list);
        lab.forget();
        boot(lab, KEEP);
        keeping(|| {
            let reason = "'/run/sealroot/keep.lock': Resource temporarily unavailable (os error 11)";
            assert_eq!(keep(), (Some(1), format!("sealroot keep: {reason}\n")));
        });
    });
}

#[test]
fn an_empty_list_keeps_nothing_and_none_keeps_all() {
    lab::with("sha512", |lab| {
        plant(lab, "machine-id", "id");
        let (run, report) = boot(lab, "");
        expect_all_kept(&run, &report);
        assert_eq!(report["policy"]["etc.keep"], json!({"value": null, "from": "default"}));
        expect_content(&etc("machine-id"), "id");
        assert!(!Path::new(KEPT).exists());
        lab.forget();
        let (run, report) = boot(lab, "[etc]\nkeep = []\n");
        expect_not_kept(lab, &report, &[("machine-id", "not-listed")]);
        let line = format!(
            "4 sealroot: etc: 1 entry that etc.keep does not keep, left in 'state/deploy/{}/etc/upper': 'machine-id' \
             (not-listed)",
            lab.digest()
        );
        assert!(run.log.contains(&line), "{run:?}");
        assert!(!etc("machine-id").exists());
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
        fs::hard_link(file("good-hard-link"), upper(lab, "nm/good-other-name")).unwrap();
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
        link("19-to-usr", "../../usr/share/text");
        // PID 1 mounts an identifier over what it leads to.
        symlink("../usr/share/text", upper(lab, "machine-id")).unwrap();
        set_attribute(&file("20-metacopy"), "trusted.overlay.metacopy", b"");
        set_attribute(&file("good-1"), "trusted.overlay.redirect", b"/secret");
        set_attribute(&file("good-2"), "system.posix_acl_access", &access_list());
        let capability = [1, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        set_attribute(&file("good-3"), "security.capability", &capability);
        set_attribute(&file("good-4"), "trusted.something", b"");
        let directory = |name: &str| {
            let path = upper(lab, &format!("nm/{name}"));
            fs::create_dir(&path).unwrap();
            path
        };
        fs::set_permissions(directory("25-open"), fs::Permissions::from_mode(0o1777)).unwrap();
        set_attribute(&directory("good-5"), "system.posix_acl_default", &access_list());
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
            ("19-owned", "link"),
            ("19-to-usr", "link"),
            ("20-metacopy", "metacopy"),
            ("25-open", "mode"),
            ("27-user", "owner"),
            ("28-\\xff\\n", "kind"),
        ];
        let below = expected.iter().map(|(name, reason)| json!({"path": format!("nm/{name}"), "reason": reason}));
        let entries: Vec<_> = [json!({"path": "machine-id", "reason": "link"})].into_iter().chain(below).collect();
        assert_eq!(report["not_kept"]["entries"], Value::Array(entries));
        let mut left: Vec<_> =
            fs::read_dir("/sysroot/etc/nm").unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort_unstable();
        let good = ["", "-1", "-2", "-3", "-4", "-5", "-for-users", "-hard-link", "-other-name"];
        assert_eq!(left, good.map(|name| std::ffi::OsString::from(format!("good{name}"))));
        // Of the content alone.
        for file in &left {
            let mut names = [0; 256];
            let path = etc("nm").join(file);
            let length = rustix::fs::llistxattr(&path, &mut names[..]).unwrap();
            let names = String::from_utf8_lossy(&names[..length]).replace("trusted.overlay.opaque\0", "");
            assert_eq!(names, "", "{}", path.display());
        }
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
        expect_not_kept(lab, &report, &[("hostname", "kind")]);
        expect_content(&etc("hostname"), "fixture\n");
        expect_content(&etc("default/other"), "x");
        assert!(etc("default/settings").exists());
    });
    // A file in the place of a directory, one that opens up what was closed, and one of the group of the sealed file.
    lab::with("sha512", |lab| {
        plant(lab, "default", "a file");
        let shadow = plant(lab, "shadow", "root::");
        chown(&shadow, None, Some(42)).unwrap();
        let (_, report) = boot(lab, "[etc]\nkeep = [\"default*\", \"shadow\"]\n");
        expect_not_kept(lab, &report, &[("default", "kind"), ("shadow", "owner")]);
        assert!(etc("default/settings").exists());
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
        expect_content(&etc(&path), "x");
    });
}

/// A tree that nobody lists costs nothing, however much there is in it.
#[test]
fn what_is_not_listed_is_not_looked_into() {
    lab::with("sha512", |lab| {
        plant(lab, &format!("deep{}/file", "/d".repeat(100)), "x");
        let (_, report) = boot(lab, KEEP);
        expect_not_kept(lab, &report, &[("deep", "not-listed")]);
    });
}

/// A file has a limit, and so have all of them together, in the order of their names.
#[test]
fn too_large_to_be_kept() {
    lab::with("sha512", |lab| {
        for (name, size) in [("a", 4 << 20), ("b", (4 << 20) + 1), ("c", 1 << 40), ("z", 1)] {
            fs::File::create(plant(lab, &format!("nm/{name}"), "")).unwrap().set_len(size).unwrap();
        }
        for number in 0..8 {
            fs::File::create(plant(lab, &format!("nm/m{number}"), "")).unwrap().set_len(4 << 20).unwrap();
        }
        let (_, report) = boot(lab, KEEP);
        // Each has a page more, and its path.
        let expected = ["b", "c", "m6", "m7"].map(|name| format!("nm/{name}"));
        expect_not_kept(lab, &report, &expected.each_ref().map(|path| (path.as_str(), "size")));
        assert_eq!(fs::metadata(etc("nm/a")).unwrap().len(), 4 << 20);
    });
}

/// What the directory of the layer itself is like has no effect.
#[test]
fn upper_with_attributes_of_its_own() {
    lab::with("sha512", |lab| {
        plant(lab, "machine-id", "id");
        set_attribute(&upper(lab, ""), "trusted.overlay.opaque", b"y");
        boot(lab, KEEP);
        expect_content(&etc("machine-id"), "id");
        expect_content(&etc("hostname"), "fixture\n");
    });
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

/// Where /usr takes changes, a link in the place of a listed file would have programs write there.
#[test]
fn links_into_a_root_that_takes_changes() {
    lab::with("sha512", |lab| {
        symlink("../usr/share/text", upper(lab, "localtime")).unwrap();
        plant(lab, "machine-id", "id");
        lab.config(&format!("[root]\ntransient = true\n{KEEP}"));
        let run = lab.boot();
        assert_eq!(run.status, Some(0), "{run:?}");
        expect_not_kept(lab, &lab.report(), &[("localtime", "link")]);
        expect_content(&etc("machine-id"), "id");
        assert!(fs::symlink_metadata(etc("localtime")).is_err());
    });
}

/// Who is not root cannot keep the one from starting that keeps.
#[test]
fn the_lock_is_roots_alone() {
    lab::with("sha512", |lab| {
        boot(lab, KEEP);
        keeping(|| assert_eq!(fs::metadata("/run/sealroot/keep.lock").unwrap().mode() & 0o7777, 0o600));
    });
}

/// A second attempt of the same boot starts anew, and what was not kept before a refusal is told too.
#[test]
fn what_was_not_kept_on_the_way() {
    lab::with("sha512", |lab| {
        plant(lab, "ld.so.preload", "x");
        plant(lab, "machine-id", "id");
        lab.config(KEEP);
        let report = lab.expect_sealed(&lab.boot_on(&mut CountsFiles::default()), lab.digest());
        assert_eq!(report["kernel"]["erofs"], "loop");
        expect_not_kept(lab, &report, &[("ld.so.preload", "not-listed")]);
        expect_content(&etc("machine-id"), "id");
    });
    lab::with("sha512", |lab| {
        plant(lab, "ld.so.preload", "x");
        fs::remove_dir_all(lab.state_path("var")).unwrap();
        lab.config(KEEP);
        let message = format!(
            "assemble: state directory 'state/deploy/{}/var': expected a directory, or var.mount = \"transient\": <errno 2>",
            lab.digest()
        );
        lab.expect_refused(&lab.boot(), &message);
        assert!(lab.mount_of(KEPT).is_none());
        assert_eq!(lab.report()["not_kept"]["count"], 1);
    });
}
