//! A rank's membership in its world: requests to rank 0's store, and what broke the world.

use super::join::{Ends, LOG_WAITING_EVERY, join};
use super::message::{Answer, Message, Purpose, Request};
use super::stream::{Inbox, Outbox};
use super::terms::Terms;
use super::untrusted::line;
use super::watch::Watch;
use crate::error::{Error, Result};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// One rank's membership in a world of processes, held until it is dropped.
///
/// Requests go to the small key-value store that rank 0 serves; [`fault`](Self::fault) costs one atomic
/// load as long as nothing has failed.
#[derive(Debug)]
pub struct Seat {
    terms: Terms,
    watch: Watch,
    store: Mutex<(Inbox, Outbox)>,
    ends: Ends,
}

impl Seat {
    /// Joins the world; returns when all ranks have.
    ///
    /// # Errors
    /// [`Error::Join`] if rank 0 cannot be reached in time or turns this rank away (another world
    /// size, another secret, a rank that is taken, another protocol), and for ranks that do not come,
    /// which it names. What ends another rank meanwhile ends this one too.
    pub fn take(terms: Terms) -> Result<Self> {
        let until = Instant::now() + terms.patience;
        let (inbox, outbox, ends) = join(&terms, Purpose::Watch, until)?;
        let watch = Watch::start(terms.rank, terms.heartbeat, inbox, outbox)?;
        let (inbox, outbox, _) =
            join(&terms, Purpose::Store, until).map_err(|error| watch.fault().unwrap_or(error))?;
        let seat = Self {
            watch,
            store: Mutex::new((inbox, outbox)),
            ends,
            terms,
        };
        seat.wait_for_all(until)?;
        Ok(seat)
    }

