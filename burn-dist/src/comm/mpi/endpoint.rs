//! One process's endpoint for messages to and from all others.
//!
//! Every buffer that MPI sees belongs to a persistent request, never to the caller of a collective. So
//! a wait can end at any time: the request keeps its buffer, and MPI cannot write to memory that is
//! used again.

use super::job_size;
use super::messages::{
    ABORT, Backoff, CLOSED, DATA, END_RECEIVE, HEAD_WORDS, LEAVE, MAX_MESSAGE, Messages, Progress,
    Sending,
};
use crate::error::{Error, Result};
use ferrompi::{Communicator, ThreadLevel};
use rustix::thread::{CpuSet, sched_getaffinity};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Open receives; with more of them MPI has to buffer fewer unexpected messages.
const RECEIVES: usize = 8;

static ENDPOINT: OnceLock<Arc<Endpoint>> = OnceLock::new();

thread_local! {
    /// Ends MPI when it is dropped, which must happen on the thread that started it.
    static MPI: RefCell<Option<ferrompi::Mpi>> = const { RefCell::new(None) };
}

/// This process's connection to all others.
pub(super) struct Endpoint {
    pub(super) rank: usize,
    pub(super) size: usize,
    /// Ranks, this one included, that may run on this one's cores.
    pub(super) sharing: usize,
    /// This rank's number among those of its host.
    pub(super) local_rank: usize,
    comm: Communicator,
    worlds: AtomicU64,
    /// All MPI calls are made under this lock, and none of them blocks.
    messages: Mutex<Messages>,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("rank", &self.rank)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

impl Endpoint {
    /// The endpoint of this process; the first call starts MPI.
    pub(super) fn open() -> Result<Arc<Self>> {
        if let Some(endpoint) = ENDPOINT.get() {
            return if ferrompi::Mpi::is_finalized() {
                Err(ended())
            } else {
                Ok(endpoint.clone())
            };
        }
        let what = "MPI in this process";
        if ferrompi::Mpi::is_finalized() {
            return Err(ended());
        }
        if ferrompi::Mpi::is_initialized() {
            return Err(Error::config(what, "not started by other code", "started"));
        }
        let failed = |e: ferrompi::Error| Error::config(what, "an MPI that starts", e);
        let mpi = ferrompi::Mpi::init_thread(ThreadLevel::Serialized).map_err(failed)?;
        let level = mpi.thread_level();
        if !matches!(level, ThreadLevel::Serialized | ThreadLevel::Multiple) {
            let expected = "a library with MPI_THREAD_SERIALIZED: communication has its own thread";
            return Err(Error::config(what, expected, format!("{level:?}")));
        }
        // A communicator of its own separates these messages from the program's.
        let comm = mpi.world().duplicate().map_err(failed)?;
        let library = ferrompi::Mpi::library_version().unwrap_or_default();
        job_size::check(
            comm.size() as usize,
            library.lines().next().unwrap_or(""),
            |name| std::env::var(name).ok(),
        )?;
        let host = comm.split_shared().map_err(failed)?;
        let endpoint = Arc::new(Self {
            rank: comm.rank() as usize,
            size: comm.size() as usize,
            sharing: sharing(&host).map_err(failed)?,
            local_rank: host.rank() as usize,
            comm,
            worlds: AtomicU64::new(0),
            messages: Mutex::default(),
        });
        {
            let mut messages = endpoint.lock();
            for _ in 0..RECEIVES {
                messages.receive(&endpoint.comm).map_err(failed)?;
            }
        }
        MPI.with(|slot| *slot.borrow_mut() = Some(mpi));
        Ok(ENDPOINT.get_or_init(|| endpoint).clone())
    }

    /// The endpoint, if MPI has started.
    pub(super) fn get() -> Option<&'static Arc<Self>> {
        ENDPOINT.get()
    }

