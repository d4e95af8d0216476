//! The same work on many things, several at a time, with a bar that says how far it is.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use indicatif::{ProgressBar, ProgressStyle};

/// Opening and measuring waits for the disk: more threads than processors, even where there is one.
const MIN_THREADS: usize = 4;
const MAX_THREADS: usize = 16;

/// The results of `work` on each of `items`, in their order. The bar is drawn where standard error is a terminal.
pub fn map<T: Sync, R: Send>(what: &'static str, items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let bar = ProgressBar::new(items.len() as u64).with_message(what);
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {eta}") {
        bar.set_style(style);
    }
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::with_capacity(items.len()));
    let worker = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(index) else { return };
            let result = work(item);
            bar.inc(1);
            // It is poisoned only where another thread is about to end the program.
            if let Ok(mut results) = results.lock() {
                results.push((index, result));
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads().min(items.len()) {
            // A thread that cannot be had is one less.
            if thread::Builder::new().spawn_scoped(scope, worker).is_err() {
                break;
            }
        }
        worker();
    });
    bar.finish_and_clear();
    let mut results = results.into_inner().unwrap_or_default();
    results.sort_unstable_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

fn threads() -> usize {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    (2 * processors).clamp(MIN_THREADS, MAX_THREADS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_in_order() {
        let items: Vec<_> = (0..1000).collect();
        assert_eq!(map("numbers", &items, |number| number * 2), (0..1000).map(|number| number * 2).collect::<Vec<_>>());
        assert!(map("nothing", &[] as &[u8], |byte| *byte).is_empty());
    }
}
