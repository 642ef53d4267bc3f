//! Device memory of the mock: memory of the host that is overwritten and reused when its owner is dropped.

use burn_dist::comm::{DeviceBuffer, Element};
use std::sync::{Arc, Mutex};

/// What a freed word holds.
const FREED: u64 = 0xabab_abab_abab_abab;

static POOL: Mutex<Vec<Vec<u64>>> = Mutex::new(Vec::new());

/// Owned elements.
pub(crate) struct Memory(Vec<u64>);

impl Drop for Memory {
    fn drop(&mut self) {
        let mut words = std::mem::take(&mut self.0);
        // At once, so that a late reader reads this.
        words.fill(FREED);
        POOL.lock().unwrap().push(words);
    }
}

/// A buffer of `len` elements.
pub(crate) fn buffer<T: Element>(len: usize) -> DeviceBuffer {
    let words = (len * size_of::<T>()).div_ceil(8).max(1);
    let mut pool = POOL.lock().unwrap();
    let fits = pool.iter().position(|free| free.len() == words);
    let mut memory = match fits {
        Some(place) => pool.swap_remove(place),
        None => vec![FREED; words],
    };
    let address = memory.as_mut_ptr().addr() as u64;
    let owner = Arc::new(Memory(memory));
    // SAFETY: the words are at this address as long as the owner lives, and the tests order their
    // kernels by events.
    unsafe { DeviceBuffer::new(address, len, T::DTYPE, owner) }
}

/// What a kernel writes.
pub(crate) fn write<T: Element>(buffer: &DeviceBuffer, from: usize, elements: &[T]) {
    assert!(from + elements.len() <= buffer.len() && buffer.dtype() == T::DTYPE);
    // SAFETY: inside the buffer, which is alive.
    unsafe {
        let to = (buffer.address() as usize as *mut T).add(from);
        to.copy_from(elements.as_ptr(), elements.len());
    }
}

/// What a kernel reads.
pub(crate) fn read<T: Element>(buffer: &DeviceBuffer) -> Vec<T> {
    assert!(buffer.dtype() == T::DTYPE);
    let mut elements = vec![T::zeroed(); buffer.len()];
    // SAFETY: inside the buffer, which is alive; empty ones have an address too.
    unsafe {
        let from = buffer.address() as usize as *const T;
        elements.as_mut_ptr().copy_from(from, buffer.len());
    }
    elements
}
