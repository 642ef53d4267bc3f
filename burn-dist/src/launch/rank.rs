//! What every launcher does for one rank, wherever it runs.

use crate::comm::Communicator;
use crate::error::{Error, Result};
use crate::unwind::catch_all;
use crate::world::{Setting, World};

/// Runs `f` as the rank behind `comm`, with `threads` compute threads of its own, and tells the
/// other ranks how it ended.
pub(super) fn run<T: Send>(
    comm: Communicator,
    threads: usize,
    setting: Setting,
    f: impl FnOnce(World) -> Result<T> + Send,
) -> Result<T> {
    let rank = comm.rank();
    // Whoever cannot even start still tells the others.
    let absent = |error: Error| {
        comm.abort(Error::of_peer(rank, &error));
        error
    };
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(move |i| format!("rank {rank} compute {i}"))
        .build()
        .map_err(|e| Error::config("compute threads", format!("{threads} threads"), e))
        .map_err(absent)?;
    let world = World::with_setting(comm, setting)?;
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
