//! What must have come of a run of the boot program.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use sealroot::kernel::mount::Mount;
use sealroot::kernel::mountinfo;
use serde_json::Value;

use crate::lab::{KEPT, Lab, Run, SYSROOT};

const REPORT: &str = "/run/sealroot/report.json";

/// Puts the text of the error number for each `<errno N>` in an expected message: C libraries word them differently.
fn with_errors(message: &str) -> String {
    let mut parts = message.split("<errno ");
    let mut text = parts.next().unwrap().to_owned();
    for part in parts {
        let (code, rest) = part.split_once('>').unwrap();
        text.push_str(&std::io::Error::from_raw_os_error(code.parse().unwrap()).to_string());
        text.push_str(rest);
    }
    text
}

impl Lab {
    /// Expects that the boot is sealed with the image `digest`, and gives the report.
    pub fn expect_sealed(&self, run: &Run, digest: &str) -> Value {
        assert_eq!((run.status, run.stderr.as_str()), (Some(0), ""), "{run:?}");
        let line = format!("5 sealroot: sealed root in place at '/sysroot': composefs:{digest}");
        assert!(run.log.contains(&line), "{run:?}");
        let root = self.mount_of(SYSROOT).expect("a mount at /sysroot");
        assert_eq!((root.filesystem.as_str(), root.source), ("overlay", format!("composefs:{digest}")));
        assert!(root.options.iter().any(|option| option == "verity=require"), "{:?}", root.options);
        assert!(root.flags.iter().any(|flag| flag == "ro"), "{:?}", root.flags);
        let report = self.report();
        let loop_devices = if report["kernel"]["erofs"] == "loop" { 1 } else { 0 };
        self.expect_nothing_left(run, loop_devices);
        assert_eq!((&report["verdict"], &report["digest"]), (&"sealed".into(), &digest.into()));
        assert_eq!(report["algorithm"], self.algorithm);
        report
    }

    /// Expects a refusal with exactly this message, and nothing left. Nothing is configured about refusals, and no boot
    /// loader counts tries: the machine is halted.
    pub fn expect_refused(&self, run: &Run, message: &str) {
        self.expect_refused_and(run, message, "auto", 10);
    }

    /// As [`Lab::expect_refused`], with what follows after so many seconds: `auto` is a halt, since nothing counts tries.
    pub fn expect_refused_and(&self, run: &Run, message: &str, action: &str, delay: u64) {
        self.expect_line(run, message);
        let message = with_errors(message);
        let report = self.report();
        let (action, why) = match action {
            "auto" => ("halt", ", as no boot loader counts tries"),
            action => (action, ""),
        };
        assert_eq!((&report["verdict"], &report["reason"]), (&"refused".into(), &message.as_str().into()));
        assert_eq!(report["mounts"], Value::Array(Vec::new()));
        assert_eq!(report["action"], action);
        let (next, delay) = match action {
            "emergency" => ("emergency mode follows".into(), 0),
            _ => (format!("{action} in {delay} s{why}"), delay),
        };
        assert_eq!(lines(run, 0), [format!("boot refused: {message}; {next}")]);
        assert_eq!((run.ending.reboot, run.ending.waited), (reboot_command(action), delay));
    }

    /// As [`Lab::expect_refused`], where an earlier run refused: it said so, the report is its, and nobody waits again.
    pub fn expect_refused_again(&self, run: &Run, message: &str) {
        self.expect_line(run, message);
        assert_eq!(lines(run, 0), [""; 0]);
        assert_eq!((run.ending.reboot, run.ending.waited), (reboot_command("halt"), 0));
    }

    /// As [`Lab::expect_refused`], with whatever reason one of the steps has; gives the step.
    pub fn expect_refused_somewhere(&self, run: &Run) -> String {
        assert_eq!(run.status, Some(1), "{run:?}");
        let reason = self.report()["reason"].as_str().unwrap_or_else(|| panic!("{run:?}")).to_owned();
        self.expect_refused(run, &reason);
        let stage = reason.split(':').next().unwrap();
        let stages = ["find", "measure", "look-inside", "objects", "mount", "assemble", "prove"];
        assert!(stages.contains(&stage), "{reason}");
        stage.to_owned()
    }

    fn expect_line(&self, run: &Run, message: &str) {
        assert_eq!((run.status, run.stderr.as_str()), (Some(1), ""), "{run:?}");
        assert_eq!(lines(run, 3), [format!("boot refused: {}", with_errors(message))], "{run:?}");
        assert!(!run.log.iter().any(|line| line.contains("sealed root in place")), "{run:?}");
        let left: Vec<_> = mounts().into_iter().filter(|mount| mount.point.starts_with(SYSROOT)).collect();
        assert!(left.is_empty(), "{left:?}");
        assert_eq!(fs::read_dir(SYSROOT).unwrap().count(), 0);
        self.expect_nothing_left(run, 0);
    }

    /// Nothing of the work in progress is left: no place, no mount, no descriptor, and of the loop devices only those
    /// of the sealed root.
    fn expect_nothing_left(&self, run: &Run, loop_devices: usize) {
        // A test may have put something else in the report's place.
        let is_report = fs::metadata(REPORT).is_ok_and(|found| found.is_file());
        let report = if is_report { self.report() } else { Value::Null };
        let keeps = report["verdict"] == "sealed" && !report["policy"]["etc.keep"]["value"].is_null();
        let mut left: Vec<_> = fs::read_dir("/run/sealroot").unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort_unstable();
        assert_eq!(left, if keeps { &["etc", "report.json"][..] } else { &["report.json"] });
        let left = mounts().into_iter().filter(|mount| mount.point.starts_with("/run/sealroot"));
        let mut points: Vec<_> = left.map(|mount| mount.point.to_str().unwrap().to_owned()).collect();
        points.sort_unstable();
        let kept = [KEPT.to_owned(), format!("{KEPT}/disk")];
        assert_eq!(points, if keeps { &kept[..] } else { &[] });
        assert_eq!(run.ending.left_open, Some(BTreeSet::new()));
        self.expect_loop_devices(loop_devices);
    }

