//! One group of ranks on its way through NCCL: from its first collective to its end.
//!
//! The host's engine says who takes part, in what, and until when; it is asked before every collective,
//! and while one is waited for. NCCL only ever sees collectives that all ranks agree on.

use super::Options;
use super::clique::{Clique, Id, Transfer};
use super::flight::Flight;
use super::gpu::{Event, Gpu, Turn};
use super::text::Problem;
use crate::comm::{Arrival, Call, DeviceBuffer, Dtype, Engine, Label, Op, Order, SpanMut};
use crate::error::{Error, Result};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// How often what is in progress is looked at.
const GLANCE: Duration = Duration::from_micros(50);

/// What one rank knows of one group.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) host: Arc<dyn Engine>,
    pub(super) gpu: Arc<Gpu>,
    pub(super) options: Options,
    /// Locked by whoever has the GPU's turn.
    state: Mutex<State>,
    fault: OnceLock<Error>,
}

/// Groups that never use their devices have no communicator.
#[derive(Debug)]
enum State {
    Unconnected,
    Connected(Clique),
    Over,
}

impl Group {
    pub(super) fn new(host: Arc<dyn Engine>, gpu: Arc<Gpu>, options: Options) -> Arc<Self> {
        let group = Arc::new(Self {
            host,
            gpu,
            options,
            state: Mutex::new(State::Unconnected),
            fault: OnceLock::new(),
        });
        group.gpu.groups().push(group.clone());
        group
    }

    /// Makes the ranks agree on the `call`, and the GPU move what it describes.
    pub(super) fn run(self: &Arc<Self>, call: &Call, transfer: Transfer<'_>) -> Result<Arrival> {
        let on_device = self.options.order == Order::Device;
        if on_device && call.len > 0 {
            // Before the others are waited for, so that it waits for less of what is submitted meanwhile.
            let ordered = self.gpu.after_submitted();
            ordered.map_err(|problem| self.fail(self.failed(call, &problem)))?;
        }
        self.agree(call)?;
        self.gpu.watch.sweep();
        if call.len == 0 {
            return Ok(Arrival::now());
        }
        self.connect(call)?;
        let flight = Arc::new(self.launch(call, transfer)?);
        if on_device && self.gpu.watch.add(flight.clone()) {
            return Ok(Arrival::after(flight));
        }
        let outcome = flight.land();
        if !flight.has_landed() {
            // It has failed; its memory stays until the GPU has noticed.
            self.gpu.watch.add(flight);
        }
        outcome.map(|()| Arrival::now())
    }

    /// Compares the calls of all ranks.
    fn agree(&self, call: &Call) -> Result<()> {
        if self.host.members().len() == 1 {
            return self.host_says(self.host.fault().map_or(Ok(()), Err));
        }
        let mut told = call.clone();
        // The same collective between hosts is another one.
        let detail = format!("{} on devices", call.label.detail);
        told.label = call.label.with_detail(detail.trim_start());
        self.host_says(self.host.barrier(&told))
    }

    /// Passes on what the host's engine returned; where the world is broken, so is this group.
    fn host_says(&self, result: Result<()>) -> Result<()> {
        let Err(error) = result else {
            return Ok(());
        };
        match self.host.fault() {
            Some(_) => Err(self.fail(error)),
            None => Err(error),
        }
    }

    /// Connects the ranks, once.
    fn connect(&self, call: &Call) -> Result<()> {
        match *self.state() {
            State::Unconnected => {}
            State::Connected(_) => return Ok(()),
            State::Over => return Err(self.over(call)),
        }
        let since = Instant::now();
        let (rank, members) = (self.host.rank(), self.host.members());
        let mut id: Id = [0; 128];
        if rank == 0 {
            let drawn = Clique::id(&self.gpu, &self.gpu.turn());
            id = drawn.map_err(|problem| self.fail(self.failed(call, &problem)))?;
        }
        if members.len() > 1 {
            let label = Label::from("NCCL's unique id");
            let mut told = Call::new(Op::Broadcast, &label, Dtype::U8, id.len());
            (told.sequence, told.step, told.root) = (call.sequence, call.step, Some(0));
            self.host_says(self.host.broadcast(&told, 0, SpanMut::of(&mut id)))?;
        }
        let turn = self.gpu.turn();
        // Another thread may have failed while the id was on its way.
        if matches!(*self.state(), State::Over) {
            return Err(self.over(call));
        }
        match Clique::connect(&self.gpu, &turn, (rank, members.len()), &id) {
            Ok(clique) => *self.state() = State::Connected(clique),
            Err(problem) => return Err(self.end(self.failed(call, &problem), &turn)),
        }
        self.settle(call, since, &turn)
    }

    /// Submits the transfer.
    fn launch(self: &Arc<Self>, call: &Call, transfer: Transfer<'_>) -> Result<Flight> {
        let (since, turn) = (Instant::now(), self.gpu.turn());
        let submitted = match &*self.state() {
            State::Connected(clique) => clique.submit(&self.gpu, &turn, transfer),
            _ => return Err(self.over(call)),
        };
        submitted.map_err(|problem| self.end(self.failed(call, &problem), &turn))?;
        let settled = self.settle(call, since, &turn);
        let done = settled.and_then(|()| {
            let done = Event::now(&self.gpu, &turn);
            done.map_err(|problem| self.end(self.failed(call, &problem), &turn))
        });
        let buffers = transfer.buffers();
        match done {
            Ok(done) => Ok(Flight::new(self, call, buffers, done)),
            Err(error) => {
                self.keep(call, buffers, &turn);
                Err(error)
            }
        }
    }

