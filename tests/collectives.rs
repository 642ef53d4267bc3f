//! The engines that exist, held to the conformance suite.

mod conformance;

use burn_dist::comm::{Communicator, local};
use burn_dist::{Error, Result};
use conformance::Body;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

/// Ranks as threads of this process, with so many threads each for reductions.
fn local_ranks(ranks: usize, threads: usize, body: Body<'_>) -> Vec<Result<()>> {
    let rank = |engine| {
        let comm = Communicator::new(engine);
        let result = catch_unwind(AssertUnwindSafe(|| body(&comm)));
        match &result {
            Ok(Ok(())) => comm.leave(),
            Ok(Err(error)) => comm.abort(error.clone()),
            Err(_) => comm.abort(Error::user(format!("rank {} panicked", comm.rank()))),
        }
        result.unwrap_or_else(|payload| resume_unwind(payload))
    };
    std::thread::scope(|scope| {
        let running: Vec<_> = local::ranks(ranks, threads, Duration::from_secs(60))
            .into_iter()
            .map(|engine| scope.spawn(move || rank(engine)))
            .collect();
        running.into_iter().map(|t| t.join().unwrap()).collect()
    })
}

mod local_threads {
    crate::conformance::suite!(|ranks: usize, body: crate::Body<'_>| crate::local_ranks(
        ranks, 1, body
    ));
}

mod local_threads_with_a_pool_each {
    crate::conformance::suite!(|ranks: usize, body: crate::Body<'_>| crate::local_ranks(
        ranks, 2, body
    ));
}
