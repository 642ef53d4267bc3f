//! One group of ranks and its NCCL communicator, from the first collective to the end.
//!
//! Before each collective the ranks compare their calls through the host's engine, and while one is
//! pending the host's engine is asked whether the world has failed. NCCL only gets collectives that
//! all ranks agree on.

use super::errors::Problem;
use super::gpu::{Gpu, GpuEvent, NcclLock};
use super::nccl_comm::{Id, NcclComm, Transfer};
use super::options::Options;
use super::submitted::{Owner, Submitted};
use super::watchdog::Watchdog;
use crate::comm::{Arrival, Call, DeviceBuffer, Dtype, Engine, Label, Op, Order, SpanMut};
use crate::error::{Error, Result};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// How often NCCL is asked whether a call in progress has settled.
const SETTLE_POLL_EVERY: Duration = Duration::from_micros(50);

/// The groups of one rank, which share its GPU.
#[derive(Debug)]
pub(super) struct RankGroups {
    gpu: Arc<Gpu>,
    watchdog: Arc<Watchdog>,
    /// In the order in which they were made, until their communicators are ended.
    groups: Mutex<Vec<Arc<NcclGroup>>>,
}

impl RankGroups {
    /// A rank without groups.
    pub(super) fn new(gpu: Arc<Gpu>) -> Arc<Self> {
        Arc::new(Self {
            gpu,
            watchdog: Arc::default(),
            groups: Mutex::default(),
        })
    }

    /// Adds the group whose ranks `host` connects.
    pub(super) fn add(self: &Arc<Self>, host: Arc<dyn Engine>, options: Options) -> Arc<NcclGroup> {
        let group = Arc::new(NcclGroup {
            host,
            options,
            connection: Mutex::new(Connection::Unconnected),
            fault: OnceLock::new(),
            rank: self.clone(),
        });
        self.groups().push(group.clone());
        group
    }

    /// Ends all communicators, in the order in which their groups were made.
    pub(super) fn finish(&self) {
        // A communicator that fails to finish aborts the later ones.
        let groups = self.groups().clone();
        groups.iter().for_each(|group| group.finish());
        let finished =
            |group: &Arc<NcclGroup>| groups.iter().any(|other| Arc::ptr_eq(group, other));
        self.groups().retain(|group| !finished(group));
    }

    fn groups(&self) -> MutexGuard<'_, Vec<Arc<NcclGroup>>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for RankGroups {
    fn drop(&mut self) {
        self.watchdog.close();
    }
}

/// One group, as one rank sees it.
#[derive(Debug)]
pub(super) struct NcclGroup {
    pub(super) host: Arc<dyn Engine>,
    pub(super) options: Options,
    /// Locked only by the thread that holds the GPU's NCCL lock.
    connection: Mutex<Connection>,
    fault: OnceLock<Error>,
    rank: Arc<RankGroups>,
}

/// The communicator of a group; a group that never uses its devices has none.
#[derive(Debug)]
enum Connection {
    Unconnected,
    Connected(NcclComm),
    Ended,
}

impl NcclGroup {
    /// Compares the `call` with the other ranks', and submits the `transfer` to the GPU.
    pub(super) fn run(self: &Arc<Self>, call: &Call, transfer: Transfer<'_>) -> Result<Arrival> {
        let on_device = self.options.order == Order::Device;
        if on_device && call.len > 0 {
            // Before waiting for the other ranks, so that the stream does not wait for work that this
            // rank submits meanwhile.
            let ordered = self.gpu().order_after_submitted();
            ordered.map_err(|problem| self.fail(self.failure(call, &problem)))?;
        }
        self.agree(call)?;
        let watchdog = &self.rank.watchdog;
        watchdog.release_done();
        if call.len == 0 {
            return Ok(Arrival::now());
        }
        self.connect(call)?;
        let submitted = Arc::new(self.submit(call, transfer)?);
        if on_device && watchdog.add(submitted.clone()) {
            return Ok(Arrival::after(submitted));
        }
        let outcome = submitted.wait_on_host();
        if !submitted.release_buffers() {
            // It has failed, and the GPU may still use its buffers.
            watchdog.add(submitted);
        }
        outcome.map(|()| Arrival::now())
    }

    fn gpu(&self) -> &Arc<Gpu> {
        &self.rank.gpu
    }