    /// Returns when all ranks have joined; meanwhile rank 0 logs for which ones it waits.
    fn wait_for_all(&self, until: Instant) -> Result<()> {
        let Terms {
            rank,
            world,
            patience,
            ..
        } = self.terms;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let missing = match self.barrier("joined", left.min(LOG_WAITING_EVERY)) {
                Err(Error::Timeout { missing, .. }) => missing,
                other => return other,
            };
            let come = world - missing.len();
            if left > LOG_WAITING_EVERY {
                if rank == 0 {
                    let left = (left - LOG_WAITING_EVERY).as_secs();
                    log::warn!(
                        "{come} of {world} ranks are here; waiting {left} s more for {missing:?}"
                    );
                }
                continue;
            }
            // These ranks are missing for all: the others must not blame this rank, which gives up.
            return Err(self.abort(Error::Join {
                rank: missing.first().copied().unwrap_or(rank),
                address: self.terms.address(),
                problem: format!(
                    "only {come} of {world} ranks came within {patience:?}, rank(s) {missing:?} did \
                     not"
                ),
                remedy: "start them with the same --master-addr and --master-port, or raise \
                         BURN_DIST_JOIN_TIMEOUT"
                    .into(),
            }));
        }
    }

    /// With which this rank joined.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// The address of this host for others to call back: the one that reaches rank 0.
    ///
    /// On rank 0's host that can be a loopback address, of no use to other hosts. It is then the
    /// unspecified one, to listen on; callers make it theirs with [`reached`](Self::reached).
    pub fn local(&self) -> IpAddr {
        match self.ends.0 {
            IpAddr::V4(ip) if ip.is_loopback() && self.terms.several_hosts => {
                Ipv4Addr::UNSPECIFIED.into()
            }
            IpAddr::V6(ip) if ip.is_loopback() && self.terms.several_hosts => {
                Ipv6Addr::UNSPECIFIED.into()
            }
            ip => ip,
        }
    }

    /// The address by which this rank reaches a [`local`](Self::local) one of another rank: an
    /// unspecified one is on rank 0's host.
    pub fn reached(&self, mut address: SocketAddr) -> SocketAddr {
        if address.ip().is_unspecified() {
            address.set_ip(self.ends.1);
        }
        address
    }

    /// Stores a value for all ranks.
    ///
    /// # Errors
    /// What broke the world.
    pub fn set(&self, key: impl Into<String>, value: impl Into<String>) -> Result<()> {
        let (key, value) = (key.into(), value.into());
        self.ask(Request::Set { key, value }, Duration::ZERO)
            .map(drop)
    }

    /// The value of a key, if it has one.
    ///
    /// # Errors
    /// What broke the world.
    pub fn get(&self, key: impl Into<String>) -> Result<Option<String>> {
        match self.ask(Request::Get { key: key.into() }, Duration::ZERO)? {
            Answer::Value(value) => Ok(value),
            _ => Ok(None),
        }
    }

    /// The value of a key, as soon as a rank has set it.
    ///
    /// # Errors
    /// What broke the world; [`Error::Timeout`] if no rank sets it within `patience`.
    pub fn wait(&self, key: impl Into<String>, patience: Duration) -> Result<String> {
        let (key, millis) = (key.into(), patience.as_millis() as u64);
        let request = Request::Wait {
            key: key.clone(),
            millis,
        };
        match self.ask(request, patience)? {
            Answer::Value(Some(value)) => Ok(value),
            _ => Err(self.timeout(format!("the value of {key}"), patience, Vec::new())),
        }
    }

    /// Adds to a number that all ranks share, from 0, and returns the sum.
    ///
    /// # Errors
    /// What broke the world; [`Error::Config`] if the key holds something else.
    pub fn add(&self, key: impl Into<String>, by: i64) -> Result<i64> {
        let key = key.into();
        match self.ask(
            Request::Add {
                key: key.clone(),
                by,
            },
            Duration::ZERO,
        )? {
            Answer::Number(sum) => Ok(sum),
            other => Err(Error::config(
                format!("store key {key}"),
                "a number",
                format!("{other:?}"),
            )),
        }
    }

    /// Returns when every rank has come to the barrier of this name.
    ///
    /// # Errors
    /// What broke the world; [`Error::Timeout`] names the ranks that did not come.
    pub fn barrier(&self, name: &str, patience: Duration) -> Result<()> {
        let (name, millis) = (name.to_owned(), patience.as_millis() as u64);
        match self.ask(
            Request::Barrier {
                name: name.clone(),
                millis,
            },
            patience,
        )? {
            Answer::Missing(ranks) => {
                let call = format!("the rendezvous at {} ({name})", self.terms.address());
                Err(self.timeout(call, patience, ranks))
            }
            _ => Ok(()),
        }
    }

    /// What broke the world, if anything has.
    pub fn fault(&self) -> Option<Error> {
        self.watch.fault()
    }

    /// Breaks the world, and returns what all ranks are told: the first failure of any of them.
    pub fn abort(&self, error: Error) -> Error {
        // A configuration error does not say which rank it is about.
        let named = match error {
            Error::Config { .. } => Error::peer_failed(self.terms.rank, &error),
            other => other,
        };
        self.watch.abort(named)
    }

    /// Reports that the connection to a peer broke, and returns what all ranks are told: which rank
    /// failed first.
    pub fn suspect(&self, peer: usize, why: impl Into<String>) -> Error {
        self.watch.suspect(peer, why.into())
    }

    /// What broke the world, if this rank is told of it within `patience`.
    pub fn fault_within(&self, patience: Duration) -> Option<Error> {
        self.watch.fault_within(patience)
    }

    /// Has `describe` say what this rank does: the others are told the last of it if this rank dies.
    pub fn describe(&self, describe: impl Fn() -> String + Send + 'static) {
        self.watch.describe(Box::new(describe));
    }

    /// Says that this rank is done, and returns when all are.
    ///
    /// This waits as long as the others are alive: one may compute for long after its last collective.
    ///
    /// # Errors
    /// What broke the world.
    pub fn leave(&self) -> Result<()> {
        self.watch.leave()
    }

    fn timeout(&self, call: String, waited: Duration, missing: Vec<usize>) -> Error {
        Error::Timeout {
            rank: self.terms.rank,
            call,
            waited,
            missing,
        }
    }

    fn ask(&self, request: Request, patience: Duration) -> Result<Answer> {
        if let Some(fault) = self.fault() {
            return Err(fault);
        }
        let gone = |e: &dyn std::fmt::Display| {
            self.suspect(
                0,
                format!("its store did not answer rank {}: {e}", self.terms.rank),
            )
        };
        let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        let (inbox, outbox) = &mut *store;
        outbox.send(&Message::Ask(request)).map_err(|e| gone(&e))?;
        let until = Instant::now() + patience + self.terms.heartbeat;
        loop {
            match inbox.next(Duration::from_millis(100)) {
                Ok(Some(Message::Answer(Answer::Fault(fault)))) => return Err(fault),
                Ok(Some(Message::Answer(Answer::Refused(why)))) => {
                    return Err(Error::config("store", "a request it can serve", why));
                }
                Ok(Some(Message::Answer(answer))) => return Ok(answer),
                Ok(None) if Instant::now() < until => match self.fault() {
                    Some(fault) => return Err(fault),
                    None => continue,
                },
                Ok(Some(other)) => return Err(gone(&line(&format!("it said {other:?}")))),
                Ok(None) => return Err(gone(&"no answer")),
                Err(e) => return Err(gone(&e)),
            }
        }
    }
}
