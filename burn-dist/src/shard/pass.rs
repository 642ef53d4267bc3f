//! One run of a unit: its forward, and its backward if there is one.
//!
//! A unit may run twice in a step, several forwards may precede one backward, and a forward may be
//! dropped; so what is gathered and which gradients have come belongs to the pass, not the unit.

use super::exchange::Coming;
use super::flat::{Flat, Piece, Shared};
use super::primitive::Primitive;
use super::sharding::Sharding;
use crate::comm::Ticket;
use crate::error::Result;
use crate::strategy::Keep;
use burn::tensor::DType;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Parameters of at most so many bytes are copied out of a buffer that is to be let go.
///
/// A layer norm, for one, keeps a reshaped view of its weight on the tape. As a view of the flat
/// buffer it would keep the whole unit alive; a copy keeps itself.
const COPY_UP_TO: usize = 1 << 16;

/// One run of one unit.
#[derive(Debug)]
pub(crate) struct Pass {
    pub(crate) sharding: Arc<Sharding>,
    pub(crate) unit: usize,
    /// Its place in the program.
    pub(crate) number: u64,
    pub(super) pieces: Arc<[Piece]>,
    /// Whether a tape may keep views of what is gathered.
    has_tape: bool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    gathered: Gathered,
    gradients: Gradients,
    /// Whether this pass is on the tape through its token.
    tracked: bool,
    /// The pass whose backward is expected after this one's.
    before: Option<Arc<Pass>>,
    /// Whether the unit's forward runs a second time, with its backward right behind.
    again: bool,
    reduced: bool,
}

/// Who owns the gathered buffer.
#[allow(clippy::large_enum_variant)]
#[derive(Debug)]
enum Gathered {
    /// Nobody: it was not asked for, or let go.
    No,
    /// The communication thread.
    Coming(Ticket<Coming>),
    /// This pass.
    Yes(Shared),
}

/// The full gradients of a unit's parameters, as far as they have come.
#[derive(Debug, Default)]
pub(crate) struct Gradients(Vec<Option<Primitive>>);

impl Gradients {
    /// Adds a contribution to one parameter's gradient.
    pub(crate) fn add(&mut self, slot: usize, gradient: Primitive) {
        if self.0.len() <= slot {
            self.0.resize(slot + 1, None);
        }
        self.0[slot] = Some(match self.0[slot].take() {
            Some(sum) => sum.add(gradient),
            None => gradient,
        });
    }

    /// Which parameters have one, in a unit of `slots` parameters.
    pub(crate) fn present(&self, slots: usize) -> Vec<bool> {
        (0..slots)
            .map(|s| self.0.get(s).is_some_and(Option::is_some))
            .collect()
    }

    /// Moves them into a flat buffer laid out as the unit is, letting each go once it is copied.
    pub(crate) fn pack(self, sharding: &Sharding, unit: usize, dtype: DType) -> Flat {
        let layout = &sharding.unit(unit).layout;
        let mut flat = Flat::zeros(layout.len(), dtype, &sharding.place);
        for (slot, gradient) in layout.slots.iter().zip(self.0) {
            if let Some(gradient) = gradient {
                flat.put(slot.offset, &gradient);
            }
        }
        flat
    }
}

