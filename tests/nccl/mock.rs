//! The mock's knobs, what it has written down, and the driver's functions that a program's own
//! kernels would use.

use libloading::Library;
use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

static LIBRARY: LazyLock<Library> = LazyLock::new(|| {
    // SAFETY: the mock initialises nothing.
    unsafe { Library::new("libcuda.so.1") }.unwrap()
});

/// A function of the mock.
macro_rules! function {
    ($name:ident: $type:ty) => {{
        // SAFETY: the type is that of the function in tests/mock_cuda.
        unsafe { LIBRARY.get::<$type>(concat!(stringify!($name), "\0")) }.unwrap()
    }};
}

/// Sets a knob for one rank, or for all.
pub(crate) fn set(name: &str, rank: Option<usize>, value: i64) {
    let name = CString::new(name).unwrap();
    let set = function!(mock_set: unsafe extern "C" fn(*const c_char, i32, i64));
    // SAFETY: a string that ends with a zero.
    unsafe { set(name.as_ptr(), rank.map_or(-1, |r| r as i32), value) };
}

/// Makes NCCL have another version for this thread.
pub(crate) fn version(version: i32) {
    let set = function!(mock_version: unsafe extern "C" fn(i32));
    // SAFETY: always safe.
    unsafe { set(version) };
}

/// Resets all knobs and clears the log.
pub(crate) fn reset() {
    let reset = function!(mock_reset: unsafe extern "C" fn());
    // SAFETY: always safe.
    unsafe { reset() };
}

/// What was called, and misused.
pub(crate) fn log() -> Vec<String> {
    let log = function!(mock_log: unsafe extern "C" fn(*mut u8, usize) -> usize);
    let mut text = vec![0; 1 << 24];
    // SAFETY: as much room as is said.
    let len = unsafe { log(text.as_mut_ptr(), text.len()) };
    text.truncate(len);
    let text = String::from_utf8(text).unwrap();
    text.lines().map(str::to_string).collect()
}

/// Streams, events, communicators and contexts that are open.
fn open() -> [i64; 4] {
    let open = function!(mock_open: unsafe extern "C" fn(*mut i64));
    let mut counts = [0; 4];
    // SAFETY: there is room for four.
    unsafe { open(counts.as_mut_ptr()) };
    counts
}

/// Asserts that nothing was misused, and that everything was released.
pub(crate) fn assert_clean() {
    let since = Instant::now();
    while open() != [0; 4] && since.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(Duration::from_millis(1));
    }
    let log = log();
    let misused: Vec<_> = log.iter().filter(|l| l.starts_with("MISUSE")).collect();
    assert!(misused.is_empty(), "{misused:?}");
    assert_eq!(open(), [0; 4], "streams, events, communicators, contexts");
    let mut ended = std::collections::BTreeMap::new();
    for line in &log {
        let (comm, call) = line.split_once(' ').unwrap();
        let ends = call.contains("Destroy") || call.contains("Abort");
        *ended.entry(comm).or_insert(0) += u32::from(ends);
    }
    assert!(ended.values().all(|ends| *ends == 1), "{ended:?}");
}

/// A stream for kernels, which are closures; it does one after the other.
pub(crate) struct Compute(Arc<Stream>);

struct Stream {
    ordinal: usize,
    handle: usize,
}

impl Compute {
    /// A stream on device `ordinal`.
    pub(crate) fn new(ordinal: usize) -> Self {
        enter(ordinal);
        let create = function!(cuStreamCreateWithPriority: unsafe extern "C" fn(*mut *mut c_void, c_uint, c_int) -> c_uint);
        let mut stream = std::ptr::null_mut();
        // SAFETY: the stream is written.
        assert_eq!(unsafe { create(&raw mut stream, 1, 0) }, 0);
        let handle = stream as usize;
        Self(Arc::new(Stream { ordinal, handle }))
    }

    /// Submits a kernel.
    pub(crate) fn run(&self, kernel: impl FnOnce() + Send + 'static) {
        unsafe extern "C" fn call(data: *mut c_void) {
            // SAFETY: what was boxed below, once.
            let kernel = unsafe { Box::from_raw(data.cast::<Box<dyn FnOnce() + Send>>()) };
            kernel();
        }
        type Function = unsafe extern "C" fn(*mut c_void);
        let launch = function!(cuLaunchHostFunc: unsafe extern "C" fn(*mut c_void, Function, *mut c_void) -> c_uint);
        let kernel: Box<dyn FnOnce() + Send> = Box::new(kernel);
        let data = Box::into_raw(Box::new(kernel)).cast();
        // SAFETY: the stream is open, and function and data belong together.
        let code = unsafe { launch(self.0.handle as *mut c_void, call, data) };
        assert_eq!(code, 0);
    }

    /// Waits for all kernels.
    pub(crate) fn synchronize(&self) {
        let wait = function!(cuStreamSynchronize: unsafe extern "C" fn(*mut c_void) -> c_uint);
        // SAFETY: the stream is open.
        assert_eq!(unsafe { wait(self.0.handle as *mut c_void) }, 0);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        enter(self.ordinal);
        let destroy = function!(cuStreamDestroy_v2: unsafe extern "C" fn(*mut c_void) -> c_uint);
        // SAFETY: the stream is open, and nobody uses it any more.
        unsafe { destroy(self.handle as *mut c_void) };
    }
}

fn enter(ordinal: usize) {
    let enter = function!(cuCtxSetCurrent: unsafe extern "C" fn(*mut c_void) -> c_uint);
    // SAFETY: the mock's contexts are numbers.
    unsafe { enter((ordinal + 1) as *mut c_void) };
}
