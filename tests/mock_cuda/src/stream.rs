//! Streams and events.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex};

type Job = Box<dyn FnOnce() + Send>;

/// A thread that does what it is given, in order; it ends when the stream is gone and all is done.
pub(crate) struct Stream {
    jobs: Mutex<Sender<Job>>,
}

impl Stream {
    pub(crate) fn new() -> Arc<Self> {
        let (jobs, inbox) = channel::<Job>();
        std::thread::spawn(move || inbox.into_iter().for_each(|job| job()));
        Arc::new(Self {
            jobs: Mutex::new(jobs),
        })
    }

    pub(crate) fn push(&self, job: impl FnOnce() + Send + 'static) {
        self.jobs.lock().unwrap().send(Box::new(job)).unwrap();
    }

    /// Waits for what was given so far.
    pub(crate) fn synchronize(&self) {
        let signal = Signal::new(1);
        let passed = signal.clone();
        self.push(move || passed.pass());
        signal.wait();
    }
}

/// Something that so many streams have yet to pass.
pub(crate) struct Signal {
    left: Mutex<usize>,
    passed: Condvar,
}

impl Signal {
    pub(crate) fn new(streams: usize) -> Arc<Self> {
        Arc::new(Self {
            left: Mutex::new(streams),
            passed: Condvar::new(),
        })
    }

    pub(crate) fn pass(&self) {
        *self.left.lock().unwrap() -= 1;
        self.passed.notify_all();
    }

    pub(crate) fn is_past(&self) -> bool {
        *self.left.lock().unwrap() == 0
    }

    pub(crate) fn wait(&self) {
        let left = self.left.lock().unwrap();
        drop(self.passed.wait_while(left, |left| *left > 0).unwrap());
    }
}

/// What was recorded last.
#[derive(Default)]
pub(crate) struct Event(Mutex<Option<Arc<Signal>>>);

impl Event {
    pub(crate) fn record(&self, streams: &[Arc<Stream>]) {
        let signal = Signal::new(streams.len());
        for stream in streams {
            let passed = signal.clone();
            stream.push(move || passed.pass());
        }
        *self.0.lock().unwrap() = Some(signal);
    }

    pub(crate) fn is_past(&self) -> bool {
        self.0.lock().unwrap().as_ref().is_none_or(|s| s.is_past())
    }

    pub(crate) fn hold(&self, streams: &[Arc<Stream>]) {
        if let Some(signal) = &*self.0.lock().unwrap() {
            for stream in streams {
                let signal = signal.clone();
                stream.push(move || signal.wait());
            }
        }
    }
}
