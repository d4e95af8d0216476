//! Other kernels than the running one: the program finds another way, and says in the report which, or refuses with what
//! is missing.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::kmod;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use serde_json::{Value, json};

use crate::kernel::{Creation, Kernel, Release};
use crate::lab::{self, Lab, Run, SYSROOT};

const NONE: Option<&str> = None;

/// What the report says about the kernel, by the release that could first.
fn features(release: Release) -> Value {
    let form = |since, new: &'static str, old: &'static str| if release >= since { new } else { old };
    json!({
        "erofs": form(Release(6, 12), "file", "loop"),
        "layers": form(Release(6, 15), "fd", form(Release(6, 7), "path", "list")),
        "mounts": form(Release(6, 15), "detached", "attached"),
        "mount_table": form(Release(6, 13), "statmount", "mountinfo"),
        "mount_ids": form(Release(6, 8), "unique", "reused"),
    })
}

/// The sealed root works, and goes without a trace.
fn expect_usable(lab: &Lab) {
    assert!(fs::read_to_string("/sysroot/usr/lib/os-release").unwrap().contains("Sealed fixture"));
    fs::write("/sysroot/etc/new", "a").unwrap();
    fs::write("/sysroot/var/new", "a").unwrap();
    assert_eq!(fs::read_to_string(lab.state_path("etc").join("upper/new")).unwrap(), "a");
    umount2(SYSROOT, MntFlags::MNT_DETACH).unwrap();
    lab.expect_loop_devices(0);
}

/// Everything, as on an older release; on one that is older still, as on that.
fn boots_as(mut release: Release) {
    lab::with("sha512", move |lab| {
        let report = lab.expect_sealed(&lab.boot_on(&mut release), lab.digest());
        assert_eq!(report["kernel"], features(release.min(Release::running())));
        let gate = lab.run_on(&mut release, &["gate"]);
        assert_eq!((gate.status, gate.log.len()), (Some(0), 0), "{gate:?}");
        let again = lab.run_on(&mut release, &[]);
        assert_eq!(again.log, ["5 sealroot: sealed root in place already at '/sysroot'"], "{again:?}");
        expect_usable(lab);
    });
    // What a transient root hides is looked at in the private place.
    lab::with("sha512", move |lab| {
        lab.config("[root]\ntransient = true\n");
        let run = lab.boot_on(&mut release);
        assert_eq!((run.status, run.left_open.as_ref().map(|files| files.len())), (Some(0), Some(0)), "{run:?}");
        assert_eq!(lab.report()["kernel"]["mounts"], "attached");
        assert!(!Path::new("/run/sealroot/work").exists());
        fs::write("/sysroot/usr/new", "a").unwrap();
        umount2(SYSROOT, MntFlags::MNT_DETACH).unwrap();
        lab.expect_loop_devices(0);
    });
}

/// Refusals at every step leave nothing behind either.
fn refuses_as(mut release: Release) {
    lab::with("sha512", move |lab| {
        lab.flip(&lab.image_path(), 1, 7);
        let run = lab.boot_on(&mut release);
        let reason = lab.report()["reason"].as_str().unwrap().to_owned();
        assert!(reason.starts_with("look-inside: image '"), "{reason}");
        lab.expect_refused(&run, &reason);
    });
    lab::with("sha512", move |lab| {
        let directory = format!("state/deploy/{}/var", lab.digest());
        fs::remove_dir_all(lab.path(&directory)).unwrap();
        let message = format!("assemble: state directory '{directory}': <errno 2>");
        lab.expect_refused(&lab.boot_on(&mut release), &message);
    });
    lab::with("sha512", move |lab| {
        lab.flip(&lab.object_path("OBJECT_OS_RELEASE"), 0, 5);
        let message = "prove: new root: '/usr/lib/os-release': expected content that belongs to the image, found \
                       damage: <errno 5>";
        lab.expect_refused(&lab.boot_on(&mut release), message);
    });
    lab::with("sha512", move |lab| {
        lab.expect_sealed(&lab.boot_on(&mut release), lab.digest());
        mount(Some("planted"), "/sysroot/usr", Some("tmpfs"), MsFlags::empty(), NONE).unwrap();
        let message = "gate: mount '/usr': expected no mount over sealed content, found tmpfs planted";
        lab.expect_refused(&lab.run_on(&mut release, &["gate"]), message);
    });
}

#[test]
fn boots_as_linux_6_6() {
    boots_as(Release(6, 6));
}

#[test]
fn boots_as_linux_6_7() {
    boots_as(Release(6, 7));
}