    /// Compares the calls of all ranks.
    fn agree(&self, call: &Call) -> Result<()> {
        if self.host.members().len() == 1 {
            return self.host_result(self.host.fault().map_or(Ok(()), Err));
        }
        let mut compared = call.clone();
        // The same collective on host memory must not compare equal.
        let detail = format!("{} on devices", call.label.detail);
        compared.label = call.label.with_detail(detail.trim_start());
        self.host_result(self.host.barrier(&compared))
    }

    /// Returns the host engine's result; if the world is broken, breaks this group too.
    fn host_result(&self, result: Result<()>) -> Result<()> {
        let Err(error) = result else {
            return Ok(());
        };
        match self.host.fault() {
            Some(_) => Err(self.fail(error)),
            None => Err(error),
        }
    }

    /// Connects the ranks, at the first collective.
    fn connect(&self, call: &Call) -> Result<()> {
        match *self.connection() {
            Connection::Unconnected => {}
            Connection::Connected(_) => return Ok(()),
            Connection::Ended => return Err(self.ended_error(call)),
        }
        let since = Instant::now();
        let (rank, members) = (self.host.rank(), self.host.members());
        let mut id: Id = [0; 128];
        if rank == 0 {
            let made = NcclComm::id(self.gpu(), &self.gpu().lock_nccl());
            id = made.map_err(|problem| self.fail(self.failure(call, &problem)))?;
        }
        if members.len() > 1 {
            let label = Label::from("NCCL's unique id");
            let mut broadcast = Call::new(Op::Broadcast, &label, Dtype::U8, id.len());
            (broadcast.sequence, broadcast.step) = (call.sequence, call.step);
            broadcast.root = Some(0);
            self.host_result(self.host.broadcast(&broadcast, 0, SpanMut::of(&mut id)))?;
        }
        let lock = self.gpu().lock_nccl();
        // Another thread may have failed during the broadcast.
        if matches!(*self.connection(), Connection::Ended) {
            return Err(self.ended_error(call));
        }
        match NcclComm::connect(self.gpu(), &lock, (rank, members.len()), &id) {
            Ok(comm) => *self.connection() = Connection::Connected(comm),
            Err(problem) => return Err(self.fail_locked(self.failure(call, &problem), &lock)),
        }
        self.wait_settled(call, since, &lock)
    }

    /// Submits the transfer.
    fn submit(self: &Arc<Self>, call: &Call, transfer: Transfer<'_>) -> Result<Submitted> {
        let (since, lock) = (Instant::now(), self.gpu().lock_nccl());
        let submitted = match &*self.connection() {
            Connection::Connected(comm) => comm.submit(self.gpu(), &lock, transfer),
            _ => return Err(self.ended_error(call)),
        };
        submitted.map_err(|problem| self.fail_locked(self.failure(call, &problem), &lock))?;
        let settled = self.wait_settled(call, since, &lock);
        let done = settled.and_then(|()| {
            let done = GpuEvent::now(self.gpu(), &lock);
            done.map_err(|problem| self.fail_locked(self.failure(call, &problem), &lock))
        });
        let buffers = transfer.buffers();
        match done {
            Ok(done) => Ok(Submitted::new(self.clone(), call, buffers, done)),
            Err(error) => {
                self.keep_buffers(call, buffers, &lock);
                Err(error)
            }
        }
    }

    /// Keeps the buffers of a failed collective until the GPU cannot use them any more.
    fn keep_buffers(
        self: &Arc<Self>,
        call: &Call,
        buffers: Vec<DeviceBuffer>,
        lock: &NcclLock<'_>,
    ) {
        match GpuEvent::now(self.gpu(), lock) {
            Ok(done) => {
                let submitted = Submitted::new(self.clone(), call, buffers, done);
                self.rank.watchdog.add(Arc::new(submitted));
            }
            // Without an event there is no time at which they are safe to free.
            Err(_) => std::mem::forget(buffers),
        }
    }

    /// Waits until NCCL has nothing in progress.
    fn wait_settled(&self, call: &Call, since: Instant, lock: &NcclLock<'_>) -> Result<()> {
        loop {
            let settled = match &*self.connection() {
                Connection::Connected(comm) => comm.is_settled(lock),
                _ => return Err(self.ended_error(call)),
            };
            match settled {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(problem) => return Err(self.fail_locked(self.failure(call, &problem), lock)),
            }
            if let Some(fault) = self.host.fault() {
                return Err(self.fail_locked(fault, lock));
            }
            if since.elapsed() >= self.options.deadline {
                return Err(self.fail_locked(self.timeout_error(call), lock));
            }
            std::thread::sleep(SETTLE_POLL_EVERY);
        }
    }

