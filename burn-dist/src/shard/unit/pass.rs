//! One run of a unit: its forward, and its backward if there is one.
//!
//! A unit may run twice in a step, several forwards may precede one backward, and a forward may be
//! dropped; so what is gathered and which gradients have come belongs to the pass, not the unit.

use crate::comm::Ticket;
use crate::error::Result;
use crate::shard::memory::{Primitive, Shard, Shards, SharedFlat};
use crate::shard::model::{FullGradients, GatheredUnit, Part, PostBackward, Sharding, StoredUnit};
use crate::shard::tape::{TokenGradient, TokenHook};
use crate::strategy::Reshard;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Parameters of at most so many bytes are copied out of a buffer that will be resharded.
///
/// A layer norm, for one, keeps a reshaped view of its weight on the tape. As a view of the flat
/// buffer it would keep the whole unit alive; a copy keeps itself.
const COPY_UP_TO: usize = 1 << 16;

/// One run of one unit.
#[derive(Debug)]
pub(super) struct Pass {
    pub(super) sharding: Arc<Sharding>,
    pub(super) unit: usize,
    pub(super) shards: Shards,
    /// Its place in the program.
    number: u64,
    /// Whether a tape may keep views of what is gathered.
    has_tape: bool,
    /// The step that it was opened in.
    step: u64,
    state: Mutex<PassState>,
}

#[derive(Debug)]
struct PassState {
    unsharded: Unsharded,
    /// What was kept of the gathered unit, to gather it again over fewer ranks.
    part: Option<Part>,
    gradients: FullGradients,
    /// Whether this pass is on the tape through its token.
    tracked: bool,
    /// The pass whose backward is expected after this one's.
    backward_prefetch: Option<Arc<Pass>>,
    /// Whether the unit's forward runs a second time, with its backward right behind.
    recomputing: bool,
    /// Whether backward has gone through it.
    is_closed: bool,
    reduced: bool,
}

/// Who owns the gathered buffer.
#[allow(clippy::large_enum_variant)]
#[derive(Debug)]
enum Unsharded {
    /// Nobody: it was not gathered, or resharded.
    No,
    /// The communication thread.
    Gathering(Ticket<GatheredUnit>),
    /// This pass.
    Yes(SharedFlat),
}

impl Pass {
    /// A pass of `unit`; `prefetched` is its gather if that was started ahead.
    pub(super) fn new(
        unit: &StoredUnit,
        prefetched: Option<Ticket<GatheredUnit>>,
        has_tape: bool,
    ) -> Self {
        let sharding = unit.sharding.clone();
        let kept = sharding.kept_unit(unit.number, &unit.shards);
        let unsharded = match (kept, prefetched) {
            (Some(flat), _) => Unsharded::Yes(flat),
            (None, Some(ticket)) => Unsharded::Gathering(ticket),
            (None, None) => Unsharded::No,
        };
        let step = if has_tape {
            sharding.pass_opened(unit.number)
        } else {
            u64::MAX
        };
        Self {
            number: sharding.next_pass(),
            sharding,
            unit: unit.number,
            shards: unit.shards.clone(),
            has_tape,
            step,
            state: Mutex::new(PassState {
                unsharded,
                part: None,
                gradients: FullGradients::default(),
                tracked: false,
                backward_prefetch: None,
                recomputing: false,
                is_closed: false,
                reduced: false,
            }),
        }
    }

    /// Whether this rank stores a shard of the unit, not all of it.
    pub(super) fn is_sharded(&self) -> bool {
        !self.sharding.is_replicated(self.unit) && self.sharding.shard_group.size() > 1
    }

    /// Whether the unit is to be compared with plain Burn, and was not yet.
    pub(super) fn is_unchecked(&self) -> bool {
        (self.is_sharded() || self.is_quantized()) && self.sharding.is_unchecked(self.unit)
    }

    /// Notes that the unit needs no further check.
    pub(super) fn set_checked(&self) {
        self.sharding.set_checked(self.unit);
    }

