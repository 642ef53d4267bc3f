//! What a rank must know to join its world.

use super::secret::Secret;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

/// What a rank must know to join its world, and the limits that it joins with.
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
    /// Whether other hosts have ranks too; their name for `master` may be another one. If not, rank 0
    /// listens on a loopback address alone, which no other host reaches.
    pub several_hosts: bool,
    /// How many ports after `port` rank 0 may listen on instead, and the others try: not 0 where
    /// something else may have the first.
    pub more_ports: u16,
    /// Whether a launcher holds the port for rank 0.
    pub port_reserved: bool,
    /// What only processes of this world know.
    pub secret: Secret,
    /// How often the world was started again.
    pub attempt: usize,
    /// How long a rank may give no sign of life before it is taken for lost.
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
            // A name that other hosts use for this one: all ranks are here all the same.
            let v4 = (Ipv4Addr::LOCALHOST, port).into();
            return Ok(vec![v4, (Ipv6Addr::LOCALHOST, port).into()]);
        }
        Ok(here)
    }

    pub(super) fn last_port(&self) -> u16 {
        self.port.saturating_add(self.more_ports)
    }
}
