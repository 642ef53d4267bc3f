//! Which hosts take part in a start of the world, agreed between their launchers before each start.
//!
//! The launcher of node rank 0 runs a [`Service`]; every launcher, that one included, is a [`Member`] with one
//! connection to it. A member says how many ranks it can start, and how its ranks have ended; the service decides
//! (`state.rs`, without sockets or clocks) who takes part in the next start, or why there is none. A launcher
//! whose connection ends, or that gives no sign of life for a heartbeat, is lost until it calls again.
//!
//! Both sides prove that they know the world's secret, as ranks do at their rendezvous.

mod caller;
mod input;
mod member;
mod message;
mod plan;
mod service;
mod state;

pub(super) use member::{Call, Failed, Member, Next};
pub(super) use message::{Report, Start, Verdict};
pub(super) use plan::Plan;
pub(super) use service::Service;
pub(super) use state::{Decision, Limits, State};

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests;
