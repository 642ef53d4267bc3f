//! The engines that exist, held to the conformance suite.

mod conformance;

use burn_dist::comm::mesh::{Mesh, Options, Transport};
use burn_dist::comm::{Communicator, local};
use burn_dist::rendezvous::{Seat, Secret, Server, Terms};
use burn_dist::{Error, Result};
use conformance::Body;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

/// Ranks as threads of this process, with so many threads each for reductions.
fn local_ranks(ranks: usize, threads: usize, body: Body<'_>) -> Vec<Result<()>> {
    std::thread::scope(|scope| {
        let running: Vec<_> = local::ranks(ranks, threads, Duration::from_secs(60))
            .into_iter()
            .map(|engine| scope.spawn(move || rank(&Communicator::new(engine), body)))
            .collect();
        running.into_iter().map(|t| t.join().unwrap()).collect()
    })
}

/// One rank's part, and what the others are told of its end.
fn rank(comm: &Communicator, body: Body<'_>) -> Result<()> {
    let result = catch_unwind(AssertUnwindSafe(|| body(comm)));
    match &result {
        Ok(Ok(())) => comm.leave(),
        Ok(Err(error)) => comm.abort(error.clone()),
        Err(_) => comm.abort(Error::user(format!("rank {} panicked", comm.rank()))),
    }
    result.unwrap_or_else(|payload| resume_unwind(payload))
}

/// Ranks that meet, and talk, as processes do: over sockets or through shared memory.
fn mesh_ranks(ranks: usize, transport: Transport, body: Body<'_>) -> Vec<Result<()>> {
    let terms = |rank: usize, port: u16| Terms {
        rank,
        world: ranks,
        master: "127.0.0.1".into(),
        port,
        port_reserved: false,
        secret: Secret::new("conformance"),
        attempt: 0,
        heartbeat: Duration::from_secs(30),
        patience: Duration::from_secs(60),
        host: "here".into(),
    };
    let server = Server::start(&terms(0, 0)).unwrap();
    let port = server.port();
    let one = move |place: usize| {
        let seat = Arc::new(Seat::take(terms(place, port))?);
        let options = Options {
            transport,
            deadline: Duration::from_secs(60),
            ..Options::default()
        };
        let comm = Communicator::new(Mesh::new(seat.clone(), options)?);
        rank(&comm, body)?;
        seat.leave()
    };
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..ranks)
            .map(|place| scope.spawn(move || one(place)))
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

mod mesh_over_tcp {
    use burn_dist::comm::mesh::Transport::Tcp;
    crate::conformance::suite!(|ranks: usize, body: crate::Body<'_>| crate::mesh_ranks(
        ranks, Tcp, body
    ));
}

mod mesh_through_shared_memory {
    use burn_dist::comm::mesh::Transport::Shm;
    crate::conformance::suite!(|ranks: usize, body: crate::Body<'_>| crate::mesh_ranks(
        ranks, Shm, body
    ));
}
