//! The messages between ranks and the server.

use crate::error::Error;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Changes whenever processes of two builds could misunderstand each other.
pub(super) const PROTOCOL: u32 = 1;
/// The longest message, in bytes: keys and values are small.
pub(super) const MAX_MESSAGE: usize = 1 << 20;
/// The longest message of a side that has not proven the secret yet.
pub(super) const MAX_UNPROVEN_MESSAGE: usize = 4 << 10;

/// How long either side may take for each message of the handshake up to the proofs.
pub(crate) const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Purpose {
    /// Heartbeats, failures, goodbyes.
    Watch,
    /// Requests to the store.
    Store,
}

/// The first message of a rank.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) protocol: u32,
    pub(super) version: String,
    pub(super) purpose: Purpose,
    pub(super) rank: usize,
    pub(super) world: usize,
    /// How often the world was started again.
    pub(super) attempt: usize,
    pub(super) host: String,
    pub(super) pid: u32,
}

/// Everything that goes over a connection, in both directions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Message {
    /// Rank to server: who calls, with a nonce.
    Hello(Hello, String),
    /// Server to rank: a nonce, and proof of the secret for the rank's nonce.
    Challenge(String, String),
    /// Rank to server: proof of the secret for the server's nonce.
    Proof(String),
    /// Server to rank: it has joined.
    Welcome,
    /// Server to rank: it may not join, and whether to try again.
    Refused { problem: String, again: bool },

    /// Heartbeat; ranks add what they do.
    Beat(String),
    /// Rank to server: this rank has failed. Server to ranks: the first failure.
    Fault(Error),
    /// Rank to server: this rank's connection to a peer broke.
    Suspect { peer: usize, why: String },
    /// Rank to server: all done.
    Bye,
    /// Server to ranks: all are done.
    AllDone,

    /// Rank to server: a request to the store.
    Ask(Request),
    /// Server to rank: its answer.
    Answer(Answer),
}

/// A request to the store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Request {
    Set { key: String, value: String },
    Get { key: String },
    Wait { key: String, millis: u64 },
    Add { key: String, by: i64 },
    Barrier { name: String, millis: u64 },
}

/// What the store answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Answer {
    Done,
    Value(Option<String>),
    Number(i64),
    /// The time was up; the ranks that had not come.
    Missing(Vec<usize>),
    /// The world is broken.
    Fault(Error),
    /// The request cannot be served.
    Refused(String),
}
