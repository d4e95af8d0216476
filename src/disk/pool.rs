//! The same work on many things, several at a time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Opening and measuring waits for the disk: more threads than processors, even where there is one.
const MIN_THREADS: usize = 4;
const MAX_THREADS: usize = 16;
/// Of a thread, in bytes; files that cannot be sent are read through 16 KiB of it.
const STACK: usize = 256 * 1024;

/// Calls `work` with each number below `count`, the smaller ones first. It comes back when all of it is done.
pub fn each(count: usize, work: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    let worker = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return;
            }
            work(index);
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads().min(count) {
            // A thread that cannot be had is one less.
            if thread::Builder::new().stack_size(STACK).spawn_scoped(scope, worker).is_err() {
                break;
            }
        }
        worker();
    });
}

fn threads() -> usize {
    let processors = rustix::thread::sched_getaffinity(None).map_or(1, |set| set.count() as usize);
    (2 * processors).clamp(MIN_THREADS, MAX_THREADS)
}
