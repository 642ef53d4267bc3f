//! What seats and server say to each other.

use crate::error::Error;
use serde::{Deserialize, Serialize};

/// Changes whenever processes of two builds could misunderstand each other.
pub(super) const PROTOCOL: u32 = 1;
/// No message is longer: keys and values are small.
pub(super) const LONGEST: usize = 1 << 20;
/// No message of a side that has not proven anything yet is longer.
pub(super) const LONGEST_UNPROVEN: usize = 4 << 10;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Purpose {
    /// Signs of life, failures, goodbyes.
    Watch,
    /// Requests to the store.
    Store,
}

/// The first words of a rank.
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
    /// Rank to server: who calls, with a number used once.
    Hello(Hello, String),
    /// Server to rank: a number used once, and proof of the secret for the rank's number.
    Challenge(String, String),
    /// Rank to server: proof of the secret for the server's number.
    Proof(String),
    /// Server to rank: come in.
    Welcome,
    /// Server to rank: stay out, and whether to try again.
    Refused { problem: String, again: bool },

    /// Alive; ranks add what they did last.
    Beat(String),
    /// Rank to server: the world is broken. Server to ranks: it is, by this.
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
