//! A place to run the boot program in: a mount namespace, a disk, a command line, and what came of it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::{env, panic, thread};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use sealroot::mount::mountinfo;
use serde_json::Value;

/// Size of a block of the disk's filesystem, of fs-verity, and of everything else here.
pub const BLOCK: u64 = 4096;
pub const SYSROOT: &str = "/sysroot";
const DISK_FILE: &str = "/run/lab/disk.img";
const DISK: &str = "/run/lab/disk";
const PROGRAM: &str = "/usr/lib/sealroot/sealroot-initrd";
const REPORT: &str = "/run/sealroot/report.json";

/// The disk that `qemu/fixture` made, and what it holds.
struct Fixture {
    disk: Vec<u8>,
    values: BTreeMap<String, String>,
    program: Vec<u8>,
}

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

/// One test's machine.
pub struct Lab {
    algorithm: &'static str,
    fixture: &'static Fixture,
}

/// What one run of the boot program did.
#[derive(Debug)]
pub struct Run {
    pub status: Option<i32>,
    /// The program's records in the kernel log, as `<level> <text>`.
    pub log: Vec<String>,
    pub stderr: String,
}

fn fixture() -> Option<&'static Fixture> {
    static FIXTURE: OnceLock<Option<Fixture>> = OnceLock::new();
    FIXTURE
        .get_or_init(|| {
            let folder = env::var_os("SEALROOT_FIXTURE").map(PathBuf::from);
            let (disk, values) = match &folder {
                Some(folder) => (folder.join("disk"), folder.join("env")),
                None => ("/dev/vda".into(), "/fixture.env".into()),
            };
            let text = fs::read_to_string(values).ok()?;
            let pairs = text.lines().filter_map(|line| line.split_once('='));
            let program = if folder.is_some() { env!("CARGO_BIN_EXE_sealroot-initrd") } else { PROGRAM };
            Some(Fixture {
                disk: fs::read(disk).expect("the fixture's disk"),
                values: pairs.map(|(name, value)| (name.into(), value.into())).collect(),
                program: fs::read(program).expect("the boot program"),
            })
        })
        .as_ref()
}

/// Runs a test on a fresh disk whose repository uses `algorithm` (`sha512`, `sha256`).
pub fn with(algorithm: &'static str, test: impl FnOnce(&Lab) + Send + 'static) {
    let Some(fixture) = fixture() else {
        assert!(env::var_os("SEALROOT_NO_SKIP").is_none(), "no fixture: this test must not be skipped");
        println!("skipped: no /fixture.env (run through qemu/runner, or set SEALROOT_FIXTURE)");
        return;
    };
    // A thread of its own has a mount namespace of its own, which goes when it ends.
    let thread = thread::spawn(move || {
        let lab = Lab { algorithm, fixture };
        lab.set_up();
        test(&lab);
    });
    if let Err(failure) = thread.join() {
        panic::resume_unwind(failure);
    }
}

fn mount_at(source: &str, target: &str, kind: Option<&str>, flags: MsFlags) {
    mount(Some(source), target, kind, flags, None::<&str>)
        .unwrap_or_else(|error| panic!("mount {source} at {target}: {error}"));
}

