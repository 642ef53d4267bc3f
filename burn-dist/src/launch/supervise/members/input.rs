//! What the threads of calls pass on to the one that decides.

use super::message::{Hello, Report};
use super::state::Refusal;
use crate::rendezvous::Outbox;
use std::sync::mpsc::Sender;

/// What has happened on a connection, which has the number `line`.
#[derive(Debug)]
pub(super) enum Input {
    Came {
        line: u64,
        hello: Hello,
        outbox: Outbox,
        answer: Sender<std::result::Result<(), Refusal>>,
    },
    Report {
        line: u64,
        report: Report,
    },
    Left {
        line: u64,
        why: String,
    },
}
