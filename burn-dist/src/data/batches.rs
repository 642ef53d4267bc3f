//! The thread between a loader and a training loop: it makes batches while the devices compute, waits when
//! it is far enough ahead, and ends with the loop. Apart from the loader, because all of its care is about
//! ending well: no batch is waited for that nobody makes, and none is made that nobody waits for.

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
    /// Gone once nothing more can come.
    receiver: Option<Receiver<Result<B>>>,
    left: usize,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// The thread's end of the line.
pub(super) struct Outlet<B> {
    sender: SyncSender<Result<B>>,
    stop: Arc<AtomicBool>,
}

impl<B> Outlet<B> {
    /// Whether the consumer has gone, so that going on is of no use.
    pub(super) fn is_closed(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Waits until there is room for a batch; false if it has no taker any more.
    pub(super) fn send(&self, batch: Result<B>) -> bool {
        self.sender.send(batch).is_ok()
    }
}

impl<B: Send + 'static> Batches<B> {
    /// Starts `work`, which sends `count` batches, and lets it get `ahead` of the consumer.
    pub(super) fn start(
        count: usize,
        ahead: usize,
        work: impl FnOnce(&Outlet<B>) + Send + 'static,
    ) -> Result<Self> {
        // One batch more is in the hands of the thread that waits to send it.
        let (sender, receiver) = sync_channel(ahead.saturating_sub(1));
        let stop = Arc::new(AtomicBool::new(false));
        let outlet = Outlet {
            sender,
            stop: stop.clone(),
        };
        let thread = thread::Builder::new()
            .name("burn-dist-data".into())
            .spawn(move || work(&outlet))
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
        // First the receiver: a thread that waits for room wakes up from it.
        self.receiver = None;
        if let Some(thread) = self.thread.take() {
            // Its panic, if any, has been told in `next`, or is of no interest to who stopped early.
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
        let mut batches = Batches::start(3, 2, |outlet| {
            outlet.send(Ok('a'));
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
        let batches = Batches::start(100, 1, |outlet| while outlet.send(Ok(())) {}).unwrap();
        drop(batches);
    }
}
