//! What a rank knows: who it is, who the others are, and how to reach them.

use crate::comm::{Communicator, Ledger, Queue, Reduce, Span, SpanMut, Ticket};
use crate::error::{Error, Result};
use crate::noise::Noise;
use crate::stop::Stop;
use crate::trace::{TraceKind, TraceSpan, Tracer};
use crate::unwind::catch_raised;
use burn::tensor::{Device, StreamId};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// One rank's view of all ranks; cheap to clone.
#[derive(Debug, Clone)]
pub struct World {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    comm: Arc<Communicator>,
    queue: Queue,
    setting: Setting,
    models: AtomicU64,
    in_backward: AtomicBool,
    waited_ns: AtomicU64,
    /// Counted by the jobs of the queue, which must not keep the world alive.
    communicated_ns: Arc<AtomicU64>,
    at_end: Mutex<Vec<AtEnd>>,
}

/// What a rank does before it leaves the world.
struct AtEnd(Collective);

/// Something that all ranks do together.
type Collective = Box<dyn FnOnce(&Communicator) -> Result<()> + Send>;

impl std::fmt::Debug for AtEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AtEnd")
    }
}

/// What a launcher knows beside the ranks.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    pub(crate) device: Device,
    pub(crate) seed: u64,
    /// This rank's number among those of its host.
    pub(crate) local_rank: usize,
    /// Ranks of this process.
    pub(crate) ranks_here: usize,
    pub(crate) restarts: usize,
    /// Number of ranks of the first start, if it is known to differ.
    pub(crate) initial: Option<usize>,
    pub(crate) stop: Stop,
}

impl World {
    /// The world behind a communicator, where no launcher makes it.
    ///
    /// # Errors
    /// [`Error::Config`] if the thread for communication cannot be started.
    pub fn new(comm: Communicator, device: Device, seed: u64) -> Result<Self> {
        let setting = Setting {
            device,
            seed,
            local_rank: 0,
            ranks_here: 1,
            restarts: 0,
            initial: None,
            stop: Stop::never(),
        };
        Self::with_setting(comm, setting)
    }

