//! Starts programs in turn (A B A B …), and prints what each start took.
//!
//! `start-meter ROUNDS warm|cold|count|trace DEVICE|- NAME=COMMAND…`: each start is in a mount namespace of its own with
//! DEVICE, the physical root, at /sysroot, and with /cmdline as the kernel command line; a program of the name NAME gets
//! /cmdline.NAME instead, and /config.NAME as its configuration, where there are such files. With `-` a program starts
//! where this one did. Only `cold` empties the page cache before each start. A line per start: `start NAME WALL_NS CPU_NS
//! PEAK_KIB FAULTS`, and `report NAME JSON` where the program left a report of sealroot's; with `count`, which does not
//! time, `calls NAME TOTAL CALL=COUNT,…`; with `trace` a line per system call: `trace NAME CALL BEFORE_NS INSIDE_NS
//! RESULT`, with the time since the call before it, both with the tracer's stops. The peak is never below what this program
//! itself has in memory where it starts another one, about 0.5 MiB.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{Error, Read, Write};
use std::mem::MaybeUninit;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::ptrace;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{Signal, raise};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{ForkResult, Pid, dup2_stderr, dup2_stdout, execv, fork};
use syscalls::Sysno;

/// Where the filesystem of the physical root stays mounted, which keeps its page cache from start to start.
const HELD: &str = "/mnt";
/// What sealroot leaves.
const REPORT: &str = "/run/sealroot/report.json";
/// Where what the programs say goes.
const SAID: &str = "/tmp/said";

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

#[derive(Clone, Copy, PartialEq)]
enum What {
    Warm,
    Cold,
    Count,
    Trace,
}

impl What {
    /// Whether each system call is stopped at.
    fn stops(self) -> bool {
        matches!(self, Self::Count | Self::Trace)
    }
}

/// A system call of a program that is stopped at each.
struct Call {
    name: String,
    before: u64,
    inside: u64,
    result: i64,
}

/// Taken right before a program takes over its process.
struct Before {
    wall: u64,
    cpu: u64,
    faults: u64,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [rounds, what, device, programs @ ..] = arguments.as_slice() else {
        return Err("usage: start-meter ROUNDS warm|cold|count|trace DEVICE|- NAME=COMMAND…".into());
    };
    let device = (device != "-").then_some(device.as_str());
    let what = match what.as_str() {
        "warm" => What::Warm,
        "cold" => What::Cold,
        "count" => What::Count,
        "trace" => What::Trace,
        other => return Err(format!("expected warm, cold, count or trace, found '{other}'").into()),
    };
    let mut programs: Vec<_> = programs
        .iter()
        .map(|program| program.split_once('=').ok_or("expected NAME=COMMAND"))
        .collect::<std::result::Result<_, _>>()?;
    let held = device.filter(|_| what != What::Cold);
    if let Some(device) = held {
        fs::create_dir_all(HELD)?;
        mount_physical_root(device, HELD)?;
    }
    for _ in 0..rounds.parse::<u32>()? {
        for (name, command) in &programs {
            in_child(|| start(what, device, name, command)).map_err(|error| format!("{name}: {error}"))?;
        }
        // Whoever comes after a program sees what it leaves behind: not always the same.
        programs.rotate_left(1);
    }
    if held.is_some() {
        umount2(HELD, MntFlags::MNT_DETACH)?;
    }
    Ok(())
}

/// Runs something in a process of its own, whose mounts go with it.
fn in_child(work: impl FnOnce() -> Result<()>) -> Result<()> {
    // SAFETY: this process has one thread.
    match unsafe { fork() }? {
        ForkResult::Child => {
            let result = work();
            if let Err(error) = &result {
                eprintln!("{error}: {}", fs::read_to_string(SAID).unwrap_or_default());
            }
            std::process::exit(i32::from(result.is_err()));
        }
        ForkResult::Parent { child } => match waitpid(child, None)? {
            WaitStatus::Exited(_, 0) => Ok(()),
            other => Err(format!("{other:?}").into()),
        },
    }
}

fn start(what: What, device: Option<&str>, name: &str, command: &str) -> Result<()> {
    if let Some(device) = device {
        set_up(device, name)?;
    }
    if what == What::Cold {
        nix::unistd::sync();
        fs::write("/proc/sys/vm/drop_caches", "3")?;
    }
    let said = File::create(SAID)?;
    let words: Vec<CString> = command.split(' ').map(CString::new).collect::<std::result::Result<_, _>>()?;
    let (mut reader, mut writer) = std::io::pipe()?;
    // SAFETY: this process has one thread.
    let child = match unsafe { fork() }? {
        ForkResult::Child => {
            dup2_stdout(&said)?;
            dup2_stderr(&said)?;
            if what.stops() {
                ptrace::traceme()?;
                raise(Signal::SIGSTOP)?;
            }
            writer.write_all(&Before::now()?.bytes())?;
            execv(&words[0], &words)?;
            return Err("exec came back".into());
        }
        ForkResult::Parent { child } => child,
    };
    drop(writer);
    if what.stops() {
        print_calls(what, name, &calls(child)?);
        return Ok(());
    }
    let (status, usage) = wait(child)?;
    let after = nanoseconds(ClockId::CLOCK_MONOTONIC)?;
    if status != 0 {
        return Err(format!("wait status {status:#x}").into());
    }
    let mut bytes = [0; 24];
    reader.read_exact(&mut bytes)?;
    print_start(name, &Before::from_bytes(bytes), after, &usage);
    if let Ok(report) = fs::read_to_string(REPORT) {
        println!("report {name} {}", report.trim_end());
    }
    Ok(())
}

