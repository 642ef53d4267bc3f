//! Ranks as threads of this process.

use super::start::Start;
use super::{Devices, Identity};
use crate::comm::mesh::Cores;
use crate::comm::{Engine, Recorder, local};
use crate::error::{Error, Result};
use crate::stop::Stop;
use crate::world::World;
use std::time::Duration;

/// Ranks that any machine starts, for trying a world out, and those for each core of a larger one.
const RANKS_ANYWHERE: usize = 1024;
const RANKS_PER_CORE: usize = 64;

/// Runs one function on several ranks, each a thread with compute threads of its own.
///
/// The cores are divided among the ranks, because ranks that share cores wait for each other in
/// every collective.
///
/// ```
/// use burn_dist::launch::Threads;
///
/// let ranks = Threads::new(3).run(|world| Ok((world.rank(), world.size())))?;
/// assert_eq!(ranks, [(0, 3), (1, 3), (2, 3)]);
/// # Ok::<(), burn_dist::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Threads {
    ranks: usize,
    seed: u64,
    deadline: Duration,
    devices: Devices,
    stop: Stop,
}

impl Threads {
    /// So many ranks, on the CPU, with seed 0 and a deadline of five minutes.
    pub fn new(ranks: usize) -> Self {
        Self {
            ranks,
            seed: 0,
            deadline: Duration::from_secs(300),
            devices: Devices::default(),
            stop: Stop::never(),
        }
    }

    /// What tells the ranks to end.
    pub(super) fn stop(mut self, stop: Stop) -> Self {
        self.stop = stop;
        self
    }

    /// The seed that parameters are initialised from, the same on all ranks.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// How long a collective may wait for another rank.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// What the ranks compute on: a device for all of them, or a [`DeviceKind`] of which each takes its
    /// own. It tracks gradients whether given so or not.
    ///
    /// [`DeviceKind`]: super::DeviceKind
    pub fn device(mut self, devices: impl Into<Devices>) -> Self {
        self.devices = devices.into();
        self
    }

    /// Runs `f` on every rank and returns what the ranks returned, in rank order.
    ///
    /// # Errors
    /// [`Error::Config`] for zero ranks, and for far more than the machine has cores (over 64 each, and over
    /// 1024 in all). If a rank fails or panics, its error; the other ranks'
    /// collectives then fail too, naming it, so that all threads end.
    pub fn run<T: Send>(&self, f: impl Fn(World) -> Result<T> + Sync) -> Result<Vec<T>> {
        if self.ranks == 0 {
            return Err(Error::config("number of ranks", "at least 1", 0));
        }
        fits_here(self.ranks)?;
        let threads = (threads_variable().unwrap_or_else(cores) / self.ranks).max(1);
        let engines = local::ranks(self.ranks, threads, self.deadline);
        let world = engines[0].clone();
        let f = &f;
        let results: Vec<Result<T>> = std::thread::scope(|scope| {
            let running: Vec<_> = engines
                .into_iter()
                .map(|engine| {
                    let own = engine.clone();
                    let name = format!("rank {}", engine.rank());
                    std::thread::Builder::new()
                        .name(name.clone())
                        .spawn_scoped(scope, move || self.rank(engine, threads, f))
                        .map_err(|e| not_started(&own, Error::config(name, "a thread", e)))
                })
                .collect();
            let joined = running.into_iter().enumerate();
            joined
                .map(|(rank, thread)| {
                    let gone = |_| {
                        let message = "its thread is gone".into();
                        Err(Error::Panicked { rank, message })
                    };
                    thread?.join().unwrap_or_else(gone)
                })
                .collect()
        });
        let named = |(rank, result): (usize, Result<T>)| match result {
            // The program's own words do not say which rank they come from.
            Err(Error::User(text)) if self.ranks > 1 => {
                Err(Error::User(format!("rank {rank}: {text}")))
            }
            result => result,
        };
        let results: Vec<Result<T>> = results.into_iter().enumerate().map(named).collect();
        // What failed first is the cause. The other ranks repeat it, or fail because of it.
        let failed = |rank: usize| results.get(rank).is_some_and(Result::is_err);
        match world.fault() {
            _ if results.iter().all(Result::is_ok) => results.into_iter().collect(),
            Some(Error::PeerFailed { peer, .. }) if failed(peer) => {
                results.into_iter().skip(peer).take(1).collect()
            }
            // The ranks know which parameter a disagreement is about; the collectives do not.
            Some(fault) => {
                let mut errors = results.into_iter().filter_map(Result::err);
                let precise = errors.find(|e| matches!(e, Error::GradientSet { .. }));
                Err(precise.unwrap_or(fault))
            }
            None => results.into_iter().collect(),
        }
    }