#[test]
fn boots_as_linux_6_8() {
    boots_as(Release(6, 8));
}

#[test]
fn boots_as_linux_6_11() {
    boots_as(Release(6, 11));
}

#[test]
fn boots_as_linux_6_12() {
    boots_as(Release(6, 12));
}

#[test]
fn boots_as_linux_6_14() {
    boots_as(Release(6, 14));
}

#[test]
fn boots_as_itself() {
    boots_as(Release::running());
}

#[test]
fn refuses_as_linux_6_6() {
    refuses_as(Release(6, 6));
}

#[test]
fn refuses_as_linux_6_14() {
    refuses_as(Release(6, 14));
}

#[test]
fn refuses_as_itself() {
    refuses_as(Release::running());
}

/// Both ways of asking about mounts give the same words.
#[test]
fn the_same_mount_tree_by_either_way() {
    let tree = |mut release: Release| {
        let (sender, receiver) = std::sync::mpsc::channel();
        lab::with("sha512", move |lab| {
            let mut report = lab.expect_sealed(&lab.boot_on(&mut release), lab.digest());
            let mut mounts = report["mounts"].take();
            for mount in mounts.as_array_mut().unwrap() {
                for (key, value) in mount.as_object_mut().unwrap() {
                    match key.as_str() {
                        "id" | "parent" => assert!(value.take().as_u64().unwrap() > 0),
                        // Layers are named by descriptors or by where they are attached, not by the table.
                        "options" => value.as_array_mut().unwrap().retain(|option| {
                            !["lowerdir", "datadir", "upperdir", "workdir"]
                                .iter()
                                .any(|layer| option.as_str().unwrap().starts_with(layer))
                        }),
                        _ => {}
                    }
                }
            }
            sender.send((report["kernel"]["mount_table"].clone(), mounts)).unwrap();
        });
        receiver.recv().unwrap()
    };
    let (old_way, old) = tree(Release(6, 12));
    let (new_way, new) = tree(Release::running());
    assert_eq!(old_way, "mountinfo");
    assert_eq!(new_way == "statmount", Release::running() >= Release(6, 13));
    assert_eq!(old, new);
    assert_eq!(new.as_array().unwrap().len(), 4);
}

/// A physical root that is read-only is asked about first, and has no options to tell.
#[test]
fn the_form_of_the_mount_table_on_a_read_only_root() {
    lab::with("sha512", |lab| {
        lab.make_read_only();
        let report = lab.expect_sealed(&lab.boot(), lab.digest());
        assert_eq!(report["kernel"], features(Release::running()));
        let gate = lab.run(&["gate"]);
        assert_eq!((gate.status, gate.log.len()), (Some(0), 0), "{gate:?}");
    });
}

/// EROFS is configured so that it takes block devices only.
struct BlockDevicesOnly;

impl Kernel for BlockDevicesOnly {
    fn create(&mut self, creation: &Creation<'_>) -> Option<i32> {
        creation.is_erofs_from_a_file().then_some(libc::ENOTBLK)
    }
}

#[test]
fn erofs_from_block_devices_only() {
    lab::with("sha512", |lab| {
        let report = lab.expect_sealed(&lab.boot_on(&mut BlockDevicesOnly), lab.digest());
        let expected = Value::from("loop");
        assert_eq!(report["kernel"], with_erofs(features(Release::running()), expected));
        expect_usable(lab);
    });
}

fn with_erofs(mut features: Value, erofs: Value) -> Value {
    features["erofs"] = erofs;
    features
}

/// An EROFS that is mounted from a file counts as a level of stacking (some of Linux 6.18, up to 6.18.5).
#[derive(Default)]
struct CountsFiles {
    from_a_file: bool,
}

impl Kernel for CountsFiles {
    fn create(&mut self, creation: &Creation<'_>) -> Option<i32> {
        if creation.filesystem == "erofs" {
            self.from_a_file = creation.is_erofs_from_a_file();
        }
        (self.from_a_file && creation.has("upperdir")).then_some(libc::EINVAL)
    }
}

#[test]
fn erofs_from_a_file_that_counts_as_a_level_of_stacking() {
    lab::with("sha512", |lab| {
        let report = lab.expect_sealed(&lab.boot_on(&mut CountsFiles::default()), lab.digest());
        assert_eq!(report["kernel"]["erofs"], "loop");
        expect_usable(lab);
    });
}

