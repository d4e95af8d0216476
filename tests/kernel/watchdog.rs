//! Ends the tests when something hangs, and says what.

use std::io::Write;
use std::process;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

/// Waits for a while for the next thing that is done.
pub struct Watchdog(Sender<String>);

impl Watchdog {
    pub fn start(limit: Duration) -> Self {
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let mut current = String::new();
            loop {
                match receiver.recv_timeout(limit) {
                    Ok(next) => current = next,
                    Err(RecvTimeoutError::Disconnected) => return,
                    Err(RecvTimeoutError::Timeout) => {
                        // Not captured, as what a failing test prints is.
                        let _ = writeln!(std::io::stderr(), "hangs: {current}");
                        process::exit(101);
                    }
                }
            }
        });
        Self(sender)
    }

    pub fn next(&self, what: String) {
        self.0.send(what).unwrap();
    }
}
