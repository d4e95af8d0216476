//! The kernel under the boot program, as another release than the running one would be: calls that the other one does
//! not know, or knows less of, fail for real or answer less.
//!
//! The kernel asks this process before it makes a call for the program (seccomp's user notification). The program
//! cannot tell the difference; what a call would have done is not done.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::raw::{self, Answer, Call};

/// Opening by a path, which not every architecture has.
#[cfg(target_arch = "x86_64")]
const OPEN: i64 = libc::SYS_open;
#[cfg(not(target_arch = "x86_64"))]
const OPEN: i64 = libc::SYS_openat;

/// The calls that kernels differ in, and the last one.
const CALLS: [i64; 11] = [
    OPEN,
    libc::SYS_exit_group,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_statx,
    SYS_STATMOUNT,
    SYS_LISTMOUNT,
];

const SYS_STATMOUNT: i64 = 457;
const SYS_LISTMOUNT: i64 = 458;
/// `STATX_MNT_ID_UNIQUE`
const MNT_ID_UNIQUE: u64 = 0x4000;
/// `STATMOUNT_MNT_OPTS` and `STATMOUNT_SB_SOURCE`
const MNT_OPTS: u64 = 0x80;
const SB_SOURCE: u64 = 0x200;
/// `FSCONFIG_*`
const SET_STRING: u64 = 1;
const SET_FD: u64 = 5;
const CREATE: u64 = 6;
/// Paths and options are shorter.
const TEXT: usize = 4096;

/// The calls by which a refusal ends the machine, and before that waits. They are noted, not made.
const ENDING: [i64; 3] = [libc::SYS_reboot, libc::SYS_nanosleep, libc::SYS_clock_nanosleep];

/// A filesystem that the program is about to create.
#[derive(Debug)]
pub struct Creation<'a> {
    pub filesystem: &'a str,
    pub options: &'a [(String, String)],
    /// What the option `source` leads to, where that is a descriptor.
    pub source: Option<PathBuf>,
}

impl Creation<'_> {
    pub fn is_erofs_from_a_file(&self) -> bool {
        self.filesystem == "erofs" && !self.source.as_ref().is_some_and(|source| source.starts_with("/dev/"))
    }

    pub fn has(&self, key: &str) -> bool {
        self.options.iter().any(|(name, _)| name == key)
    }
}

/// A kernel that differs from the running one.
pub trait Kernel: Send {
    /// The calls that it is asked about. The last one of the program always is one.
    fn calls(&self) -> &'static [i64] {
        &CALLS
    }

    /// The release that it is like, if it is like one.
    fn release(&self) -> Release {
        Release::NEWEST
    }

    /// Sees a call before it is made.
    fn before(&mut self, _: &Call) {}

    /// Whether it takes an option of a filesystem and does nothing about it.
    fn ignores(&mut self, _filesystem: &str, _key: &str) -> bool {
        false
    }

    /// The error of setting an option of a filesystem to a text.
    fn option(&mut self, _filesystem: &str, _key: &str) -> Option<i32> {
        None
    }

    /// The error of asking for a filesystem by its type.
    fn open_filesystem(&mut self, _filesystem: &str) -> Option<i32> {
        None
    }

    /// The error of creating a filesystem.
    fn create(&mut self, _: &Creation<'_>) -> Option<i32> {
        None
    }

    /// The error of asking for one mount.
    fn statmount(&mut self) -> Option<i32> {
        None
    }

    /// The error of opening a file, which is named by what it is, not by the descriptor that leads to it.
    fn open(&mut self, _: &Path) -> Option<i32> {
        None
    }
}

/// The running kernel.
pub struct Running;

impl Kernel for Running {
    fn calls(&self) -> &'static [i64] {
        &[libc::SYS_exit_group]
    }
}

/// A release of Linux.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release(pub u32, pub u32);

impl Release {
    const NEWEST: Self = Self(u32::MAX, 0);

    /// The running kernel's.
    pub fn running() -> Self {
        let text = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let mut numbers = text.split(['.', '-']).map(|number| number.parse().unwrap());
        Self(numbers.next().unwrap(), numbers.next().unwrap())
    }
}

impl Kernel for Release {
    fn release(&self) -> Release {
        *self
    }

    fn create(&mut self, creation: &Creation<'_>) -> Option<i32> {
        (creation.is_erofs_from_a_file() && *self < Self(6, 12)).then_some(libc::ENOTBLK)
    }
}

/// How a program ended.
#[derive(Debug, Default)]
pub struct Ending {
    /// What it had open when it exited, but for standard streams and the kernel log; nothing where it did not exit by
    /// itself.
    pub left_open: Option<BTreeSet<PathBuf>>,
    /// The command of `reboot(2)` that it gave.
    pub reboot: Option<u32>,
    /// For how many whole seconds it would have waited.
    pub waited: u64,
}

/// All calls that a kernel is asked about.
pub fn all_calls(kernel: &dyn Kernel) -> Vec<i64> {
    [kernel.calls(), &ENDING].concat()
}

