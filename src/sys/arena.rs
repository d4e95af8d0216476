//! The boot program's allocator: it takes memory from one static arena and the rest from the C library's.
//!
//! The program lives for milliseconds and allocates a few kilobytes in small pieces. The C library asks the kernel for
//! pages and gives them back as it goes, which costs more than all that is done with them.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::ptr;
use std::sync::atomic::{
    AtomicUsize,
    Ordering::{AcqRel, Acquire},
};

/// In bytes. Only pages that are used take memory.
const SIZE: usize = 256 * 1024;
/// What is larger goes to the C library, which can give it back, in bytes.
const LARGEST: usize = 16 * 1024;

/// Memory that is handed out once. Only the piece that was handed out last can grow, and comes back when it is freed.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct Arena {
    space: UnsafeCell<[u8; SIZE]>,
    used: AtomicUsize,
}

// SAFETY: `used` gives each byte of `space` to one owner at a time, and nothing but the owners touches the bytes; who takes
// what another thread freed comes after it, by the order of the changes of `used`.
unsafe impl Sync for Arena {}

impl Arena {
    /// With all of its memory free.
    pub const fn new() -> Self {
        Self { space: UnsafeCell::new([0; SIZE]), used: AtomicUsize::new(0) }
    }

    /// A piece of the arena, `None` where it has none left.
    fn take(&self, layout: Layout) -> Option<*mut u8> {
        if layout.size() > LARGEST || layout.align() > align_of::<Self>() {
            return None;
        }
        let mut start = 0;
        self.used
            .fetch_update(AcqRel, Acquire, |used| {
                start = used.next_multiple_of(layout.align());
                start.checked_add(layout.size()).filter(|end| *end <= SIZE)
            })
            .ok()?;
        Some(self.space.get().cast::<u8>().wrapping_add(start))
    }

    /// Where in the arena a piece starts, `None` where it is none of its.
    fn offset(&self, piece: *mut u8) -> Option<usize> {
        piece.addr().checked_sub(self.space.get().addr()).filter(|offset| *offset < SIZE)
    }

    /// Moves the end of a piece, where it is the last one and there is room.
    fn resize(&self, start: usize, old: usize, new: usize) -> bool {
        let end = start + new;
        end <= SIZE && self.used.compare_exchange(start + old, end, AcqRel, Acquire).is_ok()
    }
}

impl Default for Arena {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: pieces of the arena are within it, aligned, and overlap no other; all others are the C library's, to which they
// go back.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: what the caller promises is what the system's allocator asks for.
        self.take(layout).unwrap_or_else(|| unsafe { System.alloc(layout) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let Some(piece) = self.take(layout) else {
            // SAFETY: as in `alloc`.
            return unsafe { System.alloc_zeroed(layout) };
        };
        // SAFETY: the piece is as long as that. It may have been used before.
        unsafe { ptr::write_bytes(piece, 0, layout.size()) };
        piece
    }

    unsafe fn dealloc(&self, piece: *mut u8, layout: Layout) {
        match self.offset(piece) {
            Some(start) => {
                self.resize(start, layout.size(), 0);
            }
            // SAFETY: a piece that is not of the arena is the system's, with this layout.
            None => unsafe { System.dealloc(piece, layout) },
        }
    }

    unsafe fn realloc(&self, piece: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let Some(start) = self.offset(piece) else {
            // SAFETY: as in `dealloc`.
            return unsafe { System.realloc(piece, layout, size) };
        };
        if self.resize(start, layout.size(), size) {
            return piece;
        }
        // SAFETY: the caller promises that the size is a valid one with this alignment.
        let new_layout = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        // SAFETY: the size is not zero by the caller's promise.
        let new = unsafe { self.alloc(new_layout) };
        if !new.is_null() {
            // SAFETY: both are as long as that, and the new piece is another one.
            unsafe { ptr::copy_nonoverlapping(piece, new, layout.size().min(size)) };
            // SAFETY: the piece is the caller's, with this layout.
            unsafe { self.dealloc(piece, layout) };
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap()
    }

    #[test]
    fn pieces_do_not_overlap_and_are_aligned() {
        let arena = Box::new(Arena::new());
        let mut end = 0;
        for (size, align) in [(1, 1), (8, 8), (3, 2), (100, 64), (1, 4096), (LARGEST, 16)] {
            let piece = arena.take(layout(size, align)).unwrap();
            assert!(piece.addr().is_multiple_of(align));
            let start = arena.offset(piece).unwrap();
            assert!(start >= end, "{start} {end}");
            end = start + size;
        }
        assert!(arena.take(layout(LARGEST + 1, 1)).is_none());
        assert!(arena.take(layout(1, 8192)).is_none());
    }

    #[test]
    fn when_it_is_full_the_system_has_more() {
        let arena = Box::new(Arena::new());
        while arena.take(layout(1000, 8)).is_some() {}
        // SAFETY: the layout has a size.
        let piece = unsafe { arena.alloc_zeroed(layout(1000, 8)) };
        assert!(!piece.is_null() && arena.offset(piece).is_none());
        // SAFETY: it was allocated with this layout.
        unsafe { arena.dealloc(piece, layout(1000, 8)) };
    }

    #[test]
    fn the_last_piece_grows_and_comes_back() {
        let arena = Box::new(Arena::new());
        let bytes = |piece: *mut u8, size| {
            // SAFETY: the piece is as long as that and initialised.
            unsafe { std::slice::from_raw_parts_mut(piece, size) }
        };
        // SAFETY: the layout has a size.
        let first = unsafe { arena.alloc_zeroed(layout(10, 1)) };
        bytes(first, 10).fill(7);
        // SAFETY: the piece has this layout, the new size is not zero.
        let grown = unsafe { arena.realloc(first, layout(10, 1), 20) };
        assert_eq!(grown, first);
        // SAFETY: the layout has a size.
        let second = unsafe { arena.alloc(layout(1, 1)) };
        assert_eq!(second.addr(), first.addr() + 20);
        // SAFETY: the piece has this layout, the new size is not zero.
        let moved = unsafe { arena.realloc(first, layout(20, 1), 30) };
        assert_eq!(moved.addr(), second.addr() + 1);
        assert_eq!(bytes(moved, 10), [7; 10]);
        // SAFETY: the piece has this layout.
        unsafe { arena.dealloc(moved, layout(30, 1)) };
        // SAFETY: the layout has a size.
        let again = unsafe { arena.alloc_zeroed(layout(30, 1)) };
        assert_eq!(again, moved);
        assert_eq!(bytes(again, 30), [0; 30]);
    }
}
