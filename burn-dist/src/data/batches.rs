//! The iterator over an epoch's batches, and the background thread that makes them.
//!
//! The thread works while the devices compute, blocks when it is far enough ahead, and ends with the iterator:
//! the iterator returns an error if the thread has ended, and the thread stops if the iterator is dropped.

use std::iter::FusedIterator;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use crate::{Error, Result};

/// The batches of an epoch in order, made on a background thread.
///
/// An error ends the epoch: it comes once, in the place of its batch, and nothing comes after it. Dropping the
/// iterator stops the thread and waits for it, at most for the one sample it may be reading.
#[derive(Debug)]
pub struct Batches<B> {
    /// `None` once the iterator is being dropped.
    receiver: Option<Receiver<Result<B>>>,
    left: usize,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// The sending end of the channel, for the background thread.
pub(super) struct BatchSender<B> {
    sender: SyncSender<Result<B>>,
    stop: Arc<AtomicBool>,
}

impl<B> BatchSender<B> {
    /// True if the iterator was dropped, so that further batches are of no use.
    pub(super) fn is_closed(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Blocks until the channel has room for a batch; false if the iterator was dropped.
    pub(super) fn send(&self, batch: Result<B>) -> bool {
        self.sender.send(batch).is_ok()
    }
}

impl<B: Send + 'static> Batches<B> {
    /// Starts `work`, which sends `count` batches, at most `ahead` of them before they are taken.
    pub(super) fn start(
        count: usize,
        ahead: usize,
        work: impl FnOnce(&BatchSender<B>) + Send + 'static,
    ) -> Result<Self> {
        // The thread holds one batch more while it waits to send it.
        let (sender, receiver) = sync_channel(ahead.saturating_sub(1));
        let stop = Arc::new(AtomicBool::new(false));
        let batch_sender = BatchSender {
            sender,
            stop: stop.clone(),
        };
        let thread = thread::Builder::new()
            .name("burn-dist-data".into())
            .spawn(move || work(&batch_sender))
            .map_err(|cause| Error::Config {
                what: "data loader".into(),
                expected: "a background thread".into(),
                found: cause.to_string(),
            })?;
        Ok(Self {
            receiver: Some(receiver),
            left: count,
            stop,
            thread: Some(thread),
        })
    }
}

impl<B> Iterator for Batches<B> {
    type Item = Result<B>;

    fn next(&mut self) -> Option<Result<B>> {
        if self.left == 0 {
            return None;
        }
        let batch = self.receiver.as_ref()?.recv().unwrap_or_else(|_| {
            Err(Error::Config {
                what: "data loader".into(),
                expected: format!("{} more batches from its thread", self.left),
                found: "that the thread has ended".into(),
            })
        });
        self.left = if batch.is_ok() { self.left - 1 } else { 0 };
        Some(batch)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left.min(1), Some(self.left))
    }
}

impl<B> FusedIterator for Batches<B> {}

impl<B> Drop for Batches<B> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // The receiver goes first, which wakes a thread that waits for room.
        self.receiver = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was returned by `next`, unless the iterator was dropped before.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_dies_without_a_word_is_an_error() {
        let mut batches = Batches::start(3, 2, |sender| {
            sender.send(Ok('a'));
        })
        .unwrap();
        assert_eq!(batches.size_hint(), (1, Some(3)));
        assert_eq!(batches.next().unwrap().unwrap(), 'a');
        assert_eq!(
            batches.next().unwrap().unwrap_err().to_string(),
            "data loader: expected 2 more batches from its thread, found that the thread has ended"
        );
        assert!(batches.next().is_none());
    }

    #[test]
    fn dropping_wakes_a_thread_that_waits_for_room() {
        // Without the wake-up this test would never end.
        let batches = Batches::start(100, 1, |sender| while sender.send(Ok(())) {}).unwrap();
        drop(batches);
    }
}