    /// A number for the next world, the same in all processes that ask equally often.
    pub(super) fn next_world(&self) -> u64 {
        self.worlds.fetch_add(1, Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Messages> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends `parts`, together at most [`MAX_MESSAGE`] bytes, to `to`, for a collective of `group`.
    pub(super) fn send(&self, to: usize, group: u64, parts: &[&[u8]]) -> Result<()> {
        self.post(&mut self.lock(), to, group, DATA, parts)
    }

    fn post(
        &self,
        messages: &mut Messages,
        to: usize,
        group: u64,
        kind: u64,
        parts: &[&[u8]],
    ) -> Result<()> {
        let bytes = parts.iter().map(|p| p.len()).sum::<usize>();
        let mut words = messages.spare.pop().unwrap_or_default();
        words.resize(HEAD_WORDS + bytes.div_ceil(8), 0);
        words[..HEAD_WORDS].copy_from_slice(&[group, kind, bytes as u64]);
        let mut room: &mut [u8] = bytemuck::cast_slice_mut(&mut words[HEAD_WORDS..]);
        for part in parts {
            let (start, rest) = room.split_at_mut(part.len());
            start.copy_from_slice(part);
            room = rest;
        }
        let started = self.comm.send_init(words, to as i32, 0);
        let started = started.and_then(|mut request| request.start().map(|()| request));
        let request = started.map_err(|e| self.failed(e))?;
        messages.sends.push(Sending { group, to, request });
        Ok(())
    }

    fn failed(&self, error: ferrompi::Error) -> Error {
        Error::PeerFailed {
            peer: self.rank,
            cause: format!("MPI: {error}"),
        }
    }

    /// Polls MPI, and runs `f` on the state after that.
    pub(super) fn progress<T>(&self, f: impl FnOnce(&mut Progress<'_>) -> T) -> Result<T> {
        let mut messages = self.lock();
        let moved = messages.poll(&self.comm).map_err(|e| self.failed(e))?;
        Ok(f(&mut Progress {
            messages: &mut messages,
            moved,
        }))
    }

    /// Records that `world` has failed and tells all others, unless it has failed already; returns the
    /// first error.
    pub(super) fn fail(&self, world: u64, error: Error) -> Error {
        let mut messages = self.lock();
        let fault = &mut messages.worlds.entry(world).or_default().fault;
        if let Some(fault) = fault {
            return fault.clone();
        }
        let text = serde_json::to_vec(&error).unwrap_or_default();
        *fault = Some(error.clone());
        self.tell(&mut messages, world, ABORT, &text);
        error
    }

    /// Tells all others that this rank issues no more collectives in `world`.
    pub(super) fn leave(&self, world: u64) {
        self.tell(&mut self.lock(), world, LEAVE, &[]);
    }

    fn tell(&self, messages: &mut Messages, world: u64, kind: u64, text: &[u8]) {
        // A text that is too long is sent empty; the receiver reports that.
        let text = if text.len() > MAX_MESSAGE { &[] } else { text };
        for peer in (0..self.size).filter(|peer| *peer != self.rank) {
            // A rank that cannot be told runs into its deadline.
            let _ = self.post(messages, peer, world, kind, &[text]);
        }
    }

    /// Tells all others that this process closes, waits until all have closed, and ends MPI.
    pub(super) fn close(&self, timeout: Duration) -> Result<()> {
        let Some(mpi) = MPI.with(|slot| slot.borrow_mut().take()) else {
            let expected = "to be ended once, on the thread that started it";
            return Err(Error::config(
                "MPI in this process",
                expected,
                "another call",
            ));
        };
        self.tell(&mut self.lock(), 0, CLOSED, &[]);
        let since = Instant::now();
        let mut backoff = Backoff::new();
        loop {
            let others = (0..self.size).filter(|peer| *peer != self.rank);
            let missing: Vec<usize> = self.progress(|state| {
                backoff.moved(state.moved);
                let messages = &*state.messages;
                let sending: BTreeSet<usize> = messages.sends.iter().map(|s| s.to).collect();
                others
                    .filter(|peer| !messages.closed.contains(peer) || sending.contains(peer))
                    .collect()
            })?;
            if missing.is_empty() {
                break;
            }
            if since.elapsed() >= timeout {
                // Receives are still open, so dropping this does not end MPI, which would wait forever for
                // the others. The launcher ends the job when this process exits.
                drop(mpi);
                return Err(Error::Timeout {
                    rank: self.rank,
                    call: "the end of the program".into(),
                    waited: timeout,
                    missing,
                });
            }
            backoff.wait();
        }
        self.end_receives()?;
        drop(mpi);
        Ok(())
    }

    /// Completes the open receives, which MPI requires before it ends.
    fn end_receives(&self) -> Result<()> {
        let mut messages = self.lock();
        let mut open = std::mem::take(&mut messages.receives);
        for _ in 0..open.len() {
            self.post(&mut messages, self.rank, 0, END_RECEIVE, &[])?;
        }
        let mut all_done = || -> ferrompi::Result<bool> {
            while let Some(first) = open.front_mut() {
                if first.test()?.is_none() {
                    return Ok(false);
                }
                open.pop_front();
            }
            messages.release_sent()?;
            Ok(messages.sends.is_empty())
        };
        // Messages to oneself need no other rank, so this ends.
        while !all_done().map_err(|e| self.failed(e))? {
            std::thread::yield_now();
        }
        Ok(())
    }
}

fn ended() -> Error {
    Error::config(
        "MPI in this process",
        "an MPI that runs",
        "ended; it cannot start again",
    )
}

/// How many ranks of this host, this one included, may run on this rank's cores.
///
/// The ranks exchange their core sets, because whether `mpirun` binds ranks to cores depends on its
/// options.
fn sharing(host: &Communicator) -> ferrompi::Result<usize> {
    let mut mine = [0u64; CpuSet::MAX_CPU / 64];
    let cores = sched_getaffinity(None).ok();
    for (at, word) in mine.iter_mut().enumerate() {
        for bit in 0..64 {
            let set = cores.as_ref().is_none_or(|c| c.is_set(at * 64 + bit));
            *word |= u64::from(set) << bit;
        }
    }
    let mut all = vec![0; mine.len() * host.size() as usize];
    host.allgather(&mine, &mut all)?;
    let overlaps = |theirs: &&[u64]| theirs.iter().zip(&mine).any(|(a, b)| a & b != 0);
    Ok(all.chunks(mine.len()).filter(overlaps).count().max(1))
}