    /// Expects this many loop devices more than before the first run. One may go a little after its last use.
    pub fn expect_loop_devices(&self, more: usize) {
        let expected = more + *self.loop_devices.lock().unwrap();
        wait_until(&format!("there are {expected} loop devices"), || loop_devices().count() == expected);
    }

    pub fn report(&self) -> Value {
        serde_json::from_slice(&fs::read(REPORT).unwrap()).unwrap()
    }

    /// The topmost mount at a path.
    pub fn mount_of(&self, path: &str) -> Option<Mount> {
        mounts().into_iter().rfind(|mount| mount.point == Path::new(path))
    }

    /// Expects these flags of the mount at a path, and none of the others that matter.
    pub fn expect_flags(&self, path: &str, expected: &[&str]) {
        let mount = self.mount_of(path).unwrap_or_else(|| panic!("no mount at {path}"));
        let found: Vec<_> = mount
            .flags
            .iter()
            .map(String::as_str)
            .filter(|flag| ["ro", "rw", "nosuid", "nodev", "noexec"].contains(flag))
            .collect();
        assert_eq!(found, expected, "{path}");
    }
}

/// What the program said at a level of the kernel log.
fn lines(run: &Run, level: u32) -> Vec<&str> {
    let start = format!("{level} sealroot: ");
    run.log.iter().filter_map(|line| line.strip_prefix(&start)).collect()
}

/// The command of `reboot(2)` for what follows a refusal.
fn reboot_command(action: &str) -> Option<u32> {
    match action {
        "emergency" => None,
        "reboot" => Some(0x0123_4567),
        "poweroff" => Some(0x4321_fedc),
        "halt" => Some(0xcdef_0123),
        _ => panic!("{action}"),
    }
}

/// The files that loop devices are a view of, as the kernel names them.
pub fn loop_devices() -> impl Iterator<Item = String> {
    let entries = fs::read_dir("/sys/block").unwrap().map(|entry| entry.unwrap());
    entries.filter_map(|entry| fs::read_to_string(entry.path().join("loop/backing_file")).ok())
}

/// Looks again and again for what the kernel does a little after its last use of something. Nothing tells when.
pub fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < Duration::from_secs(60), "expected that {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Every mount that the test sees.
pub fn mounts() -> Vec<Mount> {
    mountinfo::read().unwrap().into_iter().map(|line| line.mount).collect()
}

/// What a path is and holds: type and mode, owner, size or target, a hash of the content; or the error.
pub type Snapshot = BTreeMap<PathBuf, Result<String, i32>>;

/// Everything below /sysroot that is sealed.
pub fn snapshot() -> Snapshot {
    let mut found = BTreeMap::new();
    let mut pending = vec![PathBuf::from(SYSROOT)];
    // Thousands of small files are read, and each system call costs.
    let mut content = Vec::with_capacity(1 << 20);
    while let Some(folder) = pending.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) => {
                found.insert(folder, Err(error.raw_os_error().unwrap()));
                continue;
            }
        };
        for entry in entries {
            let path = match entry {
                Ok(entry) => entry.path(),
                Err(error) => {
                    found.insert(folder.join("…"), Err(error.raw_os_error().unwrap()));
                    break;
                }
            };
            if ["etc", "var", "sysroot"].iter().any(|name| path == Path::new(SYSROOT).join(name)) {
                continue;
            }
            let metadata = fs::symlink_metadata(&path);
            if metadata.as_ref().is_ok_and(|metadata| metadata.is_dir()) {
                pending.push(path.clone());
            }
            let description = metadata.and_then(|metadata| describe(&path, &metadata, &mut content));
            found.insert(path, description.map_err(|error| error.raw_os_error().unwrap()));
        }
    }
    found
}

fn describe(path: &Path, metadata: &Metadata, content: &mut Vec<u8>) -> std::io::Result<String> {
    let mut hasher = DefaultHasher::new();
    if metadata.is_file() {
        content.clear();
        File::open(path)?.take(u64::MAX).read_to_end(content)?;
        content.hash(&mut hasher);
    } else if metadata.is_symlink() {
        fs::read_link(path)?.hash(&mut hasher);
    } else {
        assert!(!metadata.file_type().is_block_device());
    }
    let (user, group) = (metadata.uid(), metadata.gid());
    Ok(format!("{:o} {user}:{group} {} {:x}", metadata.mode(), metadata.len(), hasher.finish()))
}

/// Everything that is there is as in the reference, or an error; what is not there is below an error. Returns the
/// first error.
pub fn expect_no_wrong_content(found: &Snapshot, reference: &Snapshot) -> Option<i32> {
    for (path, description) in found {
        if description.is_ok() {
            assert_eq!(reference.get(path), Some(description), "{}", path.display());
        }
    }
    let is_error = |path: &Path| found.get(path).is_some_and(Result::is_err);
    for path in reference.keys().filter(|path| !found.contains_key(*path)) {
        let explained = path.ancestors().any(|folder| is_error(folder) || is_error(&folder.join("…")));
        assert!(explained, "{} is missing", path.display());
    }
    found.values().find_map(|description| description.as_ref().err().copied())
}
