//! Ranks that communicate as processes do, over sockets or through shared memory, on threads of
//! one test.

#![allow(dead_code)] // Each test file uses a part.

use burn_dist::comm::Communicator;
use burn_dist::comm::mesh::{Advertise, LinkShape, Mesh, Options, Transport};
use burn_dist::rendezvous::{Seat, Secret, Server, Terms};
use burn_dist::{Error, Result};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

/// How a test's world works.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) ranks: usize,
    pub(crate) transport: Transport,
    pub(crate) deadline: Duration,
    pub(crate) heartbeat: Duration,
    /// Ranks that share a host.
    pub(crate) ranks_a_host: usize,
    /// The link between hosts, and that of one rank, if it was told another.
    pub(crate) link: Option<LinkShape>,
    pub(crate) odd_link: Option<(usize, Option<LinkShape>)>,
    /// The address by which the others reach a rank, if not its own.
    pub(crate) advertise: Option<(usize, Advertise)>,
}

impl World {
    /// Times that no test reaches.
    pub(crate) fn new(ranks: usize, transport: Transport) -> Self {
        Self {
            ranks,
            transport,
            deadline: Duration::from_secs(60),
            heartbeat: Duration::from_secs(30),
            ranks_a_host: ranks,
            link: None,
            odd_link: None,
            advertise: None,
        }
    }

    /// Runs `body` on every rank and returns what they return, in rank order.
    pub(crate) fn run(&self, body: impl Fn(&Communicator) -> Result<()> + Sync) -> Vec<Result<()>> {
        let server = Server::start(&self.terms(0, 0)).unwrap();
        let port = server.port();
        std::thread::scope(|scope| {
            let body = &body;
            let running: Vec<_> = (0..self.ranks)
                .map(|rank| scope.spawn(move || self.rank(rank, port, body)))
                .collect();
            running.into_iter().map(|t| t.join().unwrap()).collect()
        })
    }

    pub(crate) fn terms(&self, rank: usize, port: u16) -> Terms {
        Terms {
            rank,
            world: self.ranks,
            master: "127.0.0.1".into(),
            port,
            several_hosts: false,
            more_ports: 0,
            port_reserved: false,
            secret: Secret::new("test"),
            attempt: 0,
            heartbeat: self.heartbeat,
            patience: Duration::from_secs(60),
            host: "here".into(),
        }
    }

    fn rank(
        &self,
        rank: usize,
        port: u16,
        body: &impl Fn(&Communicator) -> Result<()>,
    ) -> Result<()> {
        self.rank_as(rank, port, Communicator::new, body)
    }

    /// A rank whose communicator `make` makes.
    pub(crate) fn rank_as(
        &self,
        rank: usize,
        port: u16,
        make: impl FnOnce(Mesh) -> Communicator,
        body: impl Fn(&Communicator) -> Result<()>,
    ) -> Result<()> {
        let seat = Arc::new(Seat::take(self.terms(rank, port))?);
        let advertise = self.advertise.clone();
        let options = Options {
            transport: self.transport,
            deadline: self.deadline,
            advertise: advertise
                .filter(|(whose, _)| *whose == rank)
                .map(|(_, a)| a),
            host: format!("host {}", rank / self.ranks_a_host),
            link: match self.odd_link {
                Some((odd, link)) if odd == rank => link,
                _ => self.link,
            },
        };
        let comm = make(Mesh::new(seat.clone(), options)?);
        alone(&comm, body)?;
        seat.leave()
    }
}

/// One rank's part, whose end is reported to the others.
pub(crate) fn alone(comm: &Communicator, body: impl Fn(&Communicator) -> Result<()>) -> Result<()> {
    let result = catch_unwind(AssertUnwindSafe(|| body(comm)));
    match &result {
        Ok(Ok(())) => comm.leave(),
        Ok(Err(error)) => comm.abort(error.clone()),
        Err(_) => comm.abort(Error::user(format!("rank {} panicked", comm.rank()))),
    }
    result.unwrap_or_else(|payload| resume_unwind(payload))
}
