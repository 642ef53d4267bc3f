//! A thread that takes samples until it is told to end.

#[cfg(feature = "nvml")]
use super::gpus::Gpus;
use super::meter::Meter;
use super::sample::Sample;
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Samples that are kept for [`Sampler::take`]: an hour at one a second.
const KEPT: usize = 3600;

/// The shortest period: within it the system's clock of CPU time moves by ten ticks.
const SHORTEST: Duration = Duration::from_millis(100);

/// Samples this process, and the GPUs of its host with the feature `nvml`, once in a period.
///
/// One per process, as all its ranks share what is counted. A sample takes less than half a millisecond of one core, besides what NVML
/// takes. The thread ends with the value, at once.
///
/// ```
/// use burn_dist_log::Sampler;
/// use std::time::Duration;
///
/// # fn main() -> std::io::Result<()> {
/// let sampler = Sampler::start(Duration::from_millis(100))?; // in a program: from_secs(1)
/// # let mut samples = Vec::new();
/// # while samples.is_empty() {
/// std::thread::sleep(Duration::from_millis(250)); // steps of training
/// let mut lines = Vec::new();
/// for sample in sampler.take() {
///     sample.write_csv(&mut lines, 0, "localhost")?;
/// #   samples.push(sample);
/// }
/// # }
/// # assert!(samples.iter().all(|sample| sample.memory_bytes > 0));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Sampler {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    samples: VecDeque<Sample>,
    warned: bool,
    ended: bool,
}

impl Shared {
    /// The state, which is whole even if a thread has panicked over it.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sampler {
    /// Begins to sample; the first sample is there after one period.
    ///
    /// # Errors
    ///
    /// If the period is below 100 ms, the system does not tell of this process, or no thread can be started. That there
    /// is no NVML is none.
    pub fn start(period: Duration) -> io::Result<Self> {
        Self::begin(period, Sources::with_gpus)
    }

    /// The same without GPUs: for all processes of a host but one, as GPUs are the host's.
    ///
    /// # Errors
    ///
    /// As of [`start`](Self::start).
    pub fn without_gpus(period: Duration) -> io::Result<Self> {
        Self::begin(period, Sources::without_gpus)
    }

    fn begin(period: Duration, open: fn() -> io::Result<Sources>) -> io::Result<Self> {
        if period < SHORTEST {
            let text =
                format!("utilisation is sampled every {SHORTEST:?} at most, not every {period:?}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let mut sources = open()?;
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        let thread = std::thread::Builder::new().name("utilisation".into());
        let thread = thread.spawn(move || run(&mut sources, period, &theirs))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// The samples since the last call, the oldest first.
    ///
    /// Of more than 3600 that were not taken the oldest are dropped, which is warned of once.
    pub fn take(&self) -> Vec<Sample> {
        self.shared.state().samples.drain(..).collect()
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.shared.state().ended = true;
        self.shared.ended.notify_all();
        if self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err())
        {
            log::warn!("the thread that samples utilisation has panicked");
        }
    }
}

/// Where samples come from.
#[derive(Debug)]
pub(crate) struct Sources {
    meter: Meter,
    #[cfg(feature = "nvml")]
    gpus: Option<Gpus>,
}

impl Sources {
    pub(crate) fn with_gpus() -> io::Result<Self> {
        Ok(Self {
            meter: Meter::new()?,
            #[cfg(feature = "nvml")]
            gpus: Gpus::open(),
        })
    }

    fn without_gpus() -> io::Result<Self> {
        Ok(Self {
            meter: Meter::new()?,
            #[cfg(feature = "nvml")]
            gpus: None,
        })
    }

    pub(crate) fn sample(&mut self) -> io::Result<Sample> {
        #[cfg_attr(not(feature = "nvml"), expect(unused_mut))]
        let mut sample = self.meter.sample()?;
        #[cfg(feature = "nvml")]
        if let Some(gpus) = &mut self.gpus {
            sample.gpus = gpus.sample();
        }
        Ok(sample)
    }
}

/// Samples at multiples of the period, so that times do not drift, until the end.
fn run(sources: &mut Sources, period: Duration, shared: &Shared) {
    let mut due = Instant::now() + period;
    loop {
        let wait = due.saturating_duration_since(Instant::now());
        let waited = shared
            .ended
            .wait_timeout_while(shared.state(), wait, |state| !state.ended);
        if waited.unwrap_or_else(PoisonError::into_inner).0.ended {
            return;
        }
        // Outside the lock, so that whoever takes samples never waits for the system.
        match sources.sample() {
            Ok(sample) => keep(&mut shared.state(), sample),
            Err(error) => return log::warn!("utilisation is no longer sampled: {error}"),
        }
        // A process that was stopped for long goes on with one sample, not with all that it missed.
        due = (due + period).max(Instant::now());
    }
}

fn keep(state: &mut State, sample: Sample) {
    if state.samples.len() == KEPT {
        state.samples.pop_front();
        if !state.warned {
            log::warn!(
                "utilisation: nobody took the last {KEPT} samples, so the oldest are dropped"
            );
        }
        state.warned = true;
    }
    state.samples.push_back(sample);
}