impl Pass {
    /// A pass over `pieces`, one per slot; `coming` is its gather if that was started ahead.
    pub(crate) fn new(
        sharding: Arc<Sharding>,
        unit: usize,
        pieces: Arc<[Piece]>,
        coming: Option<Ticket<Coming>>,
        has_tape: bool,
    ) -> Self {
        let gathered = match (sharding.kept(unit, &pieces), coming) {
            (Some(flat), _) => Gathered::Yes(flat),
            (None, Some(ticket)) => Gathered::Coming(ticket),
            (None, None) => Gathered::No,
        };
        Self {
            number: sharding.next_pass(),
            sharding,
            unit,
            pieces,
            has_tape,
            state: Mutex::new(State {
                gathered,
                gradients: Gradients::default(),
                tracked: false,
                before: None,
                again: false,
                reduced: false,
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the gather unless it is done, under way, or not needed.
    pub(crate) fn start(&self) {
        let mut state = self.state();
        if matches!(state.gathered, Gathered::No)
            && !self.sharding.is_whole(self.unit)
            && !state.reduced
        {
            state.gathered = Gathered::Coming(self.gather());
        }
    }

    fn gather(&self) -> Ticket<Coming> {
        let dtype = self.sharding.computed(self.unit);
        self.sharding.gather(self.unit, self.pieces.clone(), dtype)
    }

    /// The gathered unit, waiting for it where necessary.
    fn gathered(&self) -> Result<Shared> {
        self.start();
        let mut state = self.state();
        let flat = match std::mem::replace(&mut state.gathered, Gathered::No) {
            Gathered::Yes(flat) => flat,
            Gathered::Coming(ticket) => self.sharding.gathered(ticket)?,
            // A view that is asked for after the reduction: gathered for it alone.
            Gathered::No => {
                return self.sharding.gathered(self.gather());
            }
        };
        state.gathered = Gathered::Yes(flat.clone());
        drop(state);
        let until_step = self.sharding.strategy.keep == Keep::Step;
        // The tape of a forward without a backward stays; the next one must not gather another root.
        if until_step || (self.has_tape && self.sharding.keeps(self.unit)) {
            self.sharding
                .keep(self.unit, self.pieces.clone(), flat.clone());
        }
        Ok(flat)
    }

    /// The full parameter in `slot`, whose stored piece is `base`.
    pub(crate) fn view(&self, slot: usize, base: Primitive) -> Result<Primitive> {
        let dtype = self.sharding.computed(self.unit);
        if self.sharding.is_whole(self.unit) {
            return Ok(base.cast(dtype));
        }
        let flat = self.gathered()?;
        let layout = &self.sharding.unit(self.unit).layout;
        let place = &layout.slots[slot];
        let small = place.len * dtype.size() <= COPY_UP_TO;
        Ok(match small && !self.keeps() {
            true => flat.copy(place.offset, &place.shape),
            false => flat.view(place.offset, &place.shape),
        })
    }

    /// The full parameter again, in backward; also starts the gather that backward needs next.
    pub(crate) fn view_again(&self, slot: usize, base: Primitive) -> Result<Primitive> {
        self.start_both();
        self.view(slot, base)
    }

    /// Starts this pass's gather, and behind it the one that backward needs next.
    fn start_both(&self) {
        self.start();
        let before = self.state().before.take();
        before.iter().for_each(|pass| pass.start());
    }

    /// The unit's forward is about to run a second time. What is gathered for it now serves the
    /// backward behind it too.
    pub(super) fn run_again(&self) {
        self.state().again = true;
        self.start_both();
    }

    /// Whether the gathered unit outlives the forward.
    pub(crate) fn keeps(&self) -> bool {
        self.sharding.keeps(self.unit) || self.state().again
    }

    /// The forward is over.
    pub(crate) fn close(&self) {
        if !self.keeps() {
            self.release();
        }
    }

    fn release(&self) {
        self.state().gathered = Gathered::No;
    }

    /// This pass is on the tape through its token.
    pub(crate) fn track(&self) {
        self.state().tracked = true;
    }

    /// Whether backward will gather this pass again.
    pub(crate) fn returns(&self) -> bool {
        !self.keeps() && self.state().tracked
    }

    /// Says which pass came before this one, to be gathered ahead in backward.
    ///
    /// It is kept alive for that: when a tape lets an unused pass go may differ between ranks, and
    /// what they gather may not.
    pub(crate) fn follow(&self, before: Option<Arc<Pass>>) {
        self.state().before = before;
    }

    /// Takes the gradient of a full parameter.
    pub(crate) fn collect(self: &Arc<Self>, slot: usize, gradient: Primitive) -> Result<()> {
        let mut session = self.sharding.session();
        let first = {
            let mut state = self.state();
            let first = state.gradients.0.is_empty();
            state.gradients.add(slot, gradient);
            first
        };
        match session.as_mut() {
            Some(session) if first => session.touched(self.clone()),
            Some(_) => {}
            // Another model's backward runs through this one; its gradients are not wanted.
            None => {
                self.state().gradients = Gradients::default();
                let layout = &self.sharding.unit(self.unit).layout;
                return self
                    .sharding
                    .world
                    .expect_backward(&layout.slots[slot].path);
            }
        }
        Ok(())
    }

    /// Lets the gathered unit go and starts to reduce the gradients, unless that was done.
    pub(crate) fn reduce(&self) -> Result<()> {
        self.release();
        let gradients = {
            let mut state = self.state();
            if state.reduced || state.gradients.0.is_empty() {
                return Ok(());
            }
            state.reduced = true;
            std::mem::take(&mut state.gradients)
        };
        if self.sharding.strategy.keep == Keep::Pass {
            self.sharding.let_go(self.unit);
        }
        match self.sharding.session().as_mut() {
            Some(session) => session.reduce(&self.sharding, self.unit, gradients),
            None => Ok(()),
        }
    }
}

impl Drop for Pass {
    /// A forward of very many units must not unwind its chain of passes on the stack.
    fn drop(&mut self) {
        let before = |pass: &mut Self| {
            let state = pass.state.get_mut().unwrap_or_else(PoisonError::into_inner);
            state.before.take()
        };
        let mut next = before(self);
        while let Some(mut pass) = next.and_then(Arc::into_inner) {
            next = before(&mut pass);
        }
    }
}
