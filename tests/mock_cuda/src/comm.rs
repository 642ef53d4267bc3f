//! NCCL's functions. A communicator is never freed, so that a use after its end is found.

use crate::collective::{Clique, Kind, Move, Part};
use crate::context;
use crate::knobs::{COMMS, dawdle, knob, note, version};
use crate::numbers::Dtype;
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const INVALID_ARGUMENT: c_uint = 4;
const INVALID_USAGE: c_uint = 5;
const IN_PROGRESS: c_uint = 7;

static CLIQUES: Mutex<Option<HashMap<[u8; 128], Arc<Clique>>>> = Mutex::new(None);
thread_local! {
    /// The sends and receives of the group that this thread has begun, each with its communicator and stream.
    static GROUP: RefCell<Option<Vec<(usize, usize, Move)>>> = const { RefCell::new(None) };
}
static NEXT: AtomicU64 = AtomicU64::new(1);
/// Devices on which a call is under way, by a bit each.
static BUSY: Mutex<u128> = Mutex::new(0);

/// One rank's communicator.
struct Comm {
    serial: u64,
    rank: usize,
    clique: Arc<Clique>,
    device: usize,
    born: Instant,
    calls: AtomicU64,
    /// Collectives that are not through their stream.
    pending: AtomicU64,
    /// Collectives that have not reached their stream.
    launching: AtomicU64,
    error: AtomicU32,
    finalized: Mutex<Option<Instant>>,
    aborted: AtomicBool,
    gone: AtomicBool,
}

/// 128 bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct UniqueId([u8; 128]);

/// The part of the configuration that is looked at.
#[repr(C)]
pub struct Config {
    size: usize,
    magic: c_uint,
    version: c_uint,
    blocking: c_int,
}

/// One call of one device: no other may be under way, but aborts of other communicators.
struct Call(usize);

impl Call {
    fn begin(device: usize) -> Self {
        let mut busy = BUSY.lock().unwrap();
        if *busy >> device & 1 == 1 {
            note("MISUSE two calls at a time for one device".into());
        }
        *busy |= 1 << device;
        Self(device)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        *BUSY.lock().unwrap() &= !(1 << self.0);
    }
}

impl Comm {
    fn is_connecting(&self) -> bool {
        let delay = knob("init_delay_ms", self.rank).unwrap_or(0);
        let delayed = self.born.elapsed() < Duration::from_millis(delay as u64);
        knob("init_never", self.rank).is_some() || delayed || !self.clique.is_complete()
    }

    fn state(&self) -> c_uint {
        let error = self.error.load(Ordering::SeqCst);
        let ending = self.finalized.lock().unwrap().is_some_and(|since| {
            let delay = knob("finalize_delay_ms", self.rank).unwrap_or(0);
            self.pending.load(Ordering::SeqCst) > 0
                || since.elapsed() < Duration::from_millis(delay as u64)
        });
        let launching = self.launching.load(Ordering::SeqCst) > 0;
        match error {
            0 if self.is_connecting() || launching || ending => IN_PROGRESS,
            error => error,
        }
    }

    fn misuse(&self, what: &str) -> c_uint {
        note(format!("MISUSE c{} {what}", self.serial));
        INVALID_USAGE
    }

    /// The communicator of a call, which is written down.
    fn of(handle: *mut c_void, function: &str) -> Result<(&'static Self, Option<Call>), c_uint> {
        if handle.is_null() {
            return Err(INVALID_ARGUMENT);
        }
        // SAFETY: a communicator is never freed.
        let comm = unsafe { &*handle.cast::<Self>() };
        let call = (function != "ncclCommAbort").then(|| Call::begin(comm.device));
        if function != "ncclCommGetAsyncError" {
            note(format!("c{} r{} {function}", comm.serial, comm.rank));
        }
        if comm.gone.load(Ordering::SeqCst) {
            Err(comm.misuse(&format!("{function} after its end")))
        } else {
            Ok((comm, call))
        }
    }

