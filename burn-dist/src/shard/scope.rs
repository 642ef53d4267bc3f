//! The boundary of a unit: where its parameters come and go.

use super::activations::{Activations, Cast, Tokens};
use super::flat::{Piece, same};
use super::forecast;
use super::pass::Pass;
use super::recompute;
use super::seen::Seen;
use super::sharded::Identity;
use super::sharding::Sharding;
use super::watch;
use crate::unwind::or_raise;
use burn::module::Module;
use burn::tensor::{Device, Tensor};
use std::cell::RefCell;
use std::sync::Arc;

/// Runs a module's forward as one unit: its parameters are gathered together before and let go
/// after.
///
/// Write it in a model where the forward of a block is called, and once around the whole forward,
/// for what no block claims and so that the next block can be gathered ahead. On a module that is
/// not sharded it only calls `f`.
///
/// Under a [`Precision`](crate::Precision) policy float inputs are cast to the type of the
/// parameters, and what the outermost call returns to the output type.
///
/// `f` has to be repeatable, for [`Strategy::recompute`](crate::Strategy::recompute) runs it again
/// in backward: everything that takes gradients comes through `inputs`, and random numbers come out
/// the same again.
///
/// ```
/// use burn::{nn::LinearConfig, tensor::{Device, Tensor}};
/// use burn_dist::unit;
///
/// let device = Device::flex();
/// let layer = LinearConfig::new(4, 2).init(&device);
/// let y = unit(&layer, Tensor::<2>::ones([3, 4], &device), |layer, x| layer.forward(x));
/// assert_eq!(y.dims(), [3, 2]);
/// ```
///
/// # Panics
/// Inside a sharded model, if a collective fails. [`World::run`](crate::World::run), a backward
/// pass and the launchers turn that into an `Err`.
///
/// # Source
/// PyTorch: `fully_shard(block)`.
pub fn unit<M, I, O, F>(module: &M, inputs: I, f: F) -> O
where
    M: Module + 'static,
    I: Activations,
    O: Activations,
    F: Fn(&M, I) -> O + Send + 'static,
{
    let mut scope = Scope::open(module);
    let inputs = scope.to_computed(inputs);
    let outputs = match scope.is_recomputed() {
        true => recompute::forward(&mut scope, module, inputs, f),
        false => {
            let inputs = scope.enter(inputs);
            f(module, inputs)
        }
    };
    watch::note(|| scope.name(), scope.to_returned(outputs))
}

/// A unit whose closure is running.
struct Open {
    pass: Arc<Pass>,
    token: Tensor<1>,
}

thread_local! {
    static OPEN: RefCell<Vec<Open>> = const { RefCell::new(Vec::new()) };
}

/// One `unit` call. It closes what it opened, also when the closure unwinds.
pub(super) struct Scope {
    sharding: Option<Arc<Sharding>>,
    /// The passes of this call: none if the module is no unit.
    passes: Vec<Arc<Pass>>,
    /// How many of them are open.
    opened: usize,
    outermost: bool,
}

impl Scope {
    /// Starts to gather the unit that `module` is, if it is one.
    fn open<M: Module>(module: &M) -> Self {
        let seen = or_raise(Seen::look(module));
        let mut scope = Self {
            sharding: seen.sharding.clone(),
            passes: Vec::new(),
            opened: 0,
            outermost: false,
        };
        let Some(sharding) = &seen.sharding else {
            return scope;
        };
        let again = recompute::is_running();
        scope.outermost = !again && forecast::begin(sharding, &seen);
        for (unit, pieces) in seen.own() {
            if is_open(sharding, unit, &pieces) {
                continue;
            }
            let coming = forecast::with(|f| f.arrive(sharding, unit, &pieces)).flatten();
            let pass = Pass::new(sharding.clone(), unit, pieces, coming, seen.has_tape);
            let pass = Arc::new(pass);
            match again {
                true => pass.run_again(),
                false => pass.start(),
            }
            scope.passes.push(pass);
        }
        forecast::with(|f| f.start_next());
        scope
    }

    /// A further run of a call's passes.
    pub(super) fn of(passes: &[Arc<Pass>]) -> Self {
        Self {
            sharding: passes.first().map(|pass| pass.sharding.clone()),
            passes: passes.to_vec(),
            opened: 0,
            outermost: false,
        }
    }

