//! A `unit` call that is going on: its passes are open from the pre-forward hook to the post-forward hook.

use super::activations::{Activations, Cast, MapActivations};
use super::leaf::Leaf;
use super::pass::Pass;
use super::plain;
use super::prefetch;
use crate::draws::{self, LeaveUnit, Restore};
use crate::shard::memory::{Shard, is_same_memory, untracked};
use crate::shard::model::{ShardedParam, Sharding, StoredShards, StoredUnit};
use crate::shard::tape;
use crate::trace::{TraceKind, TraceSpan};
use crate::unwind::or_raise;
use burn::module::Module;
use burn::tensor::{Device, FloatDType, Tensor};
use std::cell::{Cell, RefCell};
use std::sync::Arc;

/// A pass whose unit's closure is running.
struct Open {
    pass: Arc<Pass>,
    token: Tensor<1>,
}

thread_local! {
    static OPEN: RefCell<Vec<Open>> = const { RefCell::new(Vec::new()) };
    static RECOMPUTING: Cell<bool> = const { Cell::new(false) };
}

/// Whether a forward runs a second time in this thread, for backward.
pub(super) fn is_recomputing() -> bool {
    RECOMPUTING.get()
}

/// Marks the thread while a forward runs a second time.
pub(super) struct Recomputing;

impl Recomputing {
    pub(super) fn start() -> Self {
        RECOMPUTING.set(true);
        Self
    }
}

impl Drop for Recomputing {
    fn drop(&mut self) {
        RECOMPUTING.set(false);
    }
}

/// One `unit` call. It closes what it opened, also when the closure unwinds.
pub(super) struct Scope {
    /// The passes of this call: none if the module is no unit.
    passes: Vec<Arc<Pass>>,
    /// How many of them are open.
    opened: usize,
    outermost: bool,
    /// What the token stands behind if the inputs take no gradients and a part of the unit is frozen by adapters.
    leaf: Option<Leaf>,
    /// The numbers that layers draw in this call, and those of the forward that it begins.
    _unit: Option<LeaveUnit>,
    _pass: Option<Restore>,
}

impl Scope {
    /// Starts to gather the units that `module` is, if it is any.
    pub(super) fn pre_forward<M: Module>(module: &M) -> Self {
        let stored = or_raise(StoredShards::of(module));
        let mut scope = Self {
            passes: Vec::new(),
            opened: 0,
            outermost: false,
            leaf: None,
            _unit: None,
            _pass: None,
        };
        if stored.units.is_empty() {
            scope._unit = Some(draws::enter_unit());
            return scope;
        }
        plain::leave();
        let recomputing = is_recomputing();
        scope.outermost = !recomputing && prefetch::begin(&stored);
        if scope.outermost && stored.has_tape && !draws::has_begun() {
            let noise = stored.units[0].sharding.next_forward();
            scope._pass = Some(draws::begin(noise));
        }
        scope._unit = Some(draws::enter_unit());
        for unit in stored.own_units().filter(|unit| !is_open(unit)) {
            let prefetched = prefetch::with(|prefetch| prefetch.take(unit)).flatten();
            let pass = Arc::new(Pass::new(unit, prefetched, stored.has_tape));
            if recomputing {
                pass.unshard_to_recompute()
            } else {
                pass.unshard()
            }
            scope.passes.push(pass);
        }
        // A call that is to be recomputed has nothing on the tape, and keeps nothing gathered.
        let has_adapters = |pass: &Arc<Pass>| {
            let strategy = &pass.sharding.strategy;
            strategy.lora.is_some() && !strategy.recompute
        };
        if stored.has_tape && scope.passes.iter().any(has_adapters) {
            scope.leaf = Leaf::of(module);
        }
        prefetch::with(|prefetch| prefetch.start_next());
        scope
    }

    /// A further run of a call's passes.
    pub(super) fn of(passes: &[Arc<Pass>]) -> Self {
        Self {
            passes: passes.to_vec(),
            opened: 0,
            outermost: false,
            leaf: None,
            _unit: None,
            _pass: None,
        }
    }

    pub(super) fn passes(&self) -> &[Arc<Pass>] {
        &self.passes
    }

    /// The device that the model computes on.
    pub(super) fn device(&self) -> Device {
        let pass = self.passes.first();
        pass.map_or_else(Device::flex, |pass| pass.sharding.world.device())
    }

    /// The name of this call's unit in messages.
    pub(super) fn name(&self) -> String {
        let name = |pass: &Arc<Pass>| pass.sharding.unit(pass.unit).layout.name.to_string();
        if self.passes.is_empty() {
            "of no parameters of its own".into()
        } else {
            self.passes.iter().map(name).collect::<Vec<_>>().join(", ")
        }
    }

    /// The span of this call in a trace; none if the module is no unit.
    pub(super) fn span(&self) -> Option<TraceSpan> {
        let pass = self.passes.first()?;
        let kind = if is_recomputing() {
            TraceKind::Recompute
        } else {
            TraceKind::Forward
        };
        let tracer = pass.sharding.world.tracer();
        Some(tracer.span(kind, || self.name()))
    }