    fn state(&self) -> MutexGuard<'_, PassState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the gather unless it is done, under way, or not needed.
    pub(super) fn unshard(&self) {
        let mut state = self.state();
        if matches!(state.unsharded, Unsharded::No)
            && !self.sharding.is_replicated(self.unit)
            && !state.reduced
        {
            let ticket = match state.part.take() {
                Some(part) => self.sharding.gather_again(self.unit, part),
                None => self.all_gather(),
            };
            state.unsharded = Unsharded::Gathering(ticket);
        }
    }

    fn all_gather(&self) -> Ticket<GatheredUnit> {
        self.sharding
            .gather_for_pass(self.unit, self.shards.clone())
    }

    /// The gathered unit, waiting for it where necessary.
    fn wait_for_unshard(&self) -> Result<SharedFlat> {
        self.unshard();
        let mut state = self.state();
        let flat = match std::mem::replace(&mut state.unsharded, Unsharded::No) {
            Unsharded::Yes(flat) => flat,
            Unsharded::Gathering(ticket) => {
                let (flat, part) = self.sharding.wait_for_gather(ticket)?;
                state.part = part.filter(|_| !self.sharding.keeps_unsharded(self.unit));
                flat
            }
            // A view that is asked for after the reduction: gathered for it alone.
            Unsharded::No => {
                let gathered = self.sharding.wait_for_gather(self.all_gather())?;
                return Ok(gathered.0);
            }
        };
        state.unsharded = Unsharded::Yes(flat.clone());
        let (unit, reshard) = (
            self.sharding.unit(self.unit),
            self.sharding.strategy.reshard(),
        );
        // Nothing would let go of a frozen unit to which no backward comes.
        let is_let_go = reshard != Reshard::AfterBackward
            || unit.is_root()
            || unit.layout.trainable
            || state.tracked;
        drop(state);
        // The tape of a forward without a backward stays; the next one must not gather another root.
        let until_backward = self.has_tape && is_let_go && self.sharding.keeps_unsharded(self.unit);
        if until_backward || reshard == Reshard::AtStep {
            self.sharding
                .keep_unit(self.unit, self.shards.clone(), flat.clone());
        }
        Ok(flat)
    }

    /// The full parameter in `slot`, which is stored as `stored`.
    pub(super) fn view(&self, slot: usize, stored: Primitive) -> Result<Primitive> {
        let slot = &self.sharding.unit(self.unit).layout.slots[slot];
        if let Some(scheme) = &slot.quantized {
            let dtype = self.sharding.strategy.precision.computed(slot.dtype);
            return if self.sharding.is_replicated(self.unit) {
                Shard::of_primitive(stored).dequantize(scheme, &slot.shape, dtype)
            } else {
                let flat = self.wait_for_unshard()?;
                flat.dequantize(slot.offset, scheme, &slot.shape, dtype)
            };
        }
        let dtype = self.sharding.param_dtype(self.unit);
        if self.sharding.is_replicated(self.unit) {
            return Ok(stored.cast(dtype));
        }
        let flat = self.wait_for_unshard()?;
        let small = slot.len * dtype.size() <= COPY_UP_TO;
        Ok(if small && !self.keeps_unsharded() {
            flat.copy(slot.offset, &slot.shape)
        } else {
            flat.view(slot.offset, &slot.shape)
        })
    }

    /// The full parameter again, in backward; also starts the gather that backward needs next.
    pub(super) fn view_again(&self, slot: usize, stored: Primitive) -> Result<Primitive> {
        self.unshard_and_prefetch();
        self.view(slot, stored)
    }

    /// Starts this pass's gather, and behind it the one that backward needs next.
    fn unshard_and_prefetch(&self) {
        self.unshard();
        let next = self.state().backward_prefetch.take();
        next.iter().for_each(|pass| pass.unshard());
    }

    /// The unit's forward is about to run a second time. What is gathered for it now serves the
    /// backward behind it too.
    pub(super) fn unshard_to_recompute(&self) {
        self.state().recomputing = true;
        self.unshard_and_prefetch();
    }