    /// Why there is no communicator any more: another thread has ended it after the ranks agreed on
    /// the `call`, or the ranks have left.
    fn ended_error(&self, call: &Call) -> Error {
        self.fault()
            .or_else(|| self.host.fault())
            .unwrap_or_else(|| {
                let expected = "a group that its ranks have not left";
                Error::config(call.to_string(), expected, "one that is left")
            })
    }

    fn timeout_error(&self, call: &Call) -> Error {
        let waited = self.options.deadline;
        let problem = format!(
            "not done after {waited:?}, though every rank has called it: a GPU or the network between \
             them is stuck, or busier than the deadline allows for"
        );
        self.failure(call, &problem)
    }

    /// As [`fail`](Owner::fail), on the thread that holds the lock.
    ///
    /// Aborts all groups of the rank: a pending collective of one of them may be queued in the GPU's stream
    /// behind a collective of another one, and could not end.
    fn fail_locked(&self, error: Error, lock: &NcclLock<'_>) -> Error {
        self.host.abort(error.clone());
        let first = self.host.fault().unwrap_or(error);
        let others = self.rank.groups().clone();
        let others = others.iter().map(|group| &**group);
        let mut connected = Vec::new();
        for group in others.chain([self]) {
            // Before the abort: an aborted collective must not look done.
            group.fault.get_or_init(|| first.clone());
            let connection = std::mem::replace(&mut *group.connection(), Connection::Ended);
            if let Connection::Connected(comm) = connection {
                connected.push(comm);
            }
        }
        NcclComm::abort(connected, self.gpu(), lock);
        self.fault.get().cloned().unwrap_or(first)
    }

    /// Ends the communicator: by `ncclCommFinalize` if nothing has failed, else by an abort.
    fn finish(&self) {
        for submitted in self.rank.watchdog.of(self) {
            // A failure is recorded in the group.
            let _ = submitted.wait_on_host();
        }
        self.rank.watchdog.release_done();
        let lock = self.gpu().lock_nccl();
        let connection = std::mem::replace(&mut *self.connection(), Connection::Ended);
        let Connection::Connected(comm) = connection else {
            return;
        };
        if self.finalize(&comm, &lock) {
            comm.destroy(&lock);
            return;
        }
        // Before the abort, as in `fail_locked`.
        if let Some(fault) = self.host.fault() {
            self.fault.get_or_init(|| fault);
        }
        NcclComm::abort(vec![comm], self.gpu(), &lock);
    }

    /// Finalizes the communicator; returns whether that has succeeded.
    fn finalize(&self, comm: &NcclComm, lock: &NcclLock<'_>) -> bool {
        let broken = || self.host.fault().is_some() || self.fault.get().is_some();
        if broken() || comm.finalize(lock).is_err() {
            return false;
        }
        let since = Instant::now();
        loop {
            match comm.is_settled(lock) {
                Ok(true) => return true,
                Ok(false) if !broken() && since.elapsed() < self.options.deadline => {
                    std::thread::sleep(SETTLE_POLL_EVERY);
                }
                _ => return false,
            }
        }
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Owner for NcclGroup {
    fn fault(&self) -> Option<Error> {
        self.fault.get().cloned()
    }

    fn wait_error(&self, call: &Call, since: Instant) -> Option<Error> {
        if let Some(fault) = self.host.fault() {
            return Some(fault);
        }
        // The thread that holds the lock checks for asynchronous errors itself.
        if let Some(lock) = self.gpu().try_lock_nccl()
            && let Connection::Connected(comm) = &*self.connection()
            && let Err(problem) = comm.is_settled(&lock)
        {
            return Some(self.failure(call, &problem));
        }
        (since.elapsed() >= self.options.deadline).then(|| self.timeout_error(call))
    }

    fn failure(&self, call: &Call, problem: &Problem) -> Error {
        Error::PeerFailed {
            peer: self.host.members()[self.host.rank()],
            cause: format!("{call} between GPUs: {problem}"),
        }
    }

    fn fail(&self, error: Error) -> Error {
        // Before the lock is taken: the thread that holds it then stops waiting and releases it.
        self.host.abort(error.clone());
        self.fail_locked(error, &self.gpu().lock_nccl())
    }
}
