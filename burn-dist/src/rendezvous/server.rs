//! Rank 0's server: where it listens, and how it accepts connections.

use super::connection;
use super::registry::{CLOSE_POLL_EVERY, Registry};
use super::terms::Terms;
use crate::error::{Error, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::thread::JoinHandle;

/// The rendezvous of one world; dropping it closes it.
#[derive(Debug)]
pub struct Server {
    registry: Arc<Registry>,
    port: u16,
    listener: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens where `terms` say that rank 0 does; port 0 takes any free one.
    ///
    /// # Errors
    /// [`Error::Config`] if the address is not this host's, or the port is in use.
    pub fn start(terms: &Terms) -> Result<Self> {
        let Terms { master, port, .. } = terms;
        let asked = format!("{master}:{port}");
        let listener = on_first(*port..=terms.last_port(), |port| listen(terms, port));
        let listener = listener.map_err(|e| {
            let what = format!("the address on which rank 0 listens, {asked}");
            let expected = "an address of this host with a free port (another job may have taken \
                            it: choose another --master-port)";
            Error::config(what, expected, e)
        })?;
        let local = listener
            .local_addr()
            .map_err(|e| Error::config("listener", "an address", e))?;
        let registry = Arc::new(Registry::new(
            terms.world,
            terms.attempt,
            format!("{master}:{}", local.port()),
            terms.secret.clone(),
            terms.heartbeat,
        ));
        let shared = registry.clone();
        let thread = std::thread::Builder::new()
            .name("rendezvous".into())
            .spawn(move || accept(&listener, &shared))
            .map_err(|e| Error::config("rendezvous", "a new thread", e))?;
        Ok(Self {
            registry,
            port: local.port(),
            listener: Some(thread),
        })
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.registry.close();
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
        self.registry.finish();
    }
}

/// Accepts connections until the server closes, each on a thread of its own.
fn accept(listener: &TcpListener, registry: &Arc<Registry>) {
    while !registry.is_closing() {
        let mut ready = [PollFd::new(listener, PollFlags::IN)];
        let timeout = Timespec::try_from(CLOSE_POLL_EVERY).ok();
        if !matches!(poll(&mut ready, timeout.as_ref()), Ok(1..)) {
            continue;
        }
        let Ok((socket, from)) = listener.accept() else {
            // Out of file descriptors, perhaps: not again at once.
            std::thread::sleep(CLOSE_POLL_EVERY);
            continue;
        };
        let (shared, socket) = (registry.clone(), Arc::new(socket));
        if !registry.open(&socket) {
            continue;
        }
        let serve = move || {
            connection::serve(&shared, &socket, from);
            shared.ended();
        };
        let thread = std::thread::Builder::new().name("rendezvous connection".into());
        if thread.spawn(serve).is_err() {
            registry.ended();
        }
    }
}

/// Listens on the first of some ports that is not taken.
///
/// Only a taken port is a reason to try the next: a name without an address has none at any port, and the
/// resolver may take long each time.
fn on_first<T>(
    ports: RangeInclusive<u16>,
    mut listen: impl FnMut(u16) -> io::Result<T>,
) -> io::Result<T> {
    let mut listening = Err(io::Error::other("no port to listen on"));
    for port in ports {
        listening = listen(port);
        match &listening {
            Err(e) if e.kind() == ErrorKind::AddrInUse => {}
            _ => break,
        }
    }
    listening
}

/// A listener: on all interfaces if there are other hosts, else on a loopback address alone.
fn listen(terms: &Terms, port: u16) -> io::Result<TcpListener> {
    let addresses = terms.addresses(port)?;
    if terms.several_hosts {
        // Not at the address itself. Kubeflow tells the first pod that the master is localhost, and
        // many systems have 127.0.1.1 for their own name: other hosts come by another address.
        return bind(terms, any(&addresses, port));
    }
    let mut problem = io::Error::other("a name without an address");
    for address in addresses {
        match bind(terms, address) {
            Ok(listener) => return Ok(listener),
            // The other ranks try the addresses in the same order, and must not reach another program first.
            Err(e) if e.kind() == ErrorKind::AddrInUse => return Err(e),
            Err(e) => problem = e,
        }
    }
    Err(problem)
}

/// All interfaces.
fn any(addresses: &[SocketAddr], port: u16) -> SocketAddr {
    if addresses.iter().all(SocketAddr::is_ipv6) {
        SocketAddr::from(([0u16; 8], port))
    } else {
        SocketAddr::from(([0u8; 4], port))
    }
}

fn bind(terms: &Terms, address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // The port may be taken again as soon as the job that had it has ended.
    socket.set_reuse_address(true)?;
    // The launcher has bound the port too, without listening, so that no other program takes it.
    socket.set_reuse_port(terms.port_reserved)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_port_is_tried_only_where_one_is_taken() {
        let mut asked = Vec::new();
        let found = on_first(7..=22, |port| {
            asked.push(port);
            match port {
                9 => Ok(port),
                _ => Err(ErrorKind::AddrInUse.into()),
            }
        });
        assert!(matches!(found, Ok(9)));
        assert_eq!(asked, [7, 8, 9]);
        let mut times = 0;
        let failed = on_first(7..=22, |_| {
            times += 1;
            Err::<(), _>(io::Error::other("a name without an address"))
        });
        assert!(failed.is_err());
        assert_eq!(times, 1);
    }
}
