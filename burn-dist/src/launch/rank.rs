//! What every launcher does for one rank, wherever it runs.

use crate::comm::{Communicator, Engine};
use crate::error::{Error, Result};
use crate::unwind::catch_all;
use crate::world::World;
use burn::tensor::Device;

/// Runs `f` as the rank behind `engine`, with `threads` compute threads of its own, and tells the
/// other ranks how it ended.
pub(super) fn run<T: Send>(
    engine: impl Engine + Clone + 'static,
    threads: usize,
    device: Device,
    seed: u64,
    f: impl FnOnce(World) -> Result<T> + Send,
) -> Result<T> {
    let rank = engine.rank();
    let spare = engine.clone();
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(move |i| format!("rank {rank} compute {i}"))
        .build()
        .map_err(|e| Error::config("compute threads", format!("{threads} threads"), e))
        .map_err(|error| absent(&spare, error))?;
    let world = World::new(Communicator::new(engine), device, seed)
        .map_err(|error| absent(&spare, error))?;
    let guard = world.clone();
    let result = pool.install(|| catch_all(rank, || f(world)));
    match &result {
        Ok(_) => {
            // What was submitted and never waited for still needs the others.
            let _ = guard.queue().submit(|| Ok(())).wait();
            guard.comm().leave();
        }
        Err(error) => guard.fail(error),
    }
    result
}

/// Tells the other ranks that this one could not even start, and returns why.
pub(super) fn absent(engine: &impl Engine, error: Error) -> Error {
    engine.abort(Error::PeerFailed {
        peer: engine.rank(),
        cause: error.to_string(),
    });
    error
}
