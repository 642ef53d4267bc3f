//! Live and peak bytes of the process, counted by its allocator.
//!
//! Resident memory, which the system reports, includes freed memory that an allocator keeps and misses
//! pages that were never touched. The bytes that a program has allocated are exact, and the same on
//! every run.

use std::alloc::{GlobalAlloc, Layout};
use std::sync::atomic::{AtomicUsize, Ordering};

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// An allocator that counts what another one hands out.
///
/// ```
/// use burn_dist::telemetry::{Tracked, live_bytes};
/// use std::alloc::System;
///
/// #[global_allocator]
/// static MEMORY: Tracked<System> = Tracked::new(System);
///
/// let before = live_bytes();
/// let held = vec![0u8; 1 << 20];
/// assert!(live_bytes() >= before + held.len());
/// ```
#[derive(Debug)]
pub struct Tracked<A>(A);

impl<A> Tracked<A> {
    /// Counts what `allocator` hands out.
    pub const fn new(allocator: A) -> Self {
        Self(allocator)
    }
}

fn grow(bytes: usize) {
    let live = LIVE.fetch_add(bytes, Ordering::Relaxed) + bytes;
    PEAK.fetch_max(live, Ordering::Relaxed);
}

// SAFETY: every call is handed to the inner allocator unchanged; counting allocates nothing.
#[allow(unsafe_code)]
unsafe impl<A: GlobalAlloc> GlobalAlloc for Tracked<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: the caller's promises are the inner allocator's requirements.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: as above.
        unsafe { self.0.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        grow(size);
        // SAFETY: as above.
        unsafe { self.0.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { self.0.dealloc(memory, layout) }
    }
}

/// Bytes the process holds now; 0 unless [`Tracked`] is its global allocator.
pub fn live_bytes() -> usize {
    LIVE.load(Ordering::Relaxed)
}

/// The most bytes the process has held since the last [`reset_peak`].
pub fn peak_bytes() -> usize {
    PEAK.load(Ordering::Relaxed)
}

/// Starts a new measurement of the peak, and returns what is live.
pub fn reset_peak() -> usize {
    let live = live_bytes();
    PEAK.store(live, Ordering::Relaxed);
    live
}