impl Lab {
    fn set_up(&self) {
        unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
        // Cut off from the other tests, then shared again, as systemd has it.
        mount_at("none", "/", None, MsFlags::MS_REC | MsFlags::MS_PRIVATE);
        mount_at("none", "/", None, MsFlags::MS_REC | MsFlags::MS_SHARED);
        for folder in ["/run", SYSROOT, "/usr/lib/sealroot", "/usr/lib/composefs"] {
            fs::create_dir_all(folder).unwrap();
            if folder != SYSROOT {
                mount_at("lab", folder, Some("tmpfs"), MsFlags::empty());
            }
        }
        fs::create_dir_all(DISK).unwrap();
        fs::write(PROGRAM, &self.fixture.program).unwrap();
        fs::set_permissions(PROGRAM, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(DISK_FILE, &self.fixture.disk).unwrap();
        self.attach();
        self.command_line(&self.karg("V1"));
    }

    fn attach(&self) {
        let status = Command::new("mount").args(["-t", "ext4", "-o", "loop", DISK_FILE, DISK]).status().unwrap();
        assert!(status.success(), "mount the disk");
    }

    fn detach(&self) {
        umount2(DISK, MntFlags::empty()).expect("unmount the disk");
    }

    /// Makes the physical root's filesystem read-only, as `ro` on the command line does.
    pub fn make_read_only(&self) {
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount_at("none", DISK, None, flags);
    }

    /// A value that the fixture tells: `V1`, `OTHER`, `OBJECT_INIT`.
    pub fn value(&self, name: &str) -> &str {
        let algorithm = self.algorithm.to_uppercase();
        let name = match name.strip_prefix("OBJECT_") {
            Some(object) => format!("OBJECT_{object}_{algorithm}"),
            None => format!("{algorithm}_{name}"),
        };
        self.fixture.values.get(&name).unwrap_or_else(|| panic!("{name} is not in the fixture"))
    }

    /// The digest of the image that the tests boot.
    pub fn digest(&self) -> &str {
        self.value("V1")
    }

    /// `image 'images/<hex>'`, as messages name it.
    pub fn image(&self) -> String {
        format!("image 'images/{}'", self.digest())
    }

    /// The karg of one of the fixture's images.
    pub fn karg(&self, image: &str) -> String {
        match image {
            "V2" => format!("composefs={}", self.value(image)),
            _ => format!("composefs.digest=v1-{}-12:{}", self.algorithm, self.value(image)),
        }
    }

    /// The path of something on the physical root.
    pub fn path(&self, path: &str) -> PathBuf {
        Path::new(DISK).join(self.algorithm).join(path)
    }

    /// The path of the booted image's name in the repository.
    pub fn image_path(&self) -> PathBuf {
        self.path("composefs/images").join(self.digest())
    }

    /// The path of an object in the repository.
    pub fn object_path(&self, name: &str) -> PathBuf {
        self.path("composefs").join(self.value(name))
    }

    /// The path of a state directory of the booted image.
    pub fn state_path(&self, name: &str) -> PathBuf {
        self.path("state/deploy").join(self.digest()).join(name)
    }

    /// Replaces the kernel command line.
    pub fn command_line(&self, text: &str) {
        fs::write("/run/lab/cmdline", format!("{text}\n")).unwrap();
        mount_at("/run/lab/cmdline", "/proc/cmdline", None, MsFlags::MS_BIND);
    }

    /// Replaces sealroot.toml.
    pub fn config(&self, text: &str) {
        fs::write("/usr/lib/sealroot/sealroot.toml", text).unwrap();
    }

    /// Replaces the composefs tools' file.
    pub fn setup_root_conf(&self, text: &str) {
        fs::write("/usr/lib/composefs/setup-root-conf.toml", text).unwrap();
    }

    /// Changes one byte of one block of a file on the disk, below the filesystem.
    pub fn flip(&self, file: &Path, block: u64, byte: u64) {
        let physical = super::raw::physical_block(&File::open(file).unwrap(), block.try_into().unwrap());
        assert_ne!(physical, 0, "block {block} of {} is a hole", file.display());
        self.detach();
        let disk = File::options().read(true).write(true).open(DISK_FILE).unwrap();
        let offset = u64::from(physical) * BLOCK + byte;
        let mut content = [0];
        disk.read_exact_at(&mut content, offset).unwrap();
        disk.write_all_at(&[content[0] ^ 0xff], offset).unwrap();
        drop(disk);
        self.attach();
    }

    /// The number of blocks of a file's content.
    pub fn blocks(&self, file: &Path) -> u64 {
        fs::metadata(file).unwrap().len().div_ceil(BLOCK)
    }

    /// The first block of a file's Merkle tree, and the block of its fs-verity descriptor (ext4 keeps the tree at the
    /// next multiple of 64 KiB past the content, the descriptor behind it).
    pub fn verity_blocks(&self, file: &Path) -> (u64, u64) {
        let hashes = if self.algorithm == "sha512" { BLOCK / 64 } else { BLOCK / 32 };
        let tree = fs::metadata(file).unwrap().len().next_multiple_of(65536) / BLOCK;
        let (mut level, mut size) = (self.blocks(file), 0);
        while level > 1 {
            level = level.div_ceil(hashes);
            size += level;
        }
        (tree, tree + size)
    }

    /// Mounts the physical root at /sysroot, as systemd does.
    pub fn mount_sysroot(&self) {
        let root = self.path("");
        mount_at(root.to_str().unwrap(), SYSROOT, None, MsFlags::MS_BIND);
    }

    /// Mounts the physical root and runs the boot program.
    pub fn boot(&self) -> Run {
        self.mount_sysroot();
        self.run(&[])
    }

    /// Runs the boot program as it stands.
    pub fn run(&self, arguments: &[&str]) -> Run {
        self.run_while(arguments, |_| ())
    }

    /// Runs the boot program, and something else, which gets its process, while it runs.
    pub fn run_while(&self, arguments: &[&str], meanwhile: impl FnOnce(u32)) -> Run {
        let mut kmsg = File::options().read(true).custom_flags(libc_nonblock()).open("/dev/kmsg").unwrap();
        kmsg.seek(SeekFrom::End(0)).unwrap();
        let mut command = Command::new(PROGRAM);
        let program = command.args(arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        meanwhile(program.id());
        let output = program.wait_with_output().unwrap();
        let mut log = Vec::new();
        let mut record = [0; 8192];
        loop {
            match kmsg.read(&mut record) {
                Ok(count) => log.extend(own_record(&String::from_utf8_lossy(&record[..count]))),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // A record was overwritten before it was read.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
                Err(error) => panic!("/dev/kmsg: {error}"),
            }
        }
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        Run { status: output.status.code(), log, stderr }
    }

    /// Expects that the boot is sealed with the image `digest`, and gives the report.
    pub fn expect_sealed(&self, run: &Run, digest: &str) -> Value {
        assert_eq!((run.status, run.stderr.as_str()), (Some(0), ""), "{run:?}");
        let line = format!("5 sealroot: sealed root in place at '/sysroot': composefs:{digest}");
        assert!(run.log.contains(&line), "{run:?}");
        let root = self.mount_of(SYSROOT).expect("a mount at /sysroot");
        assert_eq!((root.filesystem.as_str(), root.source), ("overlay", format!("composefs:{digest}")));
        assert!(root.options.iter().any(|option| option == "verity=require"), "{:?}", root.options);
        assert!(root.flags.iter().any(|flag| flag == "ro"), "{:?}", root.flags);
        self.expect_nothing_left();
        let report = self.report();
        assert_eq!((&report["verdict"], &report["digest"]), (&"sealed".into(), &digest.into()));
        assert_eq!(report["algorithm"], self.algorithm);
        report
    }

    /// Expects a refusal with exactly this message, and nothing left.
    pub fn expect_refused(&self, run: &Run, message: &str) {
        self.expect_refusal_line(run, message);
        let message = with_errors(message);
        let report = self.report();
        assert_eq!((&report["verdict"], &report["reason"]), (&"refused".into(), &message.as_str().into()));
        assert_eq!(report["mounts"], Value::Array(Vec::new()));
    }

    /// As [`Lab::expect_refused`], where the report is an earlier run's.
    pub fn expect_refusal_line(&self, run: &Run, message: &str) {
        assert_eq!((run.status, run.stderr.as_str()), (Some(1), ""), "{run:?}");
        let errors: Vec<_> = run.log.iter().filter(|line| line.starts_with("3 ")).collect();
        assert_eq!(errors, [&format!("3 sealroot: boot refused: {}", with_errors(message))], "{run:?}");
        assert!(!run.log.iter().any(|line| line.contains("sealed root in place")), "{run:?}");
        let left: Vec<_> = mounts().into_iter().filter(|mount| mount.point.starts_with(SYSROOT)).collect();
        assert!(left.is_empty(), "{left:?}");
        assert_eq!(fs::read_dir(SYSROOT).unwrap().count(), 0);
        self.expect_nothing_left();
    }

    /// Nothing of the work in progress is left.
    fn expect_nothing_left(&self) {
        let left: Vec<_> = fs::read_dir("/run/sealroot").unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["report.json"]);
        let left: Vec<_> = mounts().into_iter().filter(|mount| mount.point.starts_with("/run/sealroot")).collect();
        assert!(left.is_empty(), "{left:?}");
    }

    pub fn report(&self) -> Value {
        serde_json::from_slice(&fs::read(REPORT).unwrap()).unwrap()
    }

    /// The topmost mount at a path.
    pub fn mount_of(&self, path: &str) -> Option<mountinfo::Mount> {
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

fn libc_nonblock() -> i32 {
    rustix::fs::OFlags::NONBLOCK.bits().try_into().unwrap()
}

/// `<level> <text>` of a record of `/dev/kmsg` (`prefix,sequence,time,flags;text`), where sealroot wrote it.
fn own_record(record: &str) -> Option<String> {
    let (header, text) = record.split_once(';')?;
    let priority: u32 = header.split(',').next()?.parse().ok()?;
    let text = text.lines().next()?;
    text.starts_with("sealroot: ").then(|| format!("{} {text}", priority & 7))
}

/// Every mount that the test sees.
pub fn mounts() -> Vec<mountinfo::Mount> {
    mountinfo::read().unwrap()
}

/// What a path is and holds: type and mode, owner, size or target, a hash of the content; or the error.
pub type Snapshot = BTreeMap<PathBuf, Result<String, i32>>;

/// Everything below /sysroot that is sealed.
pub fn snapshot() -> Snapshot {
    let mut found = BTreeMap::new();
    let mut pending = vec![PathBuf::from(SYSROOT)];
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
            let description = describe(&path).map_err(|error| error.raw_os_error().unwrap());
            if path.is_dir() && !path.is_symlink() {
                pending.push(path.clone());
            }
            found.insert(path, description);
        }
    }
    found
}

fn describe(path: &Path) -> std::io::Result<String> {
    let metadata = fs::symlink_metadata(path)?;
    let mut hasher = DefaultHasher::new();
    if metadata.is_file() {
        fs::read(path)?.hash(&mut hasher);
    } else if metadata.is_symlink() {
        fs::read_link(path)?.hash(&mut hasher);
    } else {
        assert!(!metadata.file_type().is_block_device());
    }
    let (user, group) = (metadata.uid(), metadata.gid());
    Ok(format!("{:o} {user}:{group} {} {:x}", metadata.mode(), metadata.len(), hasher.finish()))
}

/// Writes a file and closes it.
pub fn write(path: &Path, content: &[u8]) {
    let mut file = File::create(path).unwrap();
    file.write_all(content).unwrap();
}