/// Answers the calls of the processes behind `listener` until they are gone, and tells how the program `named` so ended.
pub fn answer_all(listener: &OwnedFd, kernel: &mut dyn Kernel, named: &str) -> Ending {
    let mut caller = Caller { kernel, filesystem: String::new(), options: Vec::new(), has_detached_layer: false };
    let mut ending = Ending::default();
    loop {
        let mut events = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        poll(&mut events, PollTimeout::NONE).unwrap();
        let events = events[0].revents().unwrap();
        if !events.contains(PollFlags::POLLIN) {
            assert!(events.contains(PollFlags::POLLHUP), "{events:?}");
            return ending;
        }
        let Some(call) = raw::waiting_call(listener) else { continue };
        let process = Process(call.process);
        let answer = if !process.is(named) {
            Answer::GoOn
        } else if call.number == libc::SYS_exit_group {
            caller.kernel.before(&call);
            ending.left_open = Some(process.open_files());
            Answer::GoOn
        } else if ENDING.contains(&call.number) {
            ending.answer(&call, &process)
        } else {
            caller.answer(&call, &process)
        };
        raw::answer(listener, &call, answer);
    }
}

impl Ending {
    fn answer(&mut self, call: &Call, process: &Process) -> Answer {
        let [first, _, third, ..] = call.arguments;
        if call.number == libc::SYS_reboot {
            // The kernel takes 32 bits of it.
            assert_eq!(self.reboot.replace(third as u32), None);
            return Answer::Done(0);
        }
        let time = if call.number == libc::SYS_nanosleep { first } else { third };
        let mut seconds = [0; 8];
        process.memory().read_exact_at(&mut seconds, time).unwrap();
        self.waited += u64::from_ne_bytes(seconds);
        // Short pauses are part of the work.
        if u64::from_ne_bytes(seconds) == 0 { Answer::GoOn } else { Answer::Done(0) }
    }
}

/// A process that waits for the answer to a call.
struct Process(u32);

impl Process {
    fn is(&self, name: &str) -> bool {
        fs::read_link(format!("/proc/{}/exe", self.0)).is_ok_and(|program| program.ends_with(name))
    }

    fn open_files(&self) -> BTreeSet<PathBuf> {
        let folder = format!("/proc/{}/fd", self.0);
        let is_expected =
            |number: &str, target: &PathBuf| ["0", "1", "2"].contains(&number) || target.as_os_str() == "/dev/kmsg";
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
        entries
            .map(|entry| (entry.file_name().into_string().unwrap(), fs::read_link(entry.path()).unwrap()))
            .filter(|(number, target)| !is_expected(number, target))
            .map(|(_, target)| target)
            .collect()
    }

    fn memory(&self) -> File {
        File::options().read(true).write(true).open(format!("/proc/{}/mem", self.0)).unwrap()
    }

    fn text(&self, address: u64) -> String {
        let mut bytes = [0; TEXT];
        let count = self.memory().read_at(&mut bytes, address).unwrap();
        let end = bytes[..count].iter().position(|byte| *byte == 0).unwrap();
        String::from_utf8_lossy(&bytes[..end]).into_owned()
    }

    /// The first field of `struct open_how`.
    fn open_flags(&self, address: u64) -> OFlag {
        let mut flags = [0; 8];
        self.memory().read_exact_at(&mut flags, address).unwrap();
        OFlag::from_bits_retain(u64::from_ne_bytes(flags) as i32)
    }

    /// What a path through `/proc/self/fd` leads to.
    fn descriptor(&self, path: &str) -> Option<PathBuf> {
        let number = path.strip_prefix("/proc/self/fd/")?;
        fs::read_link(format!("/proc/{}/fd/{number}", self.0)).ok()
    }

    fn descriptor_info(&self, number: u64, field: &str) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/fdinfo/{number}", self.0)).unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(field)).unwrap().trim();
        let base = if field == "flags:" { 8 } else { 10 };
        u64::from_str_radix(value, base).unwrap()
    }

    /// Whether the mount of an open file is in the mount table.
    fn is_attached(&self, number: u64) -> bool {
        let id = self.descriptor_info(number, "mnt_id:").to_string();
        let table = fs::read_to_string(format!("/proc/{}/mountinfo", self.0)).unwrap();
        table.lines().any(|line| line.split(' ').next() == Some(&id))
    }
}

/// What the program is doing, from one call to the next.
struct Caller<'a> {
    kernel: &'a mut dyn Kernel,
    /// The type of the filesystem that it configures, and the options that it has given.
    filesystem: String,
    options: Vec<(String, String)>,
    has_detached_layer: bool,
}