    pub(super) fn passes(&self) -> &[Arc<Pass>] {
        &self.passes
    }

    /// Where the model computes; there is a unit.
    pub(super) fn device(&self) -> Device {
        let sharding = self.sharding.as_ref();
        sharding.map_or_else(Device::flex, |sharding| sharding.world.device())
    }

    /// What to call this call's unit in messages.
    pub(super) fn name(&self) -> String {
        let name = |pass: &Arc<Pass>| pass.sharding.unit(pass.unit).layout.name.to_string();
        match self.passes.is_empty() {
            true => "of no parameters of its own".into(),
            false => self.passes.iter().map(name).collect::<Vec<_>>().join(", "),
        }
    }

    /// Parameters read from here on are those of this unit, ordered after `inputs`.
    pub(super) fn enter<I: Activations>(&mut self, mut inputs: I) -> I {
        for pass in &self.passes {
            let token;
            (inputs, token) = Tokens::collect(pass, inputs);
            if pass.returns() {
                forecast::with(|f| f.followed_by(pass));
            }
            let pass = pass.clone();
            OPEN.with_borrow_mut(|open| open.push(Open { pass, token }));
            self.opened += 1;
        }
        inputs
    }

    /// Parameters read from here on are no longer this unit's.
    pub(super) fn leave(&mut self) {
        for _ in 0..std::mem::take(&mut self.opened) {
            if let Some(open) = OPEN.with_borrow_mut(Vec::pop) {
                open.pass.close();
            }
        }
    }

    /// Whether this call keeps only its inputs for backward, if there is one.
    fn is_recomputed(&self) -> bool {
        let asked = self.sharding.as_ref().is_some_and(|s| s.strategy.recompute);
        let mut passes = self.passes.iter();
        let root = passes.any(|pass| pass.sharding.unit(pass.unit).is_root());
        asked && !self.passes.is_empty() && !root && !recompute::is_running()
    }

    /// Inputs in the type of the parameters.
    fn to_computed<I: Activations>(&self, inputs: I) -> I {
        let precision = self.sharding.as_ref().map(|s| s.strategy.precision);
        match precision.and_then(|p| p.param_dtype) {
            Some(dtype) => inputs.map(&mut Cast(dtype)),
            None => inputs,
        }
    }

    /// Outputs in the type that the model returns, where this is the outermost call.
    fn to_returned<O: Activations>(&self, outputs: O) -> O {
        let precision = self.sharding.as_ref().map(|s| s.strategy.precision);
        match precision.and_then(|p| p.output_dtype) {
            Some(dtype) if self.outermost => outputs.map(&mut Cast(dtype)),
            _ => outputs,
        }
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        self.leave();
        if self.outermost {
            forecast::end();
        }
    }
}

/// Whether a pass of this unit over these very pieces is open; a clone's may be others.
fn is_open(sharding: &Arc<Sharding>, unit: usize, pieces: &[Piece]) -> bool {
    let is_same = |o: &Open| {
        o.pass.unit == unit
            && Arc::ptr_eq(&o.pass.sharding, sharding)
            && same(&o.pass.pieces, pieces)
    };
    OPEN.with_borrow(|open| open.iter().any(is_same))
}

/// Whether any unit of this model is open.
pub(super) fn is_inside(sharding: &Arc<Sharding>) -> bool {
    OPEN.with_borrow(|open| open.iter().any(|o| Arc::ptr_eq(&o.pass.sharding, sharding)))
}

/// The open pass that has this parameter, stored as `piece`, and its token.
pub(super) fn open_pass(identity: &Identity, piece: &Piece) -> Option<(Arc<Pass>, Tensor<1>)> {
    OPEN.with_borrow(|open| {
        // A clone of the model, such as a moving average, may store something else.
        let same = |o: &&Open| {
            o.pass.unit == identity.unit
                && Arc::ptr_eq(&o.pass.sharding, &identity.sharding)
                && o.pass.pieces[identity.slot].is(piece)
        };
        let found = open.iter().rev().find(same);
        found.map(|o| (o.pass.clone(), o.token.clone()))
    })
}