/// A /dev without devtmpfs: only what is put there.
fn dev_with(nodes: &[(&str, u64, u64)]) {
    fs::create_dir_all("/run/dev").unwrap();
    mount(Some("dev"), "/run/dev", Some("tmpfs"), MsFlags::empty(), NONE).unwrap();
    for (name, major, minor) in [("null", 1, 3), ("kmsg", 1, 11)].iter().chain(nodes) {
        make_node(&format!("/run/dev/{name}"), *major, *minor);
    }
    mount(Some("/run/dev"), "/dev", NONE, MsFlags::MS_BIND, NONE).unwrap();
}

fn make_node(path: &str, major: u64, minor: u64) {
    let kind = if major == 7 { SFlag::S_IFBLK } else { SFlag::S_IFCHR };
    mknod(path, kind, Mode::from_bits_truncate(0o600), makedev(major, minor)).unwrap();
}

const LOOP_CONTROL: (&str, u64, u64) = ("loop-control", 10, 237);

/// As above, and the nodes of loop devices are made when they were looked for three times.
#[derive(Default)]
struct LateNodes {
    looked_for: usize,
}

impl Kernel for LateNodes {
    fn create(&mut self, creation: &Creation<'_>) -> Option<i32> {
        BlockDevicesOnly.create(creation)
    }

    fn open(&mut self, file: &Path) -> Option<i32> {
        let number = file.to_str()?.strip_prefix("/dev/loop")?.parse().ok()?;
        self.looked_for += 1;
        if self.looked_for == 3 {
            make_node(file.to_str()?, 7, number);
        }
        None
    }
}

#[test]
fn a_loop_device_whose_node_comes_late() {
    lab::with("sha512", |lab| {
        lab.mount_sysroot();
        dev_with(&[LOOP_CONTROL]);
        let mut kernel = LateNodes::default();
        let report = lab.expect_sealed(&lab.run_on(&mut kernel, &[]), lab.digest());
        assert_eq!(report["kernel"]["erofs"], "loop");
        assert_eq!(kernel.looked_for, 3);
    });
}

#[test]
fn no_loop_devices() {
    lab::with("sha512", |lab| {
        lab.mount_sysroot();
        dev_with(&[LOOP_CONTROL]);
        let run = lab.run_on(&mut BlockDevicesOnly, &[]);
        let reason = lab.report()["reason"].as_str().unwrap().to_owned();
        assert!(reason.starts_with("mount: erofs: loop device '/dev/loop"), "{reason}");
        assert!(reason.contains("': open: "), "{reason}");
        lab.expect_refused(&run, &reason);
    });
    lab::with("sha512", |lab| {
        lab.mount_sysroot();
        dev_with(&[]);
        let message = "mount: erofs: '/dev/loop-control': expected the module 'loop' in the initramfs (the dracut \
                       module 'sealroot' puts it there) or CONFIG_BLK_DEV_LOOP=y, found neither (needed where EROFS \
                       cannot be mounted from a file, as before Linux 6.12): <errno 2>";
        lab.expect_refused(&lab.run_on(&mut BlockDevicesOnly, &[]), message);
    });
}

/// The reason of the first attempt is not lost where the second one fails in another way.
#[test]
fn no_loop_devices_where_stacking_would_need_them() {
    lab::with("sha512", |lab| {
        lab.mount_sysroot();
        dev_with(&[]);
        let message = "assemble: '/etc': overlay: create: <errno 22>; with the image on a loop device: mount: erofs: \
                       '/dev/loop-control': expected the module 'loop' in the initramfs (the dracut module 'sealroot' \
                       puts it there) or CONFIG_BLK_DEV_LOOP=y, found neither (needed where EROFS cannot be mounted \
                       from a file, as before Linux 6.12): <errno 2>";
        lab.expect_refused(&lab.run_on(&mut CountsFiles::default(), &[]), message);
    });
}

/// Takes a module out of the kernel until the value is gone.
struct WithoutModule(PathBuf);

impl WithoutModule {
    fn new(name: &str) -> Self {
        let mut files = fs::read_dir("/modules").unwrap().map(|entry| entry.unwrap().path());
        let file = files.find(|file| file.to_str().unwrap().ends_with(&format!("-{name}.ko"))).unwrap();
        let c_name = std::ffi::CString::new(name).unwrap();
        for _ in 0..100 {
            // What another test mounted may take a moment to go.
            match kmod::delete_module(&c_name, kmod::DeleteModuleFlags::O_NONBLOCK) {
                Ok(()) => return Self(file),
                Err(nix::errno::Errno::EWOULDBLOCK) => thread::sleep(Duration::from_millis(50)),
                Err(error) => panic!("{name}: {error}"),
            }
        }
        panic!("{name}: still in use");
    }
}

