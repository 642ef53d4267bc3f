//! How one rank is started, as a thread or as a process.

use super::{Devices, gpus};
use crate::comm::mesh::LinkShape;
use crate::comm::{Communicator, Engine, Order, Recorder};
use crate::error::{Error, Result};
use crate::stop::Stop;
use crate::unwind::catch_all;
use crate::world::{Setting, World};
use std::sync::Arc;
use std::time::Duration;

/// What a rank is started with.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) devices: Devices,
    /// Its number among the ranks of its host.
    pub(super) local_rank: usize,
    /// Compute threads of its own.
    pub(super) threads: usize,
    pub(super) deadline: Duration,
    /// The bandwidth and latency between nodes, if the engine shapes them.
    pub(super) link: Option<LinkShape>,
    pub(super) seed: u64,
    /// Ranks of this process.
    pub(super) ranks_here: usize,
    pub(super) restarts: usize,
    /// Number of ranks of the first start, if it is known to differ.
    pub(super) initial: Option<usize>,
    pub(super) stop: Stop,
}

impl Start {
    /// Runs `f` as the rank behind `engine`, and tells the other ranks how it ended.
    pub(super) fn run<T: Send>(
        self,
        engine: impl Engine + 'static,
        recorder: Recorder,
        f: impl FnOnce(World) -> Result<T> + Send,
    ) -> Result<T> {
        let (rank, threads) = (engine.rank(), self.threads);
        let engine: Arc<dyn Engine> = Arc::new(engine);
        // A rank that cannot start tells the others.
        let not_started = |error: Error| {
            engine.abort(Error::peer_failed(rank, &error));
            error
        };
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(move |i| format!("rank {rank} compute {i}"))
            .build()
            .map_err(|e| Error::config("compute threads", format!("{threads} threads"), e))
            .map_err(not_started)?;
        let device = self.devices.of(self.local_rank).map_err(not_started)?;
        let engine = gpus::connect(engine.clone(), &device, self.deadline, self.link);
        let engine = engine.map_err(not_started)?;
        let setting = Setting {
            device,
            seed: self.seed,
            local_rank: self.local_rank,
            ranks_here: self.ranks_here,
            restarts: self.restarts,
            initial: self.initial,
            stop: self.stop,
        };
        let world = World::with_setting(Communicator::of(engine, recorder), setting)?;
        let guard = world.clone();
        let result = pool.install(|| catch_all(rank, || f(world)));
        // A save that is being written in the background is waited for.
        let result = result.and_then(|value| guard.end().map(|()| value));
        match result {
            Ok(value) => {
                // Collectives that were submitted and never waited for still need the other ranks.
                let _ = guard.submit(|| Ok(())).wait();
                guard.comm().leave();
                match guard.comm().fault() {
                    // `f` was not told, and may have read what an aborted collective has left.
                    Some(fault) if fails_late(guard.comm()) => Err(fault),
                    _ => Ok(value),
                }
            }
            Err(error) => {
                guard.fail(&error);
                Err(error)
            }
        }
    }
}

/// Whether collectives may fail after they have returned.
fn fails_late(comm: &Communicator) -> bool {
    let device = comm.on_device();
    device.is_some_and(|device| device.order() == Order::Device)
}
