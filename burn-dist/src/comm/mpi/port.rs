//! One process's messages to and from all others.
//!
//! Every buffer that MPI sees belongs to a persistent request, never to the caller of a
//! collective. So a wait can be given up at any moment: the request is forgotten with its buffer,
//! and nothing MPI still does can touch memory that is used again.

use super::traffic::{
    ABORT, BYE, Backoff, HEAD, LEAVE, MAIL, MOST, NOTHING, Sending, Traffic, View,
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

/// Receives that wait for whatever comes; more only save MPI from putting messages aside.
const RECEIVES: usize = 8;

static PORT: OnceLock<Arc<Port>> = OnceLock::new();

thread_local! {
    /// Ends MPI when it is dropped, which must happen on the thread that began it.
    static MPI: RefCell<Option<ferrompi::Mpi>> = const { RefCell::new(None) };
}

/// This process's way to all others.
pub(super) struct Port {
    pub(super) rank: usize,
    pub(super) size: usize,
    /// Ranks, this one included, that may run on this one's cores.
    pub(super) sharing: usize,
    /// This rank's number among those of its host.
    pub(super) local_rank: usize,
    comm: Communicator,
    worlds: AtomicU64,
    /// MPI calls are made under this lock alone, and none of them waits.
    traffic: Mutex<Traffic>,
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Port")
            .field("rank", &self.rank)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

impl Port {
    /// The port of this process; the first call begins MPI.
    pub(super) fn open() -> Result<Arc<Self>> {
        if let Some(port) = PORT.get() {
            return match ferrompi::Mpi::is_finalized() {
                true => Err(ended()),
                false => Ok(port.clone()),
            };
        }
        let what = "MPI in this process";
        if ferrompi::Mpi::is_finalized() {
            return Err(ended());
        }
        if ferrompi::Mpi::is_initialized() {
            return Err(Error::config(what, "not begun by other code", "begun"));
        }
        let failed = |e: ferrompi::Error| Error::config(what, "an MPI that starts", e);
        let mpi = ferrompi::Mpi::init_thread(ThreadLevel::Serialized).map_err(failed)?;
        let level = mpi.thread_level();
        if !matches!(level, ThreadLevel::Serialized | ThreadLevel::Multiple) {
            let expected = "a library with MPI_THREAD_SERIALIZED: communication has its own thread";
            return Err(Error::config(what, expected, format!("{level:?}")));
        }
        // The program's own messages, if it sends any, stay apart from these.
        let comm = mpi.world().duplicate().map_err(failed)?;
        let host = comm.split_shared().map_err(failed)?;
        let port = Arc::new(Self {
            rank: comm.rank() as usize,
            size: comm.size() as usize,
            sharing: sharing(&host).map_err(failed)?,
            local_rank: host.rank() as usize,
            comm,
            worlds: AtomicU64::new(0),
            traffic: Mutex::default(),
        });
        {
            let mut traffic = port.lock();
            for _ in 0..RECEIVES {
                traffic.receive(&port.comm).map_err(failed)?;
            }
        }
        MPI.with(|slot| *slot.borrow_mut() = Some(mpi));
        Ok(PORT.get_or_init(|| port).clone())
    }

    /// The port, if MPI has begun.
    pub(super) fn get() -> Option<&'static Arc<Self>> {
        PORT.get()
    }

    /// A number for the next world, the same in all processes that ask equally often.
    pub(super) fn next_world(&self) -> u64 {
        self.worlds.fetch_add(1, Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Traffic> {
        self.traffic.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends `parts`, together at most [`MOST`] bytes, to `to`, for a collective of `group`.
    pub(super) fn send(&self, to: usize, group: u64, parts: &[&[u8]]) -> Result<()> {
        self.post(&mut self.lock(), to, group, MAIL, parts)
    }

    fn post(
        &self,
        traffic: &mut Traffic,
        to: usize,
        group: u64,
        kind: u64,
        parts: &[&[u8]],
    ) -> Result<()> {
        let bytes = parts.iter().map(|p| p.len()).sum::<usize>();
        let mut words = traffic.spare.pop().unwrap_or_default();
        words.resize(HEAD + bytes.div_ceil(8), 0);
        words[..HEAD].copy_from_slice(&[group, kind, bytes as u64]);
        let mut room: &mut [u8] = bytemuck::cast_slice_mut(&mut words[HEAD..]);
        for part in parts {
            let (here, rest) = room.split_at_mut(part.len());
            here.copy_from_slice(part);
            room = rest;
        }
        let started = self.comm.send_init(words, to as i32, 0);
        let started = started.and_then(|mut request| request.start().map(|()| request));
        let request = started.map_err(|e| self.failed(e))?;
        traffic.sends.push(Sending { group, to, request });
        Ok(())
    }

    fn failed(&self, error: ferrompi::Error) -> Error {
        Error::PeerFailed {
            peer: self.rank,
            cause: format!("MPI: {error}"),
        }
    }

    /// Moves what can be moved, and then looks.
    pub(super) fn look<T>(&self, f: impl FnOnce(&mut View<'_>) -> T) -> Result<T> {
        let mut traffic = self.lock();
        let moved = traffic.poll(&self.comm).map_err(|e| self.failed(e))?;
        Ok(f(&mut View {
            traffic: &mut traffic,
            moved,
        }))
    }

    /// Notes that `world` failed and tells all others, unless it is known; returns what counts.
    pub(super) fn fail(&self, world: u64, error: Error) -> Error {
        let mut traffic = self.lock();
        let fault = &mut traffic.fates.entry(world).or_default().fault;
        if let Some(fault) = fault {
            return fault.clone();
        }
        let text = serde_json::to_vec(&error).unwrap_or_default();
        *fault = Some(error.clone());
        self.tell(&mut traffic, world, ABORT, &text);
        error
    }

    /// Tells all others that this rank issues no more collectives in `world`.
    pub(super) fn leave(&self, world: u64) {
        self.tell(&mut self.lock(), world, LEAVE, &[]);
    }

    fn tell(&self, traffic: &mut Traffic, world: u64, kind: u64, text: &[u8]) {
        // Too long a text arrives as none, and the reader says so.
        let text = if text.len() > MOST { &[] } else { text };
        for peer in (0..self.size).filter(|peer| *peer != self.rank) {
            // Who cannot be told will run into the deadline.
            let _ = self.post(traffic, peer, world, kind, &[text]);
        }
    }

    /// Waits until all others say goodbye too, and ends MPI.
    pub(super) fn close(&self, patience: Duration) -> Result<()> {
        let Some(mpi) = MPI.with(|slot| slot.borrow_mut().take()) else {
            let expected = "to be ended once, on the thread that began it";
            return Err(Error::config(
                "MPI in this process",
                expected,
                "another call",
            ));
        };
        self.tell(&mut self.lock(), 0, BYE, &[]);
        let since = Instant::now();
        let mut backoff = Backoff::new();
        loop {
            let others = (0..self.size).filter(|peer| *peer != self.rank);
            let missing: Vec<usize> = self.look(|view| {
                backoff.moved(view.moved);
                let traffic = &*view.traffic;
                let sending: BTreeSet<usize> = traffic.sends.iter().map(|s| s.to).collect();
                others
                    .filter(|peer| !traffic.bye.contains(peer) || sending.contains(peer))
                    .collect()
            })?;
            if missing.is_empty() {
                break;
            }
            if since.elapsed() >= patience {
                // Its receives are still open, so this does not end MPI: that would wait for the
                // others without end. The launcher ends the job when this process exits.
                drop(mpi);
                return Err(Error::Timeout {
                    rank: self.rank,
                    call: "the end of the program".into(),
                    waited: patience,
                    missing,
                });
            }
            backoff.wait();
        }
        self.end_receives()?;
        drop(mpi);
        Ok(())
    }

    /// Fills the open receives: MPI may not end before.
    fn end_receives(&self) -> Result<()> {
        let mut traffic = self.lock();
        let mut open = std::mem::take(&mut traffic.receives);
        for _ in 0..open.len() {
            self.post(&mut traffic, self.rank, 0, NOTHING, &[])?;
        }
        let mut step = || -> ferrompi::Result<bool> {
            while let Some(first) = open.front_mut() {
                if first.test()?.is_none() {
                    return Ok(false);
                }
                open.pop_front();
            }
            traffic.reap()?;
            Ok(traffic.sends.is_empty())
        };
        // Messages to oneself need nobody else, so this ends.
        while !step().map_err(|e| self.failed(e))? {
            std::thread::yield_now();
        }
        Ok(())
    }
}

fn ended() -> Error {
    Error::config(
        "MPI in this process",
        "an MPI that runs",
        "ended; it cannot begin again",
    )
}

/// How many ranks of this host, this one included, may run on this rank's cores.
///
/// Asked instead of counted: whether `mpirun` binds ranks to cores depends on its options.
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
    let meets = |theirs: &&[u64]| theirs.iter().zip(&mine).any(|(a, b)| a & b != 0);
    Ok(all.chunks(mine.len()).filter(meets).count().max(1))
}
