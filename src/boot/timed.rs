//! Work that a disk without an answer would hold up for ever.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Of a thread that makes a few system calls, in bytes.
const STACK: usize = 64 * 1024;

/// Does something that the kernel may never come back from. `None` if it is not done after `limit`: it goes on, as long as
/// the program runs, and whoever asked for it goes on too.
///
/// A signal would not help: who waits for a disk takes none.
pub fn within<T: Send + 'static>(limit: Duration, work: impl FnOnce() -> T + Send + Clone + 'static) -> Option<T> {
    let (done, end) = mpsc::channel();
    let here = work.clone();
    let there = move || {
        // Nobody may wait any more.
        let _ = done.send(work());
    };
    if thread::Builder::new().stack_size(STACK).spawn(there).is_err() {
        // A thread that cannot be had is no reason to leave it undone.
        return Some(here());
    }
    end.recv_timeout(limit).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_too_long_is_not_waited_for() {
        assert_eq!(within(Duration::from_secs(60), || 7), Some(7));
        let (_kept, never) = mpsc::channel::<()>();
        let never = std::sync::Arc::new(std::sync::Mutex::new(never));
        assert_eq!(within(Duration::from_millis(10), move || never.lock().unwrap().recv().is_ok()), None);
    }
}