    /// Keeps what the GPU may still touch, though the collective has failed, until it does not.
    fn keep(self: &Arc<Self>, call: &Call, buffers: Vec<DeviceBuffer>, turn: &Turn<'_>) {
        match Event::now(&self.gpu, turn) {
            Ok(done) => {
                let flight = Flight::new(self, call, buffers, done);
                self.gpu.watch.add(Arc::new(flight));
            }
            // Nothing says when that is.
            Err(_) => std::mem::forget(buffers),
        }
    }

    /// Waits until NCCL has nothing in progress.
    fn settle(&self, call: &Call, since: Instant, turn: &Turn<'_>) -> Result<()> {
        loop {
            let settled = match &*self.state() {
                State::Connected(clique) => clique.is_settled(turn),
                _ => return Err(self.over(call)),
            };
            match settled {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(problem) => return Err(self.end(self.failed(call, &problem), turn)),
            }
            if let Some(fault) = self.host.fault() {
                return Err(self.end(fault, turn));
            }
            if since.elapsed() >= self.options.deadline {
                return Err(self.end(self.late(call), turn));
            }
            std::thread::sleep(GLANCE);
        }
    }

    /// Why this group is of no further use, if it is not.
    pub(super) fn fault(&self) -> Option<Error> {
        self.fault.get().cloned()
    }

    /// Why a collective that was submitted at `since` must be given up, if it must.
    pub(super) fn trouble(&self, call: &Call, since: Instant) -> Option<Error> {
        if let Some(fault) = self.host.fault() {
            return Some(fault);
        }
        // Whoever has the turn looks for himself.
        if let Some(turn) = self.gpu.try_turn()
            && let State::Connected(clique) = &*self.state()
            && let Err(problem) = clique.is_settled(&turn)
        {
            return Some(self.failed(call, &problem));
        }
        (since.elapsed() >= self.options.deadline).then(|| self.late(call))
    }

    /// What all ranks are told when NCCL or the GPU fails in `call` here.
    pub(super) fn failed(&self, call: &Call, problem: &Problem) -> Error {
        Error::PeerFailed {
            peer: self.host.members()[self.host.rank()],
            cause: format!("{call} between GPUs: {problem}"),
        }
    }

    /// Why there is no communicator any more: another thread has ended it, after the ranks agreed on
    /// the `call`, or they have left.
    fn over(&self, call: &Call) -> Error {
        self.fault()
            .or_else(|| self.host.fault())
            .unwrap_or_else(|| {
                let expected = "a group that its ranks have not left";
                Error::config(call.to_string(), expected, "one that is left")
            })
    }

    fn late(&self, call: &Call) -> Error {
        let waited = self.options.deadline;
        let problem = format!(
            "not done after {waited:?}, though every rank has called it: a GPU or the network between \
             them is stuck, or busier than the deadline allows for"
        );
        self.failed(call, &problem)
    }

    /// Makes everything fail with `error`, here and elsewhere, unless it fails with another already;
    /// returns the one that counts.
    pub(super) fn fail(&self, error: Error) -> Error {
        // Whoever has the turn meanwhile hears of it, and gives it back.
        self.host.abort(error.clone());
        self.end(error, &self.gpu.turn())
    }

    /// As [`fail`](Self::fail), on the thread that has the turn.
    ///
    /// Ends all groups of the rank: what one of them has under way may stand in the GPU's stream behind
    /// what another one cannot end.
    fn end(&self, error: Error, turn: &Turn<'_>) -> Error {
        self.host.abort(error.clone());
        let first = self.host.fault().unwrap_or(error);
        let others = self.gpu.groups().clone();
        let others = others.iter().map(|group| &**group);
        let mut alive = Vec::new();
        for group in others.chain([self]) {
            // Before the abort: what it ends must not look done.
            group.fault.get_or_init(|| first.clone());
            if let State::Connected(clique) = std::mem::replace(&mut *group.state(), State::Over) {
                alive.push(clique);
            }
        }
        Clique::abort(alive, &self.gpu, turn);
        self.fault.get().cloned().unwrap_or(first)
    }

    /// Ends the communicator: in order if nothing has failed.
    pub(super) fn finish(&self) {
        for flight in self.gpu.watch.of(self) {
            // Its failure is the group's.
            let _ = flight.land();
        }
        self.gpu.watch.sweep();
        let turn = self.gpu.turn();
        let State::Connected(clique) = std::mem::replace(&mut *self.state(), State::Over) else {
            return;
        };
        match self.finalize(&clique, &turn) {
            true => clique.destroy(&turn),
            false => {
                // Before the abort, as in `end`.
                if let Some(fault) = self.host.fault() {
                    self.fault.get_or_init(|| fault);
                }
                Clique::abort(vec![clique], &self.gpu, &turn);
            }
        }
    }

    /// Whether the communicator came to an orderly end.
    fn finalize(&self, clique: &Clique, turn: &Turn<'_>) -> bool {
        let broken = || self.host.fault().is_some() || self.fault.get().is_some();
        if broken() || clique.finalize(turn).is_err() {
            return false;
        }
        let since = Instant::now();
        loop {
            match clique.is_settled(turn) {
                Ok(true) => return true,
                Ok(false) if !broken() && since.elapsed() < self.options.deadline => {
                    std::thread::sleep(GLANCE);
                }
                _ => return false,
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
