//! How many bytes are alive?
//!
//! A global allocator that counts what it hands out and takes back, while it is told to. The count is of requested
//! sizes, so it says what the program holds, not what the operating system lends it.
#![allow(unsafe_code, reason = "a global allocator is an unsafe trait; every method only forwards to the system's")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicBool, AtomicI64, Ordering},
};

#[global_allocator]
static ALLOCATOR: Counting = Counting;
static COUNTING: AtomicBool = AtomicBool::new(false);
static LIVE: AtomicI64 = AtomicI64::new(0);

/// Bytes that came to life and still live since [`count`] was called. Wrong by what other threads hold in passing.
pub fn live() -> i64 {
    LIVE.load(Ordering::Relaxed)
}

/// Starts counting from zero, or stops. Off while time is measured, so that counting costs no figure anything.
pub fn count(on: bool) {
    LIVE.store(0, Ordering::Relaxed);
    COUNTING.store(on, Ordering::Relaxed);
}

struct Counting;

fn note(bytes: i64) {
    if COUNTING.load(Ordering::Relaxed) {
        LIVE.fetch_add(bytes, Ordering::Relaxed);
    }
}

// SAFETY: each method forwards its arguments unchanged to `System` and returns what that returns, so `System`'s
// guarantees are ours. Counting touches two atomics, allocates nothing and cannot unwind.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size() as i64);
        // SAFETY: the caller's promises about `layout` are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size() as i64);
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        note(-(layout.size() as i64));
        // SAFETY: `pointer` came from this allocator, so from `System`, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size as i64 - layout.size() as i64);
        // SAFETY: as in `dealloc`; the caller promises that `size` is not zero and does not overflow.
        unsafe { System.realloc(pointer, layout, size) }
    }
}
