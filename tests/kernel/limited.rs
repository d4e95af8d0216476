//! Programs that get so much time and so much memory, and no more.

use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// What takes longer hangs: each of these programs has next to nothing to do.
const LIMIT: Duration = Duration::from_secs(60);
/// Address space, in KiB. What needs more lets itself be filled.
const MEMORY: u32 = 512 << 10;

/// Runs a program to its end. One that is out of memory aborts, and one that is out of time is killed: both have no
/// exit status.
pub fn run(program: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -v {MEMORY} && exec \"$@\""), "sh", program]).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let process = Pid::from_child(&child);
    let (ended, end) = mpsc::channel::<()>();
    let guard = thread::spawn(move || {
        if end.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout) {
            kill_process(process, Signal::KILL).unwrap();
        }
    });
    let output = child.wait_with_output().unwrap();
    drop(ended);
    guard.join().unwrap();
    output
}

/// Runs the command `sealroot`, and expects an answer or an error: no hang, no crash. Gives the exit status.
pub fn sealroot(arguments: &[&str]) -> i32 {
    let output = run(crate::command::COMMAND, arguments);
    let status = output.status.code().unwrap_or_else(|| panic!("sealroot {arguments:?}: {output:?}"));
    assert!([0, 1, 2].contains(&status), "sealroot {arguments:?}: {output:?}");
    // An answer that is no is on standard output, an error on standard error.
    assert!(!output.stdout.is_empty() || !output.stderr.is_empty(), "sealroot {arguments:?}: {output:?}");
    if status == 2 {
        let start = format!("sealroot {}: ", arguments[0]);
        assert!(output.stderr.starts_with(start.as_bytes()), "sealroot {arguments:?}: {output:?}");
    }
    status
}
