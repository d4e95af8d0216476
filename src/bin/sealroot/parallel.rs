//! The same work on many things, several at a time, with a bar that says how far it is.

use std::sync::Mutex;

use indicatif::{ProgressBar, ProgressStyle};
use sealroot::disk::pool;

/// The results of `work` on each of `items`, in their order. The bar is drawn where standard error is a terminal.
pub fn map<T: Sync, R: Send>(what: &'static str, items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let bar = ProgressBar::new(items.len() as u64).with_message(what);
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {eta}") {
        bar.set_style(style);
    }
    let results = Mutex::new(Vec::with_capacity(items.len()));
    pool::each(items.len(), |index| {
        let Some(item) = items.get(index) else { return };
        let result = work(item);
        bar.inc(1);
        // It is poisoned only where another thread is about to end the program.
        if let Ok(mut results) = results.lock() {
            results.push((index, result));
        }
    });
    bar.finish_and_clear();
    let mut results = results.into_inner().unwrap_or_default();
    results.sort_unstable_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
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
