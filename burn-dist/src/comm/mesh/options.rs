//! The options of a mesh.

use super::shaping::LinkShape;
use super::transport::Transport;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Turns the address a rank listens on into the one by which others reach it.
pub type Advertise = Arc<dyn Fn(SocketAddr) -> SocketAddr + Send + Sync>;

/// The options of a mesh.
#[derive(Clone)]
pub struct Options {
    /// What carries the bytes.
    pub transport: Transport,
    /// No collective waits longer for a peer.
    pub deadline: Duration,
    /// Equal on processes that may share memory; see [`host`].
    pub host: String,
    /// The bandwidth and latency of the connections between processes whose `host` differs; the same on all
    /// ranks. Without it they are as fast as the network.
    pub link: Option<LinkShape>,
    /// For ranks behind an address translation, or a test's proxy.
    pub advertise: Option<Advertise>,
}

impl Default for Options {
    /// Any transport, this host, and a deadline of five minutes.
    fn default() -> Self {
        Self {
            transport: Transport::Auto,
            deadline: Duration::from_secs(300),
            host: host(),
            link: None,
            advertise: None,
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            transport,
            deadline,
            host,
            link,
            ..
        } = self;
        write!(f, "Options({transport:?}, {deadline:?}, {host}, {link:?})")
    }
}

/// The identity of this kernel: the random number that it draws at boot; empty where there is none.
pub fn host() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    id.unwrap_or_default().trim().to_owned()
}

/// A number for a host or kernel, the same on all ranks.
pub(super) fn hash(text: &str) -> u64 {
    let mut hash = DefaultHasher::new();
    text.hash(&mut hash);
    hash.finish()
}
