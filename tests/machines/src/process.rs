//! A machine is a process: started in a group of its own, watched line by line, ended with all its children.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::console::Plain;
use crate::processors::Processor;

/// How a machine came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Whoever watched it had seen enough.
    Stopped,
    /// By itself.
    Exited(ExitStatus),
    /// It still ran when its time was over.
    TimedOut,
}

/// What is to become of a machine after something that it said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It goes on.
    GoOn,
    /// It is ended.
    Stop,
}

/// What starts a machine, and the processor that is its own while it runs.
#[derive(Debug)]
pub struct Machine {
    /// The command.
    pub command: Command,
    /// If it has one for itself.
    pub processor: Option<Processor>,
}

impl From<Command> for Machine {
    fn from(command: Command) -> Self {
        Self { command, processor: None }
    }
}

enum Heard {
    Console(Vec<u8>),
    Output(Vec<u8>),
}

/// Takes what a machine says, as it comes.
pub trait Listener {
    /// Text of the console, without terminal escapes; lines may come in pieces.
    fn console(&mut self, text: &str) -> Next;

    /// Bytes of the second channel, on which only the job in the machine writes.
    fn output(&mut self, bytes: &[u8]) {
        let _ = bytes;
    }
}

/// A process with its group, which ends with it.
struct Group(Child);

impl Group {
    fn kill(&mut self) {
        if let Ok(id) = i32::try_from(self.0.id()) {
            // Where the group is gone already there is nothing left to end.
            let _ = killpg(Pid::from_raw(id), Signal::SIGKILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
        let _ = self.0.wait();
    }
}

/// Runs a machine. Its console is its standard output, the second channel its standard error. The console is also written
/// to `log`, without terminal escapes.
///
/// # Errors
/// It cannot be started, or the log cannot be written.
pub fn run(machine: Machine, limit: Duration, log: &mut File, listener: &mut dyn Listener) -> Result<Ended> {
    let started = Instant::now();
    let Machine { mut command, processor: _processor } = machine;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut group = Group(command.spawn().with_context(|| format!("{:?}", command.get_program()))?);
    let (sender, receiver) = mpsc::channel();
    if let (Some(console), Some(output)) = (group.0.stdout.take(), group.0.stderr.take()) {
        forward(console, sender.clone(), Heard::Console);
        forward(output, sender, Heard::Output);
    }
    let mut plain = Plain::default();
    loop {
        match receiver.recv_timeout(limit.saturating_sub(started.elapsed())) {
            Ok(Heard::Console(bytes)) => {
                let text = plain.push(&bytes);
                log.write_all(text.as_bytes())?;
                if listener.console(&text) == Next::Stop {
                    group.kill();
                    return Ok(Ended::Stopped);
                }
            }
            Ok(Heard::Output(bytes)) => listener.output(&bytes),
            Err(RecvTimeoutError::Timeout) => return Ok(Ended::TimedOut),
            // Both channels are closed.
            Err(RecvTimeoutError::Disconnected) => return Ok(Ended::Exited(group.0.wait()?)),
        }
    }
}

fn forward(mut from: impl Read + Send + 'static, to: Sender<Heard>, kind: fn(Vec<u8>) -> Heard) {
    thread::spawn(move || {
        let mut buffer = vec![0; 65536];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            // Nobody listens any more once the machine was ended.
            if to.send(kind(buffer.iter().take(count).copied().collect())).is_err() {
                return;
            }
        }
    });
}
