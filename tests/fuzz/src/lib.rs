//! Properties that several targets check, beside "no panic".

use std::alloc::{GlobalAlloc, Layout, System};
use std::error::Error;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use rustix::fs::MemfdFlags;

/// What every input may cost, in bytes, before its length counts: a table of a fixed size, and a message.
const FREE: usize = 66 * 1024;

/// The allocator of the targets: the system's, with a count of what is held.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;
static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(HELD.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        // SAFETY: the caller's promises are the system allocator's conditions.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above; the pointer came from `alloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Runs something that may never hold more than `factor` bytes for each of `length` bytes of input, and a little.
///
/// # Panics
/// It held more.
pub fn bounded<T>(length: usize, factor: usize, run: impl FnOnce() -> T) -> T {
    let before = HELD.load(Relaxed);
    PEAK.store(before, Relaxed);
    let result = run();
    let cost = PEAK.load(Relaxed) - before;
    assert!(cost <= FREE + factor * length, "{cost} bytes allocated for {length} bytes of input");
    result
}

/// An error and its causes are what the log gets: one line, nothing that steers a terminal.
///
/// # Panics
/// They are not.
pub fn check_message(error: &dyn Error) {
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        assert!(!text.is_empty() && !text.chars().any(char::is_control), "message {text:?}");
        next = error.source();
    }
}

/// A file with this content, in memory.
///
/// # Panics
/// The machine has no memory left.
pub fn file(content: &[u8]) -> File {
    let file = File::from(rustix::fs::memfd_create("input", MemfdFlags::CLOEXEC).expect("memfd"));
    file.write_all_at(content, 0).expect("write to a memfd");
    file
}
