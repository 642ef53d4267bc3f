//! A port that no other program can take before rank 0 listens on it.
//!
//! Asking the system for a free port and giving it back leaves a moment in which another program
//! takes it. Instead the launcher keeps the port bound, without listening, and rank 0 binds it a
//! second time; the system allows that to processes of one user that both ask for it.

use crate::error::{Error, Result};
use socket2::{Domain, Protocol, Socket, Type};
use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs};

/// A port of this host, which only rank 0 can take as long as this lives.
#[derive(Debug)]
pub(super) struct Port {
    _bound: Socket,
    number: u16,
}

impl Port {
    /// Reserves any free port of `host`, an address of this machine.
    ///
    /// All ranks are here, so rank 0 listens on a loopback address, whichever the host's is.
    pub(super) fn reserve(host: &str) -> Result<Self> {
        let refused = |e: std::io::Error| {
            let expected = "an address of this host, where rank 0 can listen";
            Error::config(format!("master address {host}"), expected, e)
        };
        let none = || std::io::Error::other("a name without an address");
        let mut last = none();
        for address in (host, 0).to_socket_addrs().map_err(refused)? {
            match Self::bind(address) {
                Ok(port) if address.ip().is_loopback() => return Ok(port),
                Ok(_) => return Self::bind((Ipv4Addr::LOCALHOST, 0).into()).map_err(refused),
                Err(e) => last = e,
            }
        }
        Err(refused(last))
    }

    fn bind(address: SocketAddr) -> std::io::Result<Self> {
        let domain = Domain::for_address(address);
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        // Not the reuse of addresses: that would let others in who ask for it too, as most do.
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())?;
        let bound = socket.local_addr()?.as_socket();
        let unnamed = || std::io::Error::other("a socket without a port");
        Ok(Self {
            number: bound.ok_or_else(unnamed)?.port(),
            _bound: socket,
        })
    }

    pub(super) fn number(&self) -> u16 {
        self.number
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    #[test]
    fn only_who_shares_the_port_can_have_it() {
        let port = Port::reserve("127.0.0.1").unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], port.number()));
        assert!(TcpListener::bind(address).is_err());
        // Reserved is not listening: who comes too early is told so.
        assert!(TcpStream::connect(address).is_err());
        let shared = Port::bind(address).unwrap();
        shared._bound.listen(8).unwrap();
        // A machine that is short of memory for sockets may drop the first attempts.
        let connect = || TcpStream::connect_timeout(&address, Duration::from_secs(2)).is_ok();
        assert!((0..10).any(|_| connect()));
    }

    #[test]
    fn an_address_of_another_host_is_refused() {
        let refused = Port::reserve("192.0.2.1").unwrap_err().to_string();
        assert!(refused.contains("192.0.2.1"), "{refused}");
    }
}