fn print_start(name: &str, before: &Before, after: u64, usage: &libc::rusage) {
    let cpu =
        [usage.ru_utime, usage.ru_stime].map(|time| time.tv_sec as u64 * 1_000_000_000 + time.tv_usec as u64 * 1000);
    let faults = (usage.ru_minflt + usage.ru_majflt) as u64;
    println!(
        "start {name} {} {} {} {}",
        after - before.wall,
        cpu.iter().sum::<u64>().saturating_sub(before.cpu),
        usage.ru_maxrss,
        faults - before.faults
    );
}

fn print_calls(what: What, name: &str, calls: &[Call]) {
    if what == What::Trace {
        for Call { name: call, before, inside, result } in calls {
            println!("trace {name} {call} {before} {inside} {result}");
        }
        return;
    }
    let mut counts = BTreeMap::new();
    for call in calls {
        *counts.entry(call.name.as_str()).or_insert(0) += 1;
    }
    let list: Vec<_> = counts.iter().map(|(call, count)| format!("{call}={count}")).collect();
    println!("calls {name} {} {}", calls.len(), list.join(","));
}

/// What the initrd would look like.
fn set_up(device: &str, name: &str) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none = None::<&str>;
    // Cut off from the others, then shared again, as systemd has it.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SHARED, none)?;
    mount(Some("run"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=755"))?;
    fs::create_dir_all("/run/systemd")?;
    fs::create_dir_all("/sysroot")?;
    mount_physical_root(device, "/sysroot")?;
    let cmdline = format!("/cmdline.{name}");
    let cmdline = if fs::exists(&cmdline)? { &cmdline } else { "/cmdline" };
    mount(Some(cmdline), "/proc/cmdline", none, MsFlags::MS_BIND, none)?;
    let config = format!("/config.{name}");
    if fs::exists(&config)? {
        mount(Some(config.as_str()), "/usr/lib/sealroot/sealroot.toml", none, MsFlags::MS_BIND, none)?;
    }
    Ok(())
}

fn mount_physical_root(device: &str, point: &str) -> Result<()> {
    Ok(mount(Some(device), point, Some("ext4"), MsFlags::empty(), None::<&str>)?)
}

impl Before {
    fn now() -> Result<Self> {
        let usage = getrusage(UsageWho::RUSAGE_SELF)?;
        let faults = (usage.minor_page_faults() + usage.major_page_faults()) as u64;
        let cpu = nanoseconds(ClockId::CLOCK_PROCESS_CPUTIME_ID)?;
        Ok(Self { wall: nanoseconds(ClockId::CLOCK_MONOTONIC)?, cpu, faults })
    }

    fn bytes(&self) -> [u8; 24] {
        let mut bytes = [0; 24];
        for (place, value) in bytes.chunks_exact_mut(8).zip([self.wall, self.cpu, self.faults]) {
            place.copy_from_slice(&value.to_ne_bytes());
        }
        bytes
    }

    fn from_bytes(bytes: [u8; 24]) -> Self {
        let value = |index: usize| u64::from_ne_bytes(std::array::from_fn(|byte| bytes[index * 8 + byte]));
        Self { wall: value(0), cpu: value(1), faults: value(2) }
    }
}

fn nanoseconds(clock: ClockId) -> Result<u64> {
    let time = clock_gettime(clock)?;
    Ok(time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}

fn wait(child: Pid) -> Result<(i32, libc::rusage)> {
    let mut status = 0;
    let mut usage = MaybeUninit::uninit();
    // SAFETY: both pointers are valid for writing.
    if unsafe { libc::wait4(child.as_raw(), &mut status, 0, usage.as_mut_ptr()) } < 0 {
        return Err(Error::last_os_error().into());
    }
    // SAFETY: the kernel filled it in.
    Ok((status, unsafe { usage.assume_init() }))
}

/// The system calls of a process from its first program's start.
fn calls(child: Pid) -> Result<Vec<Call>> {
    let mut calls = Vec::new();
    waitpid(child, None)?;
    ptrace::setoptions(child, ptrace::Options::PTRACE_O_TRACESYSGOOD | ptrace::Options::PTRACE_O_EXITKILL)?;
    // The trace begins in our own code; what counts comes after the call that starts the program.
    let mut started = false;
    let mut entry = None;
    let mut resumed = 0;
    loop {
        ptrace::syscall(child, None)?;
        match waitpid(child, None)? {
            WaitStatus::Exited(_, 0) => {
                // exit_group does not come back.
                calls.extend(entry);
                return Ok(calls);
            }
            WaitStatus::PtraceSyscall(_) => {
                let now = nanoseconds(ClockId::CLOCK_MONOTONIC)?;
                let registers = ptrace::getregs(child)?;
                entry = match entry.take() {
                    None => {
                        let number = registers.orig_rax;
                        let name =
                            Sysno::new(number as usize).map_or_else(|| number.to_string(), |call| call.name().into());
                        Some(Call { name, before: now - resumed, inside: 0, result: 0 })
                    }
                    Some(call) => {
                        if started {
                            calls.push(Call { inside: now - resumed, result: registers.rax.cast_signed(), ..call });
                        } else {
                            started = call.name == "execve";
                        }
                        None
                    }
                };
                resumed = nanoseconds(ClockId::CLOCK_MONOTONIC)?;
            }
            WaitStatus::Stopped(_, Signal::SIGTRAP) => {}
            other => return Err(format!("{other:?}").into()),
        }
    }
}