    /// The same, if any of it is sharded.
    pub(super) fn sharded_name(&self) -> Option<String> {
        let is_sharded = self.passes.iter().any(|pass| pass.is_sharded());
        is_sharded.then(|| self.name())
    }

    /// Parameters read from here on are those of this unit, ordered after `inputs`.
    pub(super) fn enter<I: Activations>(&mut self, mut inputs: I) -> I {
        for pass in &self.passes {
            let token;
            (inputs, token) = Tokens::collect(pass, inputs, self.leaf.as_ref());
            if pass.is_regathered() {
                prefetch::with(|prefetch| prefetch.order_backward(pass));
            }
            let pass = pass.clone();
            pass.sharding.enter_forward();
            OPEN.with_borrow_mut(|open| open.push(Open { pass, token }));
            self.opened += 1;
        }
        inputs
    }

    /// Parameters read from here on are no longer this unit's.
    pub(super) fn post_forward(&mut self) {
        for _ in 0..std::mem::take(&mut self.opened) {
            if let Some(open) = OPEN.with_borrow_mut(Vec::pop) {
                open.pass.sharding.leave_forward();
                open.pass.post_forward();
            }
        }
    }

    /// Whether this call keeps only its inputs for backward, if there is one.
    pub(super) fn is_recomputed(&self) -> bool {
        let asked = |pass: &Arc<Pass>| {
            pass.sharding.strategy.recompute && !pass.sharding.unit(pass.unit).is_root()
        };
        !self.passes.is_empty() && self.passes.iter().all(asked) && !is_recomputing()
    }

    /// Inputs in the type of the parameters.
    pub(super) fn to_param_dtype<I: Activations>(&self, inputs: I) -> I {
        match self.common(|pass| pass.sharding.strategy.precision.param_dtype) {
            Some(dtype) => inputs.map(&mut Cast(dtype)),
            None => inputs,
        }
    }

    /// Outputs in the type that the model returns, where this is the outermost call.
    pub(super) fn to_output_dtype<O: Activations>(&self, outputs: O) -> O {
        match self.common(|pass| pass.sharding.strategy.precision.output_dtype) {
            Some(dtype) if self.outermost => outputs.map(&mut Cast(dtype)),
            _ => outputs,
        }
    }

    /// A type that all passes of this call name; where several shardings differ, their inner units cast.
    fn common(&self, dtype: impl Fn(&Pass) -> Option<FloatDType>) -> Option<FloatDType> {
        let mut all = self.passes.iter().map(|pass| dtype(pass));
        let first = all.next()??;
        all.all(|other| other == Some(first)).then_some(first)
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        self.post_forward();
        if self.outermost {
            prefetch::end();
        }
    }
}

/// Collects a unit's inputs into the token that orders its backward after all of them.
struct Tokens {
    pass: Arc<Pass>,
    token: Tensor<1>,
}

impl Tokens {
    /// The token of a pass, and the inputs as they were.
    fn collect<A: Activations>(pass: &Arc<Pass>, inputs: A, leaf: Option<&Leaf>) -> (A, Tensor<1>) {
        let mut tokens = Self {
            pass: pass.clone(),
            token: untracked(&pass.sharding.world.device()),
        };
        let inputs = inputs.map(&mut tokens);
        let token = match leaf {
            Some(leaf) if !tape::is_tracked(&tokens.token) => leaf.token(pass.clone()),
            _ => tokens.token,
        };
        (inputs, token)
    }
}

impl MapActivations for Tokens {
    fn map<const D: usize>(&mut self, x: Tensor<D>) -> Tensor<D> {
        let earlier = self.token.clone();
        self.token = tape::token(x.clone(), earlier, self.pass.clone());
        x
    }
}

/// Whether a pass of this unit over these very shards is open; a clone's may be others.
fn is_open(unit: &StoredUnit) -> bool {
    let is_same = |open: &Open| {
        open.pass.unit == unit.number
            && Arc::ptr_eq(&open.pass.sharding, &unit.sharding)
            && is_same_memory(&open.pass.shards, &unit.shards)
    };
    OPEN.with_borrow(|open| open.iter().any(is_same))
}

/// Whether any unit of this model is open in this thread.
pub(super) fn is_inside(sharding: &Arc<Sharding>) -> bool {
    OPEN.with_borrow(|open| open.iter().any(|o| Arc::ptr_eq(&o.pass.sharding, sharding)))
}

/// The open pass that has this parameter, stored as `shard`, and its token.
pub(super) fn open_pass(param: &ShardedParam, shard: &Shard) -> Option<(Arc<Pass>, Tensor<1>)> {
    OPEN.with_borrow(|open| {
        // A clone of the model, such as a moving average, may store something else.
        let same = |o: &&Open| {
            o.pass.unit == param.unit
                && Arc::ptr_eq(&o.pass.sharding, &param.sharding)
                && o.pass.shards[param.slot]
                    .as_ref()
                    .is_some_and(|s| s.is(shard))
        };
        let found = open.iter().rev().find(same);
        found.map(|o| (o.pass.clone(), o.token.clone()))
    })
}