impl Caller<'_> {
    fn answer(&mut self, call: &Call, process: &Process) -> Answer {
        self.kernel.before(call);
        let [first, second, third, fourth, fifth, _] = call.arguments;
        let release = self.kernel.release();
        let fail = |error: Option<i32>| error.map_or(Answer::GoOn, Answer::Fail);
        match call.number {
            libc::SYS_fsopen => {
                self.filesystem = process.text(first);
                self.options.clear();
                self.has_detached_layer = false;
                fail(self.kernel.open_filesystem(&self.filesystem))
            }
            libc::SYS_fsconfig if second == CREATE => {
                let source = self.options.iter().find(|(key, _)| key == "source");
                let source = source.and_then(|(_, value)| process.descriptor(value));
                let creation = Creation { filesystem: &self.filesystem, options: &self.options, source };
                if self.has_detached_layer && release < Release(6, 15) {
                    return Answer::Fail(libc::EINVAL);
                }
                fail(self.kernel.create(&creation))
            }
            libc::SYS_fsconfig if second == SET_FD => {
                let is_location = process.descriptor_info(fifth, "flags:") & libc::O_PATH as u64 != 0;
                if release < Release(6, 13) {
                    Answer::Fail(libc::EINVAL)
                } else if is_location && release < Release(6, 15) {
                    Answer::Fail(libc::EBADF)
                } else {
                    self.options.push((process.text(third), String::new()));
                    Answer::GoOn
                }
            }
            libc::SYS_fsconfig if second == SET_STRING => {
                let (key, value) = (process.text(third), process.text(fourth));
                let unknown = match key.as_str() {
                    "lowerdir+" | "datadir+" => release < Release(6, 7),
                    "verity" => release < Release(6, 6),
                    _ => false,
                };
                if unknown {
                    return Answer::Fail(libc::EINVAL);
                }
                if let Some(error) = self.kernel.option(&self.filesystem, &key) {
                    return Answer::Fail(error);
                }
                if self.kernel.ignores(&self.filesystem, &key) {
                    return Answer::Done(0);
                }
                for descriptor in value.split("::").filter_map(|path| path.strip_prefix("/proc/self/fd/")) {
                    self.has_detached_layer |=
                        self.filesystem == "overlay" && !process.is_attached(descriptor.parse().unwrap());
                }
                self.options.push((key, value));
                Answer::GoOn
            }
            libc::SYS_open_tree => {
                fail((release < Release(6, 15) && !process.is_attached(first)).then_some(libc::EINVAL))
            }
            // From one descriptor to another; a path is attached.
            libc::SYS_move_mount => {
                let target_is_detached = third as i32 >= 0 && !process.is_attached(third);
                fail((release < Release(6, 15) && target_is_detached).then_some(libc::EINVAL))
            }
            OPEN | libc::SYS_openat => {
                let path = process.text(if call.number == libc::SYS_openat { second } else { first });
                fail(self.kernel.open(&process.descriptor(&path).unwrap_or(path.into())))
            }
            // A location is opened without the filesystem's own open; whatever else is opened in this way is looked up as
            // a process finds it whose root the directory is.
            libc::SYS_openat2 if !process.open_flags(third).contains(OFlag::O_PATH) => {
                fail(self.kernel.open(&Path::new("/").join(process.text(second))))
            }
            libc::SYS_statx if fourth & MNT_ID_UNIQUE != 0 && release < Release(6, 8) => {
                // An older kernel overlooks what it does not know, and answers the rest.
                let path = match first as i32 {
                    libc::AT_FDCWD => format!("/proc/{}/root{}", process.0, process.text(second)),
                    descriptor => format!("/proc/{}/fd/{descriptor}", process.0),
                };
                let flags = libc::O_PATH | if first as i32 == libc::AT_FDCWD { libc::O_NOFOLLOW } else { 0 };
                let file = match File::options().read(true).custom_flags(flags).open(path) {
                    Ok(file) => file,
                    Err(error) => return Answer::Fail(error.raw_os_error().unwrap()),
                };
                let found = raw::statx(&file, (fourth & !MNT_ID_UNIQUE).try_into().unwrap());
                process.memory().write_all_at(&found, fifth).unwrap();
                Answer::Done(0)
            }
            SYS_STATMOUNT | SYS_LISTMOUNT if release < Release(6, 8) => Answer::Fail(libc::ENOSYS),
            SYS_STATMOUNT => {
                if let Some(error) = self.kernel.statmount() {
                    return Answer::Fail(error);
                }
                // As above: what was asked for is in `param` of `struct mnt_id_req`.
                let unknown = match release {
                    release if release < Release(6, 11) => MNT_OPTS | SB_SOURCE,
                    release if release < Release(6, 13) => SB_SOURCE,
                    _ => 0,
                };
                let memory = process.memory();
                let mut wanted = [0; 8];
                memory.read_exact_at(&mut wanted, first + 16).unwrap();
                let wanted = u64::from_ne_bytes(wanted) & !unknown;
                memory.write_all_at(&wanted.to_ne_bytes(), first + 16).unwrap();
                Answer::GoOn
            }
            _ => Answer::GoOn,
        }
    }
}
