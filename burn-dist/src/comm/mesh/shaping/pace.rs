//! When bytes may be sent to a node, and when they arrive there.

use super::bucket::{Buckets, Moment};
use super::link_shape::LinkShape;
use std::io;
use std::time::Duration;

/// How long a piece occupies the link: short, so that connections to one node take turns.
const PIECE_TIME: Duration = Duration::from_millis(1);
/// The fewest and the most bytes of a piece: an Ethernet packet, and what one read takes.
const PIECES: (u64, u64) = (1500, 64 << 10);
/// How far ahead the link's time is taken, so that a thread that is woken late leaves no gap.
const AHEAD: Duration = Duration::from_millis(4);

/// The link that a node has to every other one.
#[derive(Debug)]
pub(super) struct Pace {
    shape: LinkShape,
    buckets: Buckets,
}

/// When a piece that was sent arrives, and when the next one may be taken from its sender.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub(super) arrival: Moment,
    pub(super) next: Moment,
}

impl Pace {
    pub(super) fn new(shape: LinkShape, buckets: Buckets) -> Self {
        Self { shape, buckets }
    }

    /// The most bytes that are sent at once.
    pub(super) fn piece(&self) -> usize {
        let bytes = u128::from(self.shape.bandwidth()) * PIECE_TIME.as_nanos() / 8_000_000_000;
        let bytes = u64::try_from(bytes).unwrap_or(PIECES.1);
        bytes.clamp(PIECES.0, PIECES.1) as usize
    }

    /// Sends so many bytes to a node.
    pub(super) fn send(&self, node: usize, bytes: usize) -> io::Result<Times> {
        let sent = self.buckets.take(node, self.shape.sending(bytes as u64))?;
        Ok(Times {
            arrival: sent.after(self.shape.latency()),
            next: sent.before(AHEAD),
        })
    }
}
