//! A machine is a process: watched as it speaks, ended with all its children.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
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

/// A process with all that it started, which ends with it. A native machine leaves the group of processes in which it began: a
/// signal to that would not reach it.
struct Tree(Child);

impl Tree {
    fn kill(&mut self) {
        let mut processes = vec![self.0.id()];
        let mut next = 0;
        while let Some(process) = processes.get(next) {
            processes.extend(children(*process));
            next += 1;
        }
        for process in processes.into_iter().filter_map(|process| i32::try_from(process).ok()) {
            // What is gone already needs no end.
            let _ = kill(Pid::from_raw(process), Signal::SIGKILL);
        }
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        // One that ended by itself has been waited for, and its number may be another's.
        if let Ok(None) = self.0.try_wait() {
            self.kill();
            let _ = self.0.wait();
        }
    }
}

/// The processes that a process started, as far as they run still.
fn children(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let is_child = |process: &u32| {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        // The name is in parentheses and may have some of its own; behind it are the state and the parent.
        let behind = stat.rsplit(')').next().unwrap_or_default();
        behind.split_whitespace().nth(1) == Some(&parent.to_string())
    };
    processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_child).collect()
}

/// Runs a machine. Its console is its standard output, the second channel its standard error. The console is also written
/// to `log`, without terminal escapes.
///
/// # Errors
/// It cannot be started, or the log cannot be written.
pub fn run(machine: Machine, limit: Duration, log: &mut File, listener: &mut dyn Listener) -> Result<Ended> {
    let started = Instant::now();
    let Machine { mut command, processor: _processor } = machine;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut tree = Tree(command.spawn().with_context(|| format!("{:?}", command.get_program()))?);
    let (sender, receiver) = mpsc::channel();
    if let (Some(console), Some(output)) = (tree.0.stdout.take(), tree.0.stderr.take()) {
        forward(console, sender.clone(), Heard::Console);
        forward(output, sender, Heard::Output);
    }
    let mut plain = Plain::default();
    let ended = loop {
        match receiver.recv_timeout(limit.saturating_sub(started.elapsed())) {
            Ok(Heard::Console(bytes)) => {
                let text = plain.push(&bytes);
                log.write_all(text.as_bytes())?;
                if listener.console(&text) == Next::Stop {
                    break Ended::Stopped;
                }
            }
            Ok(Heard::Output(bytes)) => listener.output(&bytes),
            Err(RecvTimeoutError::Timeout) => break Ended::TimedOut,
            // Both channels are closed.
            Err(RecvTimeoutError::Disconnected) => break Ended::Exited(tree.0.wait()?),
        }
    };
    let rest = plain.finish();
    log.write_all(rest.as_bytes())?;
    listener.console(&rest);
    Ok(ended)
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
