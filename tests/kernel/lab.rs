//! A place to run the boot program in: a mount namespace, a disk, a command line, and what came of it.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::panic;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, mpsc};
use std::thread;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::disk::{self, DISK, Disk, Fixture};
use crate::expect::{loop_devices, wait_until};
use crate::kernel::{self, Ending, Kernel, Running};
use crate::raw;

pub const SYSROOT: &str = "/sysroot";
/// Where the upper layer is that `etc.keep` makes, and the state that it is kept in.
pub const KEPT: &str = "/run/sealroot/etc";
/// What stands for the kernel's command line.
const COMMAND_LINE: &str = "/run/lab/cmdline";
pub const PROGRAM: &str = "/usr/lib/sealroot/sealroot-initrd";

/// Several digests on the command line are fine: the first whose image exists.
pub const ALTERNATIVES: &str = "[policy]\nalternatives = \"first-existing\"\n";

/// One test's machine.
pub struct Lab {
    pub disk: Disk,
    pub algorithm: &'static str,
    pub fixture: &'static Fixture,
    /// How many loop devices there are without the program's.
    pub loop_devices: Mutex<usize>,
}

/// What one run of the boot program did.
#[derive(Debug)]
pub struct Run {
    pub status: Option<i32>,
    /// The program's records in the kernel log, as `<level> <text>`.
    pub log: Vec<String>,
    pub stderr: String,
    /// How it ended, and what it would have done to the machine.
    pub ending: Ending,
}

/// Runs a test on a fresh disk whose repository uses `algorithm` (`sha512`, `sha256`).
pub fn with<T: Send + 'static>(algorithm: &'static str, test: impl FnOnce(&Lab) -> T + Send + 'static) -> T {
    with_disk(Disk::Ext4, algorithm, test)
}

/// As [`with`], on another disk than the usual one.
pub fn with_disk<T: Send + 'static>(
    disk: Disk,
    algorithm: &'static str,
    test: impl FnOnce(&Lab) -> T + Send + 'static,
) -> T {
    let fixture = disk::fixture();
    // A thread of its own has a mount namespace of its own, which goes when it ends.
    let thread = thread::spawn(move || {
        let lab = Lab { disk, algorithm, fixture, loop_devices: Mutex::new(0) };
        lab.set_up();
        let result = test(&lab);
        lab.tear_down();
        result
    });
    thread.join().unwrap_or_else(|failure| panic::resume_unwind(failure))
}

pub fn mount_at(source: &str, target: &str, kind: Option<&str>, flags: MsFlags) {
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
        if self.disk.filesystem() != "ext4" {
            disk::load_more_modules();
        }
        self.fixture.copy(self.disk);
        wait_until("the disk of the test before is gone", || !loop_devices().any(|file| file.contains("disk.img")));
        self.attach();
        self.command_line(&self.karg("V1"));
        // Once: in shared mounts, each further one would double their number.
        mount_at(COMMAND_LINE, "/proc/cmdline", None, MsFlags::MS_BIND);
    }

    /// What is left is unmounted at once. When a namespace goes, the kernel does it some time later.
    fn tear_down(&self) {
        while umount2(SYSROOT, MntFlags::MNT_DETACH).is_ok() {}
        while umount2(KEPT, MntFlags::MNT_DETACH).is_ok() {}
        // A test may have unmounted it, or mount something on it.
        let _ = umount2(DISK, MntFlags::empty());
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
        let root = if self.disk == Disk::Tiny { "" } else { self.algorithm };
        Path::new(DISK).join(root).join(path)
    }

    /// The path of the booted image's name in the repository.
    pub fn image_path(&self) -> PathBuf {
        self.path("composefs/images").join(self.digest())
    }

    /// The path of an object in the repository.
    pub fn object_path(&self, name: &str) -> PathBuf {
        self.path("composefs").join(self.value(name))
    }

    /// `object 'objects/…': expected <digest>`, as messages name what the image says about an object.
    pub fn expected_object(&self, name: &str) -> String {
        let object = self.value(name);
        let digest: String = object.strip_prefix("objects").unwrap().chars().filter(|c| *c != '/').collect();
        format!("object '{object}': expected {}:{digest}", self.algorithm)
    }

    /// The path of a state directory of the booted image.
    pub fn state_path(&self, name: &str) -> PathBuf {
        self.path("state/deploy").join(self.digest()).join(name)
    }

    /// Replaces the kernel command line.
    pub fn command_line(&self, text: &str) {
        fs::write(COMMAND_LINE, format!("{text}\n")).unwrap();
    }

    /// Replaces sealroot.toml.
    pub fn config(&self, text: &str) {
        fs::write("/usr/lib/sealroot/sealroot.toml", text).unwrap();
    }

    /// Replaces the composefs tools' file.
    pub fn setup_root_conf(&self, text: &str) {
        fs::write("/usr/lib/composefs/setup-root-conf.toml", text).unwrap();
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

    /// Takes everything away that the boot program left.
    pub fn forget(&self) {
        while umount2(SYSROOT, MntFlags::MNT_DETACH).is_ok() {}
        // The state on the disk is in there.
        while umount2(KEPT, MntFlags::MNT_DETACH).is_ok() {}
        fs::remove_dir_all("/run/sealroot").unwrap();
    }

    /// Mounts the physical root and runs the boot program on a kernel that differs from the running one.
    pub fn boot_on(&self, kernel: &mut dyn Kernel) -> Run {
        self.mount_sysroot();
        self.run_on(kernel, &[])
    }

    /// Runs the boot program as it stands.
    pub fn run(&self, arguments: &[&str]) -> Run {
        self.run_on(&mut Running, arguments)
    }

    /// Runs the boot program on a kernel that differs from the running one.
    pub fn run_on(&self, kernel: &mut dyn Kernel, arguments: &[&str]) -> Run {
        self.run_while(kernel, arguments, |_| ())
    }

    /// Runs the boot program, and something else, which gets its process, while it runs.
    pub fn run_while(&self, kernel: &mut dyn Kernel, arguments: &[&str], meanwhile: impl FnOnce(u32) + Send) -> Run {
        let mut kmsg = File::options().read(true).custom_flags(libc_nonblock()).open("/dev/kmsg").unwrap();
        kmsg.seek(SeekFrom::End(0)).unwrap();
        let mut command = Command::new(PROGRAM);
        command.args(arguments).stdout(Stdio::null()).stderr(Stdio::piped());
        let calls = kernel::all_calls(kernel);
        let (ending, output) = thread::scope(|scope| {
            let (send_listener, listener) = mpsc::channel();
            let (send_process, process) = mpsc::channel();
            // What starts the program is asked too. It also waits for it: before Linux 6.11 the questions do not end
            // before that.
            let starter = scope.spawn(move || {
                send_listener.send(raw::ask_before(&calls)).unwrap();
                let program = command.spawn().unwrap();
                send_process.send(program.id()).unwrap();
                program.wait_with_output().unwrap()
            });
            scope.spawn(move || meanwhile(process.recv().unwrap()));
            let ending = kernel::answer_all(&listener.recv().unwrap(), kernel, PROGRAM);
            (ending, starter.join().unwrap())
        });
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
        Run { status: output.status.code(), log, stderr, ending }
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

/// Writes a file and closes it.
pub fn write(path: &Path, content: &[u8]) {
    let mut file = File::create(path).unwrap();
    file.write_all(content).unwrap();
}