    /// The world behind a communicator; the other ranks are told if it cannot be made.
    pub(crate) fn with_setting(comm: Communicator, mut setting: Setting) -> Result<Self> {
        if !setting.device.is_autodiff() {
            setting.device = setting.device.autodiff();
        }
        let queue = Queue::new(comm.rank()).inspect_err(|error| {
            comm.abort(Error::peer_failed(comm.rank(), error));
        })?;
        let inner = Inner {
            comm: Arc::new(comm),
            queue,
            setting,
            models: AtomicU64::new(0),
            in_backward: AtomicBool::new(false),
            waited_ns: AtomicU64::new(0),
            communicated_ns: Arc::default(),
            at_end: Mutex::default(),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// This rank's number, from 0.
    pub fn rank(&self) -> usize {
        self.inner.comm.rank()
    }

    /// This rank's number among those of its host, from 0; 0 where no launcher makes the world.
    ///
    /// # Source
    /// torchrun: `LOCAL_RANK`.
    pub fn local_rank(&self) -> usize {
        self.inner.setting.local_rank
    }

    /// Number of ranks.
    pub fn size(&self) -> usize {
        self.inner.comm.size()
    }

    /// Whether this is rank 0, the one that prints and writes what is written once.
    pub fn is_chief(&self) -> bool {
        self.rank() == 0
    }

    /// The device this rank computes on; it tracks gradients.
    pub fn device(&self) -> Device {
        self.inner.setting.device.clone()
    }

    /// The seed given to the launcher, the same on all ranks.
    pub fn seed(&self) -> u64 {
        self.inner.setting.seed
    }

    /// Random numbers of this rank for one forward pass: another rank or pass draws others, and the
    /// same pass draws them again, as a thread or as a process and after a resume.
    ///
    /// Count micro-batches rather than steps.
    ///
    /// ```
    /// use burn::tensor::{Distribution, Tensor};
    /// use burn_dist::prelude::*;
    ///
    /// let drawn = Threads::new(2).seed(7).run(|world| {
    ///     let draw = |pass| -> Tensor<1> {
    ///         world.noise(pass).random([3], Distribution::Default, &world.device(), 0)
    ///     };
    ///     assert_eq!(draw(5).into_data(), draw(5).into_data());
    ///     Ok(draw(5).into_data())
    /// })?;
    /// assert_ne!(drawn[0], drawn[1]);
    /// # Ok::<(), burn_dist::Error>(())
    /// ```
    pub fn noise(&self, pass: u64) -> Noise {
        Noise::new(self.seed(), pass, self.rank() as u32)
    }

    /// Ranks that run in this process: all of them as threads, one as processes.
    pub fn ranks_here(&self) -> usize {
        self.inner.setting.ranks_here
    }

    /// How often the launcher has started this world again after a failure, and SLURM its requeued job.
    ///
    /// A program that saves resumes from its last save where this is not 0.
    pub fn restarts(&self) -> usize {
        self.inner.setting.restarts
    }

    /// Number of ranks with which the launcher started first; since then ranks may have been lost for good, or
    /// others have come (`--nnodes MIN:MAX`, `--nproc-per-node MIN:MAX`).
    ///
    /// A program that keeps its global batch does more backward passes per step where this is above
    /// [`size`](Self::size).
    ///
    /// ```
    /// use burn_dist::prelude::*;
    ///
    /// let passes = Threads::new(2).run(|world| Ok(3 * world.initial_size() / world.size()))?;
    /// assert_eq!(passes, [3, 3]);
    /// # Ok::<(), burn_dist::Error>(())
    /// ```
    pub fn initial_size(&self) -> usize {
        self.inner.setting.initial.unwrap_or_else(|| self.size())
    }

    /// Whether any rank was told to end, by SIGTERM, SIGHUP or Ctrl-C: finish the step, save, and return.
    ///
    /// Ask once a step, on every rank. A program that never asks is ended by those signals.
    /// Collective: one all-reduce of a byte.
    ///
    /// # Errors
    /// What a collective returns.
    ///
    /// ```
    /// use burn_dist::prelude::*;
    ///
    /// Threads::new(2).run(|world| {
    ///     for _step in 0..3 {
    ///         if world.should_stop()? {
    ///             break; // and save
    ///         }
    ///     }
    ///     Ok(())
    /// })?;
    /// # Ok::<(), burn_dist::Error>(())
    /// ```
    pub fn should_stop(&self) -> Result<bool> {
        let mut asked = [u8::from(self.inner.setting.stop.is_asked())];
        let all = SpanMut::of(&mut asked);
        self.comm().all_reduce(&"stop".into(), Reduce::Max, all)?;
        Ok(asked[0] != 0)
    }

    /// The group of all ranks, for collectives of one's own.
    ///
    /// While a backward pass runs, the library issues collectives on this group from another
    /// thread; call your own between passes.
    pub fn comm(&self) -> &Arc<Communicator> {
        &self.inner.comm
    }

    /// What records, on request, which thread of this rank does what and when.
    pub fn tracer(&self) -> &Tracer {
        self.inner.comm.recorder().tracer()
    }

    /// What this rank has communicated so far.
    pub fn ledger(&self) -> &Ledger {
        self.inner.comm.ledger()
    }

    /// Runs `f`, in which tensor operations may communicate, and turns a failure inside it into
    /// an `Err`.
    ///
    /// Launchers do this for the whole rank; use it where a program wants to handle the error
    /// itself, for example around a forward pass.
    ///
    /// # Errors
    /// Whatever a collective inside `f` failed with. Panics of other causes go on.
    pub fn run<T>(&self, f: impl FnOnce() -> T) -> Result<T> {
        catch_raised(f)
    }

    /// How long this rank's computation has stood still for communication so far.
    pub fn exposed(&self) -> Duration {
        Duration::from_nanos(self.inner.waited_ns.load(Ordering::Relaxed))
    }

    /// How long this rank's communication thread has worked so far, waiting for other ranks included: what of it is
    /// not [`exposed`](Self::exposed) was hidden behind computation.
    ///
    /// Collectives that NCCL does on a device count only as long as it takes to submit them.
    pub fn communication(&self) -> Duration {
        Duration::from_nanos(self.inner.communicated_ns.load(Ordering::Relaxed))
    }

    /// Waits for communication, and counts the time.
    pub(crate) fn waiting<T>(&self, wait: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let span = self.tracer().span(TraceKind::Wait, String::new);
        let result = wait();
        drop(span);
        let waited = start.elapsed().as_nanos() as u64;
        self.inner.waited_ns.fetch_add(waited, Ordering::Relaxed);
        result
    }

    pub(crate) fn set_backward(&self, running: bool) {
        self.inner.in_backward.store(running, Ordering::Relaxed);
    }

    /// Refuses a gradient that comes outside of the library's backward: nobody would reduce it.
    pub(crate) fn expect_backward(&self, path: &str) -> Result<()> {
        if self.inner.in_backward.load(Ordering::Relaxed) {
            Ok(())
        } else {
            Err(Error::model(
                path,
                "received a gradient from loss.backward(), which reduces nothing over ranks",
                "use world.backward(loss, &model)",
            ))
        }
    }

    /// Runs `f` on every rank and shares what each returned; if it fails anywhere, it fails
    /// everywhere, so that no rank goes on alone.
    pub(crate) fn together(
        &self,
        what: &str,
        f: impl FnOnce() -> Result<[u64; 2]>,
    ) -> Result<Vec<[u64; 2]>> {
        let mine = f();
        let [first, second] = *mine.as_ref().unwrap_or(&[0; 2]);
        let sent = [u64::from(mine.is_ok()), first, second];
        let mut all = vec![0; 3 * self.size()];
        self.comm()
            .all_gather(&what.into(), Span::of(&sent), SpanMut::of(&mut all))?;
        mine?;
        match all.chunks(3).position(|rank| rank[0] == 0) {
            Some(peer) => Err(Error::PeerFailed {
                peer,
                cause: format!("it could not {what}; its own error says why"),
            }),
            None => Ok(all.chunks(3).map(|rank| [rank[1], rank[2]]).collect()),
        }
    }

    /// Runs `job` on the communication thread, after everything submitted before it.
    ///
    /// What it asks of the device goes to this thread's stream there, behind what this thread has asked
    /// for by the time. On a stream of its own it could overtake: CubeCL lets a stream wait for memory
    /// that another one has newly allocated, and not for what is written to it in place later.
    pub(crate) fn submit<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Ticket<T> {
        let stream = StreamId::current();
        let spent = self.inner.communicated_ns.clone();
        let (tracer, number) = (self.tracer().clone(), self.tracer().submit());
        self.inner.queue.submit(move || {
            let start = Instant::now();
            let _span = TraceSpan::of_job(&tracer, TraceKind::Job, String::new, number);
            let result = stream.executes(job);
            spent.fetch_add(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
            result
        })
    }

    /// A number for the next sharded model: the same on all ranks, as they shard in one order.
    pub(crate) fn next_model(&self) -> u64 {
        self.inner.models.fetch_add(1, Ordering::Relaxed)
    }

    /// The seed of this rank's device once the `number`-th model is sharded.
    ///
    /// Ranks that are threads share one generator, so each of them sets the same.
    pub(crate) fn stream(&self, number: u64) -> u64 {
        let rank = match self.ranks_here() {
            1 => self.rank(),
            _ => 0,
        };
        Noise::new(self.seed(), number, rank as u32).number(0)
    }

    /// Has a collective done before the rank leaves the world, if it ends well; every rank has to ask for it.
    pub(crate) fn at_end(&self, f: impl FnOnce(&Communicator) -> Result<()> + Send + 'static) {
        self.ends().push(AtEnd(Box::new(f)));
    }

    /// Does what was to be done before the rank leaves; returns the first failure, after all is done.
    pub(crate) fn end(&self) -> Result<()> {
        let ends = std::mem::take(&mut *self.ends());
        let results: Vec<Result<()>> = ends.into_iter().map(|end| end.0(self.comm())).collect();
        results.into_iter().collect()
    }

    fn ends(&self) -> MutexGuard<'_, Vec<AtEnd>> {
        self.inner
            .at_end
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the other ranks that this one cannot go on.
    pub(crate) fn fail(&self, error: &Error) {
        let shared = match error {
            Error::PeerFailed { .. } | Error::Mismatch { .. } | Error::GradientSet { .. } => {
                error.clone()
            }
            other => Error::peer_failed(self.rank(), other),
        };
        self.inner.comm.abort(shared);
    }
}
