//! The conformance suite over every engine of the library.
//!
//! A program of its own: worlds of 128 ranks would starve the tests of `tests/sockets`, which wait for
//! deadlines.

mod mesh;

use burn_dist::Result;
use burn_dist::comm::{Communicator, local};
use burn_dist_conformance::Body;
use std::time::Duration;

/// Ranks as threads of this process, with so many threads each for reductions.
fn local_ranks(ranks: usize, threads: usize, body: Body<'_>) -> Vec<Result<()>> {
    std::thread::scope(|scope| {
        let running: Vec<_> = local::ranks(ranks, threads, Duration::from_secs(60))
            .into_iter()
            .map(|engine| scope.spawn(move || mesh::alone(&Communicator::new(engine), body)))
            .collect();
        running.into_iter().map(|t| t.join().unwrap()).collect()
    })
}

mod local_threads {
    burn_dist_conformance::suite!(|ranks: usize, body: crate::Body<'_>| crate::local_ranks(
        ranks, 1, body
    ));
}

mod local_threads_with_a_pool_each {
    burn_dist_conformance::suite!(|ranks: usize, body: crate::Body<'_>| crate::local_ranks(
        ranks, 2, body
    ));
}

mod mesh_over_tcp {
    use crate::{Body, mesh};
    use burn_dist::comm::mesh::Transport::Tcp;
    burn_dist_conformance::suite!(|ranks: usize, body: Body<'_>| {
        mesh::World::new(ranks, Tcp).run(body)
    });
}

mod mesh_through_shared_memory {
    use crate::{Body, mesh};
    use burn_dist::comm::mesh::Transport::Shm;
    burn_dist_conformance::suite!(|ranks: usize, body: Body<'_>| {
        mesh::World::new(ranks, Shm).run(body)
    });
}

mod mesh_through_rings {
    use crate::{Body, mesh};
    use burn_dist::comm::mesh::Transport::Ring;
    burn_dist_conformance::suite!(|ranks: usize, body: Body<'_>| {
        mesh::World::new(ranks, Ring).run(body)
    });
}

mod mesh_of_hosts_with_two_ranks_each {
    use crate::{Body, mesh};
    use burn_dist::comm::mesh::Transport::Auto;
    burn_dist_conformance::suite!(|ranks: usize, body: Body<'_>| {
        let ranks_a_host = 2;
        let world = mesh::World {
            ranks_a_host,
            ..mesh::World::new(ranks, Auto)
        };
        world.run(body)
    });
}

mod mesh_of_two_nodes_with_a_link_between_them {
    use crate::{Body, mesh};
    use burn_dist::comm::mesh::Transport::Auto;
    burn_dist_conformance::suite!(|ranks: usize, body: Body<'_>| {
        let link = "10gbit,50us".parse().unwrap();
        let world = mesh::World {
            // A large world with one rank on the second node: every connection there takes three sockets.
            ranks_a_host: if ranks > 8 {
                ranks - 1
            } else {
                ranks.div_ceil(2)
            },
            link: (ranks > 1).then_some(link),
            ..mesh::World::new(ranks, Auto)
        };
        world.run(body)
    });
}
