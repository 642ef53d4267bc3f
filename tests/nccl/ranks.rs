//! Ranks as threads of this process, each with a GPU of its own.

use crate::mock::{self, Compute};
use burn_dist::comm::nccl::{Nccl, Options};
use burn_dist::comm::{Communicator, OnDevice, Order, local};
use burn_dist::{Error, Result};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A deadline that no test reaches.
pub(crate) const FAR: Duration = Duration::from_secs(60);
/// A deadline that a test waits for.
pub(crate) const NEAR: Duration = Duration::from_millis(300);
/// Who may wait.
pub(crate) const ORDERS: [Order; 2] = [Order::Host, Order::Device];

/// What the last world's ranks called.
pub(crate) static LAST: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// One rank.
pub(crate) struct Rank {
    pub(crate) comm: Communicator,
    pub(crate) compute: Compute,
}

impl Rank {
    pub(crate) fn number(&self) -> usize {
        self.comm.rank()
    }

    pub(crate) fn device(&self) -> OnDevice<'_> {
        self.comm.on_device().unwrap()
    }
}

/// Options with the host's own deadline far away.
pub(crate) fn options(order: Order, deadline: Duration) -> Options {
    Options { deadline, order }
}

/// Runs `body` on every rank, and returns what they returned, in rank order.
pub(crate) fn run(
    ranks: usize,
    host: Duration,
    options: Options,
    body: impl Fn(&Rank) -> Result<()> + Sync,
) -> Vec<Result<()>> {
    let results = std::thread::scope(|scope| {
        let body = &body;
        let rank = |engine: local::Local| {
            scope.spawn(move || {
                let rank = burn_dist::comm::Engine::rank(&engine);
                let nccl = Nccl::new(Arc::new(engine), rank, options)?;
                let comm = Communicator::new(nccl);
                let compute = Compute::new(rank);
                let rank = Rank { comm, compute };
                let result = guarded(|| body(&rank));
                match &result {
                    Ok(()) => rank.comm.leave(),
                    Err(error) => rank.comm.abort(error.clone()),
                }
                result
            })
        };
        let engines = local::ranks(ranks, 1, host).into_iter();
        let running: Vec<_> = engines.map(rank).collect();
        running.into_iter().map(|t| t.join().unwrap()).collect()
    });
    mock::assert_clean();
    *LAST.lock().unwrap() = mock::log();
    mock::reset();
    results
}

/// A panic as an error of the rank.
pub(crate) fn guarded(body: impl FnOnce() -> Result<()>) -> Result<()> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| {
        let text = payload.downcast_ref::<String>().cloned();
        let text = text.or_else(|| payload.downcast_ref::<&str>().map(ToString::to_string));
        Err(Error::user(format!(
            "panicked: {}",
            text.unwrap_or_default()
        )))
    })
}

/// As [`run`], where all ranks must succeed.
pub(crate) fn succeed(ranks: usize, order: Order, body: impl Fn(&Rank) -> Result<()> + Sync) {
    for (rank, result) in run(ranks, FAR, options(order, FAR), body)
        .into_iter()
        .enumerate()
    {
        if let Err(error) = result {
            panic!("rank {rank} of {ranks}, {order:?}: {error}");
        }
    }
}

/// As [`run`], where all ranks must fail with one error.
pub(crate) fn fail(
    ranks: usize,
    host: Duration,
    options: Options,
    body: impl Fn(&Rank) -> Result<()> + Sync,
) -> Error {
    let results = run(ranks, host, options, body);
    assert!(
        results.windows(2).all(|pair| pair[0] == pair[1]),
        "{results:#?}"
    );
    results[0].clone().unwrap_err()
}