    /// Gives a collective to its stream.
    fn launch(&'static self, part: Part, stream: *mut c_void) -> c_uint {
        if self.state() != 0 {
            return self.misuse("a collective while another call is in progress");
        }
        let Some(stream) = context::stream(stream as usize) else {
            return INVALID_ARGUMENT;
        };
        let number = self.calls.fetch_add(1, Ordering::SeqCst);
        let is_now = |name: &str| knob(name, self.rank) == Some(number as i64);
        if is_now("refuse_at") {
            return 3;
        }
        self.pending.fetch_add(1, Ordering::SeqCst);
        let stuck = is_now("stuck_at") || is_now("error_at");
        if is_now("error_at") {
            self.error.store(6, Ordering::SeqCst);
        }
        let run = move || {
            dawdle(knob("delay_us", self.rank));
            if stuck {
                while !self.aborted.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(1));
                }
            } else {
                self.clique.meet(self.rank, number, part, &self.aborted);
            }
            self.pending.fetch_sub(1, Ordering::SeqCst);
        };
        let Some(delay) = knob("launch_delay_us", self.rank) else {
            stream.push(run);
            return 0;
        };
        self.launching.fetch_add(1, Ordering::SeqCst);
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_micros(delay as u64));
            stream.push(run);
            self.launching.fetch_sub(1, Ordering::SeqCst);
        });
        IN_PROGRESS
    }

    /// Gives the sends and receives of a group to their stream.
    fn launch_group(&'static self, moves: Vec<Move>, stream: usize) -> c_uint {
        if self.state() != 0 {
            return self.misuse("a group while another call is in progress");
        }
        let Some(stream) = context::stream(stream) else {
            return INVALID_ARGUMENT;
        };
        self.pending.fetch_add(1, Ordering::SeqCst);
        stream.push(move || {
            dawdle(knob("delay_us", self.rank));
            self.clique.exchange(self.rank, &moves, &self.aborted);
            self.pending.fetch_sub(1, Ordering::SeqCst);
        });
        0
    }

    fn end(&self) {
        self.gone.store(true, Ordering::SeqCst);
        COMMS.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Gives a function the form of NCCL's: what it returns is a code.
macro_rules! export {
    ($(fn $name:ident($($arg:ident: $type:ty),* $(,)?) $body:block)*) => {
        $(
            /// As NCCL's function of this name.
            ///
            /// # Safety
            /// That of NCCL's.
            #[unsafe(no_mangle)]
            #[allow(non_snake_case)]
            pub unsafe extern "C" fn $name($($arg: $type),*) -> c_uint {
                let run = || -> Result<c_uint, c_uint> { $body };
                run().unwrap_or_else(|code| code)
            }
        )*
    };
}

/// Adds a send or receive to the group that this thread has begun.
fn grouped(
    function: &str,
    comm: *mut c_void,
    stream: *mut c_void,
    (is_send, peer): (bool, c_int),
    (address, count, dtype): (usize, usize, c_uint),
) -> Result<c_uint, c_uint> {
    let (handle, size) = (comm as usize, Dtype(dtype).size().ok_or(INVALID_ARGUMENT)?);
    let (comm, _call) = Comm::of(comm, function)?;
    let peer = peer as usize;
    if peer >= comm.clique.size {
        return Err(INVALID_ARGUMENT);
    }
    let one = Move {
        is_send,
        peer,
        address,
        bytes: count * size,
    };
    GROUP.with_borrow_mut(|group| match group {
        Some(group) => {
            group.push((handle, stream as usize, one));
            Ok(0)
        }
        // Alone, a send would wait for a receive that this thread cannot come to.
        None => Err(comm.misuse("a send or receive outside of a group")),
    })
}

/// Writes a result.
fn give<T>(to: *mut T, value: T) {
    // SAFETY: the caller of the exported function gave a place for it.
    unsafe { to.write(value) };
}

fn part(
    kind: Kind,
    send: *const c_void,
    recv: *mut c_void,
    count: usize,
    dtype: c_uint,
) -> Result<Part, c_uint> {
    let dtype = Dtype(dtype);
    dtype.size().ok_or(INVALID_ARGUMENT)?;
    let (send, recv) = (send as usize, recv as usize);
    Ok(Part {
        kind,
        send,
        recv,
        count,
        dtype,
    })
}

export! {
    fn ncclGetVersion(to: *mut c_int) {
        give(to, version());
        Ok(0)
    }

    fn ncclGetUniqueId(to: *mut UniqueId) {
        if knob("no_id", 0).is_some() {
            return Err(2);
        }
        let mut id = [0; 128];
        id[..8].copy_from_slice(&NEXT.fetch_add(1, Ordering::SeqCst).to_le_bytes());
        id[127] = 77;
        give(to, UniqueId(id));
        Ok(0)
    }

    fn ncclCommInitRankConfig(
        to: *mut *mut c_void,
        size: c_int,
        id: UniqueId,
        rank: c_int,
        config: *mut Config,
    ) {
        // SAFETY: the caller gave a configuration.
        let config = unsafe { &*config };
        let is_config = config.magic == 0xcafe_beef && config.size >= 64 && config.version >= 21_800;
        if !is_config || config.blocking != 0 || id.0[127] != 77 || context::current() == 0 {
            note("MISUSE no configuration, id or context".into());
            return Err(INVALID_ARGUMENT);
        }
        let (rank, size, device) = (rank as usize, size as usize, context::current() - 1);
        let _call = Call::begin(device);
        if knob("init_refused", rank).is_some() {
            return Err(INVALID_USAGE);
        }
        let mut cliques = CLIQUES.lock().unwrap();
        let clique = cliques.get_or_insert_default().entry(id.0);
        let clique = clique.or_insert_with(|| Arc::new(Clique::new(size))).clone();
        clique.join();
        let serial = NEXT.fetch_add(1, Ordering::SeqCst);
        note(format!("c{serial} r{rank} ncclCommInitRankConfig"));
        COMMS.fetch_add(1, Ordering::SeqCst);
        let comm = Comm {
            serial,
            rank,
            clique,
            device,
            born: Instant::now(),
            calls: AtomicU64::new(0),
            pending: AtomicU64::new(0),
            launching: AtomicU64::new(0),
            error: AtomicU32::new(0),
            finalized: Mutex::new(None),
            aborted: AtomicBool::new(false),
            gone: AtomicBool::new(false),
        };
        give(to, Box::into_raw(Box::new(comm)).cast());
        Ok(IN_PROGRESS)
    }

    fn ncclCommGetAsyncError(comm: *mut c_void, to: *mut c_uint) {
        let (comm, _call) = Comm::of(comm, "ncclCommGetAsyncError")?;
        give(to, comm.state());
        Ok(0)
    }

    fn ncclCommFinalize(comm: *mut c_void) {
        let (comm, _call) = Comm::of(comm, "ncclCommFinalize")?;
        *comm.finalized.lock().unwrap() = Some(Instant::now());
        Ok(IN_PROGRESS)
    }

    fn ncclCommDestroy(comm: *mut c_void) {
        let (comm, _call) = Comm::of(comm, "ncclCommDestroy")?;
        if comm.finalized.lock().unwrap().is_none() || comm.state() != 0 {
            return Err(comm.misuse("destroyed before it was finalized"));
        }
        comm.end();
        Ok(0)
    }

    fn ncclCommAbort(comm: *mut c_void) {
        let (comm, _) = Comm::of(comm, "ncclCommAbort")?;
        comm.aborted.store(true, Ordering::SeqCst);
        comm.clique.notify();
        // As NCCL does, for what it has in the device's stream, behind whatever else is there.
        while comm.pending.load(Ordering::SeqCst) > 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        comm.end();
        Ok(0)
    }

    fn ncclAllGather(
        send: *const c_void,
        recv: *mut c_void,
        count: usize,
        dtype: c_uint,
        comm: *mut c_void,
        stream: *mut c_void,
    ) {
        let (comm, _call) = Comm::of(comm, "ncclAllGather")?;
        Ok(comm.launch(part(Kind::Gather, send, recv, count, dtype)?, stream))
    }

    fn ncclReduceScatter(
        send: *const c_void,
        recv: *mut c_void,
        count: usize,
        dtype: c_uint,
        op: c_uint,
        comm: *mut c_void,
        stream: *mut c_void,
    ) {
        let (comm, _call) = Comm::of(comm, "ncclReduceScatter")?;
        Ok(comm.launch(part(Kind::Scatter(op), send, recv, count, dtype)?, stream))
    }

    fn ncclAllReduce(
        send: *const c_void,
        recv: *mut c_void,
        count: usize,
        dtype: c_uint,
        op: c_uint,
        comm: *mut c_void,
        stream: *mut c_void,
    ) {
        let (comm, _call) = Comm::of(comm, "ncclAllReduce")?;
        Ok(comm.launch(part(Kind::Reduce(op), send, recv, count, dtype)?, stream))
    }

    fn ncclGroupStart() {
        GROUP.set(Some(Vec::new()));
        Ok(0)
    }

    fn ncclGroupEnd() {
        let group = GROUP.take().ok_or(INVALID_USAGE)?;
        let Some((handle, stream, _)) = group.first().copied() else {
            return Ok(0);
        };
        if group.iter().any(|(other, at, _)| (*other, *at) != (handle, stream)) {
            note("MISUSE a group of several communicators or streams".into());
            return Err(INVALID_USAGE);
        }
        let (comm, _call) = Comm::of(handle as *mut c_void, "ncclGroupEnd")?;
        Ok(comm.launch_group(group.into_iter().map(|(.., one)| one).collect(), stream))
    }

    fn ncclSend(
        send: *const c_void,
        count: usize,
        dtype: c_uint,
        peer: c_int,
        comm: *mut c_void,
        stream: *mut c_void,
    ) {
        grouped("ncclSend", comm, stream, (true, peer), (send as usize, count, dtype))
    }

    fn ncclRecv(
        recv: *mut c_void,
        count: usize,
        dtype: c_uint,
        peer: c_int,
        comm: *mut c_void,
        stream: *mut c_void,
    ) {
        grouped("ncclRecv", comm, stream, (false, peer), (recv as usize, count, dtype))
    }

    fn ncclBroadcast(
        send: *const c_void,
        recv: *mut c_void,
        count: usize,
        dtype: c_uint,
        root: c_int,
        comm: *mut c_void,
        stream: *mut c_void,
    ) {
        let (comm, _call) = Comm::of(comm, "ncclBroadcast")?;
        Ok(comm.launch(part(Kind::Broadcast(root as usize), send, recv, count, dtype)?, stream))
    }
}

/// As NCCL's function of this name.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub extern "C" fn ncclGetErrorString(code: c_uint) -> *const c_char {
    match code {
        2 => c"unhandled system error",
        3 => c"internal error",
        5 => c"invalid usage",
        6 => c"remote process exited or there was a network error",
        _ => c"no error of the mock's",
    }
    .as_ptr()
}

/// As NCCL's function of this name.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub extern "C" fn ncclGetLastError(_comm: *mut c_void) -> *const c_char {
    c"the mock was asked to".as_ptr()
}