    /// Whether the gathered unit outlives the forward.
    pub(super) fn keeps_unsharded(&self) -> bool {
        self.sharding.keeps_unsharded(self.unit) || self.state().recomputing
    }

    /// Whether a full parameter is made anew of what is gathered, each time.
    pub(super) fn is_quantized(&self) -> bool {
        self.sharding.unit(self.unit).layout.is_quantized()
    }

    /// Whether a full parameter of this pass lives until backward anyway.
    pub(super) fn keeps_parameters(&self) -> bool {
        self.keeps_unsharded() || self.sharding.is_replicated(self.unit)
    }

    /// The forward is over: reshards, where the strategy does that after forward.
    pub(super) fn post_forward(&self) {
        if !self.keeps_unsharded() {
            let mut state = self.state();
            let forward = std::mem::replace(&mut state.unsharded, Unsharded::No);
            state.part = match (forward, state.part.take()) {
                (Unsharded::Yes(flat), None) if self.has_tape => {
                    self.sharding.part(self.unit, &flat)
                }
                (_, part) => part,
            };
        }
    }

    fn reshard(&self) {
        let mut state = self.state();
        state.unsharded = Unsharded::No;
        state.part = None;
    }

    /// Whether backward will gather this pass again.
    pub(super) fn is_regathered(&self) -> bool {
        !self.keeps_unsharded() && self.state().tracked
    }

    /// Names the pass that came before this one, whose gather backward starts behind this one's.
    ///
    /// It is kept alive for that: when a tape drops an unused pass may differ between ranks, and
    /// what they gather may not.
    pub(super) fn set_backward_prefetch(&self, before: Option<Arc<Pass>>) {
        self.state().backward_prefetch = before;
    }

    /// Takes the gradient of a full parameter.
    pub(super) fn accumulate(self: &Arc<Self>, slot: usize, gradient: Primitive) -> Result<()> {
        let mut session = self.sharding.session();
        let first = {
            let mut state = self.state();
            let first = state.gradients.is_empty();
            state.gradients.add(slot, gradient);
            first
        };
        match session.as_mut() {
            Some(session) if first => session.reached(self.clone()),
            Some(_) => {}
            // Another model's backward runs through this one; its gradients are not wanted.
            None => {
                self.state().gradients = FullGradients::default();
                let layout = &self.sharding.unit(self.unit).layout;
                return self
                    .sharding
                    .world
                    .expect_backward(&layout.slots[slot].path);
            }
        }
        Ok(())
    }
}

impl TokenHook for Pass {
    fn tracked(&self) {
        self.state().tracked = true;
    }

    fn backward(&self) -> Result<TokenGradient> {
        self.post_backward()?;
        Ok(TokenGradient::Nothing)
    }
}

impl PostBackward for Pass {
    fn number(&self) -> u64 {
        self.number
    }

    /// Reshards, and hands the gradients over to be reduced, unless that was done.
    fn post_backward(&self) -> Result<()> {
        self.reshard();
        let gradients = {
            let mut state = self.state();
            let is_first = !std::mem::replace(&mut state.is_closed, true);
            if is_first {
                self.sharding.pass_closed(self.unit, self.step);
                let name = || self.sharding.unit(self.unit).layout.name.to_string();
                self.sharding.world.tracer().end_unit_backward(name);
            }
            if state.reduced || state.gradients.is_empty() {
                drop(state);
                if is_first {
                    self.sharding.backward_passed(self.unit);
                }
                return Ok(());
            }
            state.reduced = true;
            std::mem::take(&mut state.gradients)
        };
        self.sharding.take_gradients(self.unit, gradients)
    }
}

impl Drop for Pass {
    /// A forward of very many units must not unwind its chain of passes on the stack.
    fn drop(&mut self) {
        let before = |pass: &mut Self| {
            let state = pass.state.get_mut().unwrap_or_else(PoisonError::into_inner);
            state.backward_prefetch.take()
        };
        let mut next = before(self);
        while let Some(mut pass) = next.and_then(Arc::into_inner) {
            next = before(&mut pass);
        }
    }
}