    fn rank<T: Send>(
        &self,
        engine: local::Local,
        threads: usize,
        f: &(impl Fn(World) -> Result<T> + Sync),
    ) -> Result<T> {
        let start = Start {
            devices: self.devices.clone(),
            local_rank: engine.rank(),
            threads,
            deadline: self.deadline,
            link: None,
            seed: self.seed,
            ranks_here: self.ranks,
            restarts: 0,
            initial: None,
            stop: self.stop.clone(),
        };
        start.run(engine, Recorder::default(), f)
    }
}

/// Compute threads of a rank that shares its cores with so many, itself included, unless a variable says
/// how many.
#[cfg(feature = "mpi")]
pub(super) fn compute_threads(ranks: usize) -> usize {
    threads_variable().unwrap_or_else(|| (cores() / ranks.max(1)).max(1))
}

/// Compute threads of a rank that knows who else may run on its cores, unless a variable says
/// how many.
pub(super) fn threads_on(cores: Option<Cores>, identity: &Identity) -> usize {
    let Identity {
        rank,
        local_world_size,
        ..
    } = *identity;
    let threads =
        threads_variable().unwrap_or_else(|| share(cores, self::cores(), local_world_size));
    if let Some(Cores { own, sharing, .. }) = cores {
        log::debug!(
            "rank {rank}: {threads} compute thread(s) on {own} core(s), shared by up to {sharing} \
             rank(s)"
        );
    }
    threads
}

/// A rank's part of what its host gives it; `usable` is the number of cores that it can keep busy.
fn share(cores: Option<Cores>, usable: usize, ranks: usize) -> usize {
    // A container's limit on time counts for all its processes, whatever cores they run on.
    let of_limit = (usable / ranks.max(1)).max(1);
    match cores {
        Some(Cores { own, share, .. }) if own <= usable => share,
        Some(Cores { share, .. }) => share.min(of_limit),
        None => of_limit,
    }
}

/// The number of threads in `RAYON_NUM_THREADS`, if it is set.
fn threads_variable() -> Option<usize> {
    let value = std::env::var("RAYON_NUM_THREADS").ok()?;
    value.trim().parse().ok().filter(|n| *n > 0)
}

/// Refuses more ranks than this machine can be meant for, before the system runs out of threads.
pub(super) fn fits_here(ranks: usize) -> Result<()> {
    let cores = cores();
    let most = (RANKS_PER_CORE * cores).max(RANKS_ANYWHERE);
    if ranks <= most {
        return Ok(());
    }
    let expected = format!("at most {most} on this machine of {cores} core(s)");
    Err(Error::config("number of ranks", expected, ranks))
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Tells the other ranks that this one could not be started, and returns why.
fn not_started(engine: &local::Local, error: Error) -> Error {
    engine.abort(Error::peer_failed(engine.rank(), &error));
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_rank_computes_on_all_its_cores() {
        let cores = |own, sharing, share| {
            Some(Cores {
                own,
                sharing,
                share,
            })
        };
        assert_eq!(share(cores(16, 1, 16), 16, 4), 16);
        assert_eq!(share(cores(64, 4, 16), 64, 4), 16);
        // A pod with the time of 8 cores on a host of 64, and two ranks in it.
        assert_eq!(share(cores(64, 2, 32), 8, 2), 4);
        assert_eq!(share(None, 8, 2), 4);
        assert_eq!(share(None, 1, 2), 1);
    }

    #[test]
    fn a_job_goes_to_the_stream_of_whoever_submits_it() {
        use burn::tensor::StreamId;
        let result = Threads::new(1).run(|world| {
            let here = StreamId::current();
            let there = || world.submit(|| Ok(StreamId::current())).wait();
            assert_eq!(there()?, here);
            let other = StreamId::allocate();
            assert_eq!(other.executes(there)?, other);
            Ok(())
        });
        assert_eq!(result.map(drop), Ok(()));
    }

    #[test]
    fn what_a_rank_submitted_is_done_before_it_counts_as_gone() {
        let ranks = Threads::new(2).deadline(Duration::from_secs(20));
        let result = ranks.run(|world| {
            let comm = world.comm().clone();
            let late = Duration::from_millis(100 * world.rank() as u64);
            let ticket = world.submit(move || {
                std::thread::sleep(late);
                comm.barrier(&"submitted".into())
            });
            // Rank 1 does not wait for what rank 0 needs it for.
            if world.rank() == 0 {
                ticket.wait()
            } else {
                Ok(())
            }
        });
        assert_eq!(result.map(drop), Ok(()));
    }
}
