//! The iterator over an epoch's batches, and the background threads that make them.
//!
//! The threads work while the devices compute, block when they are far enough ahead, and end with the iterator:
//! the iterator returns an error if a thread has ended, and the threads stop if the iterator is dropped.

use std::iter::FusedIterator;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use crate::{Error, Result};

/// The batches of an epoch in order, made on background threads.
///
/// An error ends the epoch: it comes once, in the place of its batch, and nothing comes after it. Dropping the
/// iterator stops the threads and waits for them, at most for the one sample that each may be reading.
#[derive(Debug)]
pub struct Batches<B> {
    /// One for each thread; the threads take turns. Empty once the iterator is being dropped.
    receivers: Vec<Receiver<Result<B>>>,
    taken: usize,
    left: usize,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
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
    /// Starts so many threads, of which number `k` sends the batches `k`, `k + workers` and so on of `count`;
    /// together they are at most `ahead` batches before those that are taken, and at least one each.
    pub(super) fn start(
        count: usize,
        ahead: usize,
        workers: usize,
        work: impl Fn(usize, &BatchSender<B>) + Clone + Send + 'static,
    ) -> Result<Self> {
        let mut batches = Self {
            receivers: Vec::new(),
            taken: 0,
            left: count,
            stop: Arc::new(AtomicBool::new(false)),
            threads: Vec::new(),
        };
        for worker in 0..workers.min(count).max(1) {
            // A thread holds one batch more while it waits to send it.
            let (sender, receiver) = sync_channel(ahead.div_ceil(workers).saturating_sub(1));
            let stop = batches.stop.clone();
            let (batch_sender, work) = (BatchSender { sender, stop }, work.clone());
            let thread = thread::Builder::new()
                .name(format!("burn-dist-data-{worker}"))
                .spawn(move || work(worker, &batch_sender))
                .map_err(|cause| Error::Config {
                    what: "data loader".into(),
                    expected: format!("{workers} background thread(s)"),
                    found: cause.to_string(),
                })?;
            batches.receivers.push(receiver);
            batches.threads.push(thread);
        }
        Ok(batches)
    }
}

impl<B> Iterator for Batches<B> {
    type Item = Result<B>;

    fn next(&mut self) -> Option<Result<B>> {
        if self.left == 0 {
            return None;
        }
        let turn = self.taken % self.receivers.len().max(1);
        let batch = self.receivers.get(turn)?.recv().unwrap_or_else(|_| {
            Err(Error::Config {
                what: "data loader".into(),
                expected: format!("{} more batches from its threads", self.left),
                found: "that a thread has ended".into(),
            })
        });
        self.taken += 1;
        self.left -= 1;
        if batch.is_err() {
            self.left = 0;
            self.stop.store(true, Ordering::Relaxed);
        }
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
        // The receivers go first, which wakes threads that wait for room.
        self.receivers.clear();
        for thread in self.threads.drain(..) {
            // A panic of the thread was returned by `next`, unless the iterator was dropped before.
            let _ = thread.join();
        }
    }
}
