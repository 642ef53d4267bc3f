//! Under which terms a rank joins its world.

use super::secret::Secret;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

/// Under which terms a rank joins its world.
#[derive(Debug, Clone)]
pub struct Terms {
    /// This rank.
    pub rank: usize,
    /// Number of ranks.
    pub world: usize,
    /// The host of rank 0.
    pub master: String,
    /// Its port.
    pub port: u16,
    /// Whether ranks of other hosts take part; their name for `master` may be another one. Without
    /// them everything stays on a loopback address, which no other host reaches.
    pub several_hosts: bool,
    /// How many ports from there on rank 0 may take instead, and the others look at: not 0 where
    /// something else may have the first.
    pub more_ports: u16,
    /// Whether a launcher holds the port for rank 0.
    pub port_reserved: bool,
    /// What only processes of this world know.
    pub secret: Secret,
    /// How often the world was started again.
    pub attempt: usize,
    /// A rank that gives no sign of life for so long is lost.
    pub heartbeat: Duration,
    /// How long to wait for the other ranks to come.
    pub patience: Duration,
    /// This host's name, for messages.
    pub host: String,
}

impl Terms {
    pub(super) fn address(&self) -> String {
        format!("{}:{}", self.master, self.port)
    }

    /// Where rank 0 is to be reached, and where it listens if there are no other hosts.
    pub(super) fn addresses(&self, port: u16) -> io::Result<Vec<SocketAddr>> {
        let all: Vec<_> = (self.master.as_str(), port).to_socket_addrs()?.collect();
        if self.several_hosts {
            return Ok(all);
        }
        let here: Vec<_> = all.into_iter().filter(|a| a.ip().is_loopback()).collect();
        if here.is_empty() {
            // The name is right, and other hosts reach it: what is meant is this host all the same.
            let v4 = (Ipv4Addr::LOCALHOST, port).into();
            return Ok(vec![v4, (Ipv6Addr::LOCALHOST, port).into()]);
        }
        Ok(here)
    }

    pub(super) fn last_port(&self) -> u16 {
        self.port.saturating_add(self.more_ports)
    }
}
