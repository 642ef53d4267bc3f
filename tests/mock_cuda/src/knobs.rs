//! Knobs that a test sets, and counters and a log that it reads afterwards.

use crate::context;
use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::{CStr, c_char};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard};

/// What `ncclGetVersion` says unless a thread asked for another.
const VERSION: i32 = 99_999;

static KNOBS: Mutex<Option<HashMap<(String, i32), i64>>> = Mutex::new(None);
static LOG: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Contexts that are retained.
pub(crate) static RETAINED: AtomicI64 = AtomicI64::new(0);
/// Events that are not destroyed.
pub(crate) static EVENTS: AtomicI64 = AtomicI64::new(0);
/// Communicators that are not destroyed.
pub(crate) static COMMS: AtomicI64 = AtomicI64::new(0);

thread_local! {
    static MY_VERSION: Cell<i32> = const { Cell::new(VERSION) };
    static RANDOM: Cell<u64> = const { Cell::new(0) };
}

/// The knob `name`, for `rank` or for all.
pub(crate) fn knob(name: &str, rank: usize) -> Option<i64> {
    let knobs = KNOBS.lock().unwrap();
    let knobs = knobs.as_ref()?;
    let of = |rank: i32| knobs.get(&(name.to_string(), rank)).copied();
    of(rank as i32).or_else(|| of(-1))
}

/// Sleeps for a random part of so many microseconds.
pub(crate) fn dawdle(most: Option<i64>) {
    let Some(most) = most.filter(|most| *most > 0) else {
        return;
    };
    let mut z = RANDOM.get();
    if z == 0 {
        z = std::ptr::from_ref(&z) as u64 | 1;
    }
    z ^= z << 13;
    z ^= z >> 7;
    z ^= z << 17;
    RANDOM.set(z);
    std::thread::sleep(std::time::Duration::from_micros(z % most as u64));
}

pub(crate) fn version() -> i32 {
    MY_VERSION.get()
}

/// Writes down what was called, or what should not have been.
pub(crate) fn note(line: String) {
    log().push(line);
}

fn log() -> MutexGuard<'static, Vec<String>> {
    LOG.lock().unwrap()
}

/// Sets a knob for one rank of a communicator, or for all where `rank` is -1.
///
/// # Safety
/// `name` ends with a zero.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mock_set(name: *const c_char, rank: i32, value: i64) {
    // SAFETY: the caller's promise.
    let name = unsafe { CStr::from_ptr(name) };
    let name = name.to_string_lossy().into_owned();
    let mut knobs = KNOBS.lock().unwrap();
    knobs.get_or_insert_default().insert((name, rank), value);
}

/// What `ncclGetVersion` says to this thread.
#[unsafe(no_mangle)]
pub extern "C" fn mock_version(version: i32) {
    MY_VERSION.set(version);
}

/// Resets all knobs and clears the log.
#[unsafe(no_mangle)]
pub extern "C" fn mock_reset() {
    *KNOBS.lock().unwrap() = None;
    log().clear();
}

/// What is open: streams, events, communicators, and retained contexts.
///
/// # Safety
/// There is room for four.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mock_open(counts: *mut i64) {
    let found = [
        context::open_streams() as i64,
        EVENTS.load(Ordering::SeqCst),
        COMMS.load(Ordering::SeqCst),
        RETAINED.load(Ordering::SeqCst),
    ];
    // SAFETY: the caller's promise.
    unsafe { counts.cast::<[i64; 4]>().write(found) };
}

/// Writes as much of the log as there is room for, and returns its length.
///
/// # Safety
/// There is room for `room` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mock_log(to: *mut u8, room: usize) -> usize {
    let text = log().join("\n");
    // SAFETY: the caller's promise.
    unsafe { to.copy_from(text.as_ptr(), room.min(text.len())) };
    text.len()
}
