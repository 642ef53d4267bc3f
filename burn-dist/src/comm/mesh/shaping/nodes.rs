//! Which rank is on which node, and that all ranks have been told the same link.

use super::bucket::{Buckets, TOKEN};
use super::link_shape::LinkShape;
use crate::comm::mesh::options::Options;
use crate::comm::mesh::transport::Transport;
use crate::error::{Error, Result};
use crate::rendezvous::Seat;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// What a rank says of itself in the store.
#[derive(Debug, Serialize, Deserialize)]
struct Place {
    /// Equal on processes of one node.
    host: String,
    /// As `--link` takes it.
    link: Option<String>,
}

/// Where the processes of a node find its token buckets.
#[derive(Debug, Serialize, Deserialize)]
struct Contact {
    pid: u32,
    fd: i32,
    token: [u8; TOKEN],
}

/// The node of every rank, and this rank's.
#[derive(Debug)]
pub(super) struct Nodes {
    of_ranks: Vec<usize>,
    own: usize,
    count: usize,
}

/// Says on which node this rank is and what link it was told; all ranks do, also those without one.
pub(super) fn announce(seat: &Seat, options: &Options) -> Result<()> {
    let place = Place {
        host: options.host.clone(),
        link: options.link.map(|link| link.to_string()),
    };
    let place = serde_json::to_string(&place).map_err(unreadable)?;
    seat.set(place_key(seat.terms().rank), place)
}

impl Nodes {
    /// Waits until all ranks have announced themselves, and compares their links with this rank's.
    pub(super) fn agree(seat: &Seat, options: &Options, link: LinkShape) -> Result<Self> {
        if let transport @ (Transport::Shm | Transport::Ring) = options.transport {
            let expected = "the transport auto or tcp beside it: nodes reach each other over TCP";
            return Err(Error::config("link", expected, transport));
        }
        let (me, world) = (seat.terms().rank, seat.terms().world);
        let until = Instant::now() + seat.terms().patience;
        let mine = link.to_string();
        let (mut hosts, mut of_ranks): (Vec<String>, Vec<usize>) = Default::default();
        for rank in 0..world {
            let place = seat.wait(place_key(rank), left(until))?;
            let place: Place = serde_json::from_str(&place).map_err(unreadable)?;
            if place.link.as_deref() != Some(&mine) {
                let theirs = place.link.unwrap_or_else(|| "none".into());
                let found = format!("{theirs} on rank {rank}, {mine} on rank {me}");
                return Err(Error::config("link", "the same on all ranks", found));
            }
            let node = hosts.iter().position(|host| *host == place.host);
            of_ranks.push(node.unwrap_or_else(|| {
                hosts.push(place.host);
                hosts.len() - 1
            }));
        }
        if hosts.len() == 1 {
            let expected =
                "ranks on several nodes (--nnodes 2 or more), whose connections it shapes";
            let found = format!("{mine}, and all {world} rank(s) on one node");
            return Err(Error::config("link", expected, found));
        }
        Ok(Self {
            own: of_ranks[me],
            of_ranks,
            count: hosts.len(),
        })
    }

    /// The node of a rank, if it is another one than this rank's.
    pub(super) fn other(&self, rank: usize) -> Option<usize> {
        let node = self.of_ranks.get(rank).copied();
        node.filter(|node| *node != self.own)
    }

    /// The token buckets of this rank's node: its first rank makes them, and the others open them.
    pub(super) fn buckets(&self, seat: &Seat) -> Result<Buckets> {
        let (me, patience) = (seat.terms().rank, seat.terms().patience);
        let key = format!("link/buckets/{}", self.own);
        if self.of_ranks.iter().position(|node| *node == self.own) == Some(me) {
            let token = rand::random();
            let buckets = Buckets::create(self.count, &token);
            let buckets = buckets.map_err(|e| Error::config("link", "memory for its state", e))?;
            let (pid, fd) = buckets.descriptor();
            let contact = Contact { pid, fd, token };
            seat.set(key, serde_json::to_string(&contact).map_err(unreadable)?)?;
            return Ok(buckets);
        }
        let contact = seat.wait(key, patience)?;
        let Contact { pid, fd, token } = serde_json::from_str(&contact).map_err(unreadable)?;
        Buckets::open((pid, fd), self.count, &token).map_err(|e| {
            let expected = "processes of one node that may open each other's files, so that they share its \
                            bandwidth (one user, one container)";
            Error::config("link", expected, e)
        })
    }
}

fn place_key(rank: usize) -> String {
    format!("link/{rank}")
}

fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}

fn unreadable(e: serde_json::Error) -> Error {
    Error::config("link", "what another rank says of its node", e)
}