impl Drop for WithoutModule {
    fn drop(&mut self) {
        let file = fs::File::open(&self.0).unwrap();
        kmod::finit_module(&file, c"", kmod::ModuleInitFlags::empty()).unwrap();
    }
}

#[test]
fn modules_that_are_not_in_the_initramfs() {
    for (module, symbol) in [("erofs", "CONFIG_EROFS_FS"), ("overlay", "CONFIG_OVERLAY_FS")] {
        lab::with("sha512", move |lab| {
            let _without = WithoutModule::new(module);
            let message = format!(
                "mount: {module}: open: expected the module '{module}' in the initramfs (the dracut module 'sealroot' \
                 puts it there) or {symbol}=y, found neither: <errno 19>"
            );
            lab.expect_refused(&lab.boot(), &message);
        });
    }
}

/// A kernel that is like an older release, and on top of that cannot create one kind of filesystem.
struct Without {
    release: Release,
    filesystem: &'static str,
    writable: bool,
    error: i32,
}

impl Kernel for Without {
    fn release(&self) -> Release {
        self.release
    }

    fn create(&mut self, creation: &Creation<'_>) -> Option<i32> {
        let is_it = creation.filesystem == self.filesystem && creation.has("upperdir") == self.writable;
        is_it.then_some(self.error)
    }
}

#[test]
fn filesystems_without_another_way() {
    for (filesystem, writable, error, message) in [
        ("tmpfs", false, libc::EINVAL, "mount: work directory '/run/sealroot/work': tmpfs: create: <errno 22>"),
        ("erofs", false, libc::EINVAL, "mount: erofs: create: <errno 22>"),
        ("overlay", false, libc::EINVAL, "mount: overlay: create: <errno 22>"),
        ("overlay", true, libc::ENOTBLK, "assemble: '/etc': overlay: create: <errno 15>"),
        ("overlay", true, libc::EINVAL, "assemble: '/etc': overlay: create: <errno 22>"),
    ] {
        lab::with("sha512", move |lab| {
            let mut kernel = Without { release: Release(6, 14), filesystem, writable, error };
            lab.expect_refused(&lab.boot_on(&mut kernel), message);
        });
    }
}

/// The option that everything depends on is taken and forgotten.
struct IgnoresVerity(Release);

impl Kernel for IgnoresVerity {
    fn release(&self) -> Release {
        self.0
    }

    fn ignores(&mut self, filesystem: &str, key: &str) -> bool {
        (filesystem, key) == ("overlay", "verity")
    }
}

/// The kernel's own word is asked for, in every form that it gives it, and not only by the name of the option.
#[test]
fn verity_that_is_not_in_effect() {
    let refused = |mut kernel: IgnoresVerity, config: &'static str, stage: &'static str| {
        lab::with("sha512", move |lab| {
            lab.config(config);
            let run = lab.boot_on(&mut kernel);
            let reason = lab.report()["reason"].as_str().unwrap_or_else(|| panic!("{run:?}")).to_owned();
            let start = format!("{stage}: sealed root: expected option verity=require and no other verity=, found ro,");
            assert!(reason.starts_with(&start), "{reason}");
            lab.expect_refused(&run, &reason);
        });
    };
    // Looked at where it ends up, or in the private place.
    let last = if Release::running() < Release(6, 15) { "mount" } else { "replace" };
    refused(IgnoresVerity(Release::running()), "", last);
    refused(IgnoresVerity(Release::running()), "[root]\ntransient = true\n", "mount");
    refused(IgnoresVerity(Release(6, 14)), "", "mount");
    refused(IgnoresVerity(Release(6, 6)), "", "mount");
}

/// overlayfs takes a good file for one without a digest (Linux 7.0 to 7.0.6).
struct RefusesGoodFiles;

impl Kernel for RefusesGoodFiles {
    fn open(&mut self, file: &Path) -> Option<i32> {
        file.ends_with("usr/lib/systemd/systemd").then_some(libc::EIO)
    }
}

#[test]
fn good_files_that_overlayfs_refuses() {
    lab::with("sha512", |lab| {
        let run: Run = lab.boot_on(&mut RefusesGoodFiles);
        let message = format!(
            "prove: new root: '/usr/lib/systemd/systemd': {}, measured the same, but overlayfs refuses it (as Linux \
             7.0 to 7.0.6 refuse good files: \"has no fs-verity digest\"): <errno 5>",
            lab.expected_object("OBJECT_INIT")
        );
        lab.expect_refused(&run, &message);
    });
}
