//! A port that no other program can take before rank 0 listens on it.
//!
//! Asking the system for a free port and giving it back leaves a moment in which another program
//! takes it. Instead the launcher keeps the port bound, without listening, and rank 0 binds it a
//! second time; the system allows that to processes of one user that both ask for it.

use crate::error::{Error, Result};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};

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
        let refused = |e: io::Error| {
            let expected = "an address of this host, where rank 0 can listen";
            Error::config(format!("master address {host}"), expected, e)
        };
        let none = || io::Error::other("a name without an address");
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

    /// Reserves any free port of this host for a rank 0 that other hosts call by the name `host`.
    pub(super) fn for_other_hosts(host: &str) -> Result<Self> {
        let refused = |e: io::Error| {
            let expected = "an address of this host, where rank 0 can listen";
            Error::config(format!("master address {host}"), expected, e)
        };
        let address = any_interface(host, 0).map_err(refused)?;
        Self::bind(address).map_err(refused)
    }

    /// Listens at a port, to callers from other hosts, which know this one by the name `host`.
    pub(super) fn listen(host: &str, port: u16) -> io::Result<TcpListener> {
        let address = any_interface(host, port)?;
        let domain = Domain::for_address(address);
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        // The port may be taken again as soon as the launcher that had it has ended.
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(1024)?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    }

    fn bind(address: SocketAddr) -> io::Result<Self> {
        let domain = Domain::for_address(address);
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        // Not the reuse of addresses: that would let others in who ask for it too, as most do.
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())?;
        let bound = socket.local_addr()?.as_socket();
        let unnamed = || io::Error::other("a socket without a port");
        Ok(Self {
            number: bound.ok_or_else(unnamed)?.port(),
            _bound: socket,
        })
    }

    pub(super) fn number(&self) -> u16 {
        self.number
    }
}

/// All interfaces, of the protocol that the name has addresses of: others may know this host by another address.
fn any_interface(host: &str, port: u16) -> io::Result<SocketAddr> {
    let addresses: Vec<_> = (host, port).to_socket_addrs()?.collect();
    let only_v6 = addresses.iter().all(SocketAddr::is_ipv6);
    let v6 = (Ipv6Addr::UNSPECIFIED, port).into();
    Ok(if only_v6 {
        v6
    } else {
        (Ipv4Addr::UNSPECIFIED, port).into()
    })
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
