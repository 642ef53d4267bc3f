//! Communication that overlaps with computation.
//!
//! A rank's collectives run one after the other on one thread of their own, in the order in which
//! they were submitted: the order stays that of the program, and the compute thread waits only
//! when it needs a result.

use crate::error::{Error, Result};
use crate::unwind::catch_all;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

type Job = Box<dyn FnOnce() + Send>;

/// One rank's thread for collectives; dropping it waits for what was submitted.
#[derive(Debug)]
pub struct Queue {
    rank: usize,
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

/// The pending result of a submitted job.
#[derive(Debug)]
pub struct Ticket<T> {
    rank: usize,
    result: Receiver<Result<T>>,
}

impl Queue {
    /// Starts the thread of `rank`.
    ///
    /// # Errors
    /// [`Error::Config`] if the system refuses another thread.
    pub fn new(rank: usize) -> Result<Self> {
        let (jobs, inbox) = channel::<Job>();
        let thread = std::thread::Builder::new()
            .name(format!("rank {rank} comm"))
            .spawn(move || inbox.into_iter().for_each(|job| job()))
            .map_err(|e| Error::config("communication thread", "a new thread", e))?;
        Ok(Self {
            rank,
            jobs: Some(jobs),
            thread: Some(thread),
        })
    }

    /// Runs `job` after everything submitted before it.
    pub fn submit<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Ticket<T> {
        let (reply, result) = channel();
        let rank = self.rank;
        let job = Box::new(move || {
            // A dropped ticket has no receiver.
            let _ = reply.send(catch_all(rank, job));
        });
        if let Some(jobs) = &self.jobs {
            // If the thread has ended, the reply is dropped, and `wait` returns an error.
            let _ = jobs.send(job);
        }
        Ticket { rank, result }
    }
}

impl<T> Ticket<T> {
    /// Waits for the job's result.
    ///
    /// # Errors
    /// The job's own error; [`Error::Panicked`] if it panicked.
    pub fn wait(self) -> Result<T> {
        self.result.recv().unwrap_or_else(|_| {
            Err(Error::Panicked {
                rank: self.rank,
                message: "the communication thread has ended".into(),
            })
        })
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // The last reference to a queue may be dropped by one of its own jobs.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}
