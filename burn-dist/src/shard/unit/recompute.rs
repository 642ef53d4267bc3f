//! Running a unit's forward again in backward, instead of keeping what it computed.
//!
//! The first forward runs on untracked copies of inputs and parameters, so nothing of it is on the
//! tape. In its place stand two operations of ours:
//!
//! ```text
//! inputs --- token, one per input --- observe, one per output --- the rest of the model
//! ```
//!
//! Backward comes to the outputs first, which note their gradients; then to the last token, which
//! runs the forward again, this time with a tape of its own, and that tape's backward at once; and
//! each token hands on the gradient of its input. Burn holds the lock of the outer tape meanwhile,
//! so the inner one must not touch it: it starts from fresh leaves only.

use super::activations::{Activations, IsTracked, MapActivations, Untracked};
use super::pass::Pass;
use super::scope::{Recomputing, Scope};
use crate::draws::{self, Draws};
use crate::error::{Error, Result};
use crate::shard::memory::{Primitive, Shard, untracked};
use crate::shard::model::PostBackward;
use crate::shard::tape::{self, GradientHook, TokenGradient, TokenHook};
use crate::unwind::{or_raise, raise};
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Device, Gradients, Tensor};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Runs `f` without a tape, and puts on the tape what runs it again; just runs it if no backward
/// can come.
pub(super) fn forward<M, I, O, F>(scope: &mut Scope, module: &M, inputs: I, f: F) -> O
where
    M: Module + 'static,
    I: Activations,
    O: Activations,
    F: Fn(&M, I) -> O + Send + 'static,
{
    let recomputed = Arc::new(Recomputed::default());
    let (inputs, tracked, token) = tokens(module, inputs, &recomputed, &scope.device());
    if !tape::is_tracked(&token) {
        let inputs = scope.enter(inputs);
        return f(module, inputs);
    }
    let free = inputs.map(&mut Untracked);
    // What stands for this unit on the tape is not its passes' tokens, but they do come back.
    scope.passes().iter().for_each(|pass| pass.tracked());
    let entered = scope.enter(free.clone());
    let mut detach = Detach::default();
    let module = module.clone().map(&mut detach);
    let draws = draws::here();
    let outputs = f(&module, entered);
    scope.post_forward();
    let (outputs, is_captured) = IsTracked::ask(outputs);
    if is_captured {
        raise(captured(scope.name()));
    }
    let (outputs, sum) = Checksum::of(outputs);
    let unit = RecomputedUnit {
        passes: scope.passes().to_vec(),
        trained: detach.trained,
        tracked,
        sum,
        draws,
    };
    recomputed.prepare(move |seeds| unit.run(module, free, &f, seeds));
    outputs.map(&mut Outputs {
        recomputed,
        token,
        count: 0,
    })
}

/// InputTokens the inputs that take gradients, or else a parameter that does, into a token. Also says
/// of each input whether it takes gradients.
fn tokens<M: Module, I: Activations>(
    module: &M,
    inputs: I,
    recomputed: &Arc<Recomputed>,
    device: &Device,
) -> (I, Vec<bool>, Tensor<1>) {
    let mut tokens = InputTokens {
        recomputed: recomputed.clone(),
        token: untracked(device),
        tracked: Vec::new(),
    };
    let inputs = inputs.map(&mut tokens);
    if !tokens.tracked.contains(&true) {
        module.visit(&mut tokens);
    }
    (inputs, tokens.tracked, tokens.token)
}

struct InputTokens {
    recomputed: Arc<Recomputed>,
    token: Tensor<1>,
    tracked: Vec<bool>,
}

impl InputTokens {
    fn add<const D: usize>(&mut self, x: Tensor<D>, input: Option<usize>) {
        let earlier = self.token.clone();
        let input = RecomputedInput {
            recomputed: self.recomputed.clone(),
            input,
        };
        self.token = tape::token(x, earlier, Arc::new(input));
    }
}

impl MapActivations for InputTokens {
    fn map<const D: usize>(&mut self, x: Tensor<D>) -> Tensor<D> {
        let tracked = tape::is_tracked(&x);
        if tracked {
            self.add(x.clone(), Some(self.tracked.len()));
        }
        self.tracked.push(tracked);
        x
    }
}

/// The first parameter that takes gradients. It gets none from the tape: passes collect them.
impl ModuleVisitor for InputTokens {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !tape::is_tracked(&self.token) && param.is_require_grad() {
            self.add(param.base(), None);
        }
    }
}

/// Parameters that take no gradients, and which of them did.
///
/// What waits on the tape must not hold a leaf of the tape, or both would live for ever.
#[derive(Default)]
struct Detach {
    trained: Vec<bool>,
}

impl ModuleMapper for Detach {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        self.trained.push(param.is_require_grad());
        param.map(|x| x.detach().set_require_grad(false))
    }
}

/// Parameters as fresh leaves, which take gradients as the originals did.
struct Attach(std::vec::IntoIter<bool>);

impl ModuleMapper for Attach {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let trains = self.0.next() == Some(true);
        param.map(|x| x.detach().set_require_grad(trains))
    }
}

/// Where a leaf's gradient is found.
type Handle = Box<dyn Fn(&Gradients) -> Option<Primitive>>;

/// Inputs as fresh leaves that take gradients where the originals did.
struct Leaves<'a> {
    tracked: &'a [bool],
    handles: Vec<Option<Handle>>,
}

impl<'a> Leaves<'a> {
    fn tracked(tracked: &'a [bool]) -> Self {
        Self {
            tracked,
            handles: Vec::new(),
        }
    }
}

impl MapActivations for Leaves<'_> {
    fn map<const D: usize>(&mut self, x: Tensor<D>) -> Tensor<D> {
        let tracked = self.tracked.get(self.handles.len()) == Some(&true);
        let x = x.detach().set_require_grad(tracked);
        let leaf = x.clone();
        self.handles.push(tracked.then(|| -> Handle {
            Box::new(move |gradients| leaf.grad(gradients).map(|g| or_raise(Primitive::of(g))))
        }));
        x
    }
}

/// Puts each output on the tape behind the token.
struct Outputs {
    recomputed: Arc<Recomputed>,
    token: Tensor<1>,
    count: usize,
}

impl MapActivations for Outputs {
    fn map<const D: usize>(&mut self, x: Tensor<D>) -> Tensor<D> {
        let output = RecomputedOutput {
            recomputed: self.recomputed.clone(),
            index: self.count,
        };
        self.count += 1;
        tape::observe(x, self.token.clone(), Arc::new(output))
    }
}

/// Gives each output of the inner tape the gradient that its twin on the outer tape has.
struct Seeds {
    gradients: std::vec::IntoIter<Option<Primitive>>,
    token: Tensor<1>,
}

impl MapActivations for Seeds {
    fn map<const D: usize>(&mut self, x: Tensor<D>) -> Tensor<D> {
        if let Some(gradient) = self.gradients.next().flatten() {
            let earlier = self.token.clone();
            let seed = Seed(Mutex::new(Some(gradient)));
            self.token = tape::token(x.clone(), earlier, Arc::new(seed));
        }
        x
    }
}

/// A checksum over the bits of all floats on the CPU.
///
/// Not of those on a GPU: they would have to be read each time, and a kernel that adds in another
/// order on its second run is right all the same.
#[derive(Default)]
struct Checksum(crc32fast::Hasher);

impl Checksum {
    fn of<A: Activations>(activations: A) -> (A, u32) {
        let mut sum = Self::default();
        let activations = activations.map(&mut sum);
        (activations, sum.0.finalize())
    }
}

impl MapActivations for Checksum {
    fn map<const D: usize>(&mut self, x: Tensor<D>) -> Tensor<D> {
        if let Some(bytes) = or_raise(Shard::of(x.clone())).host_bytes() {
            self.0.update(bytes);
        }
        x
    }
}

/// What is known of a call when it is run again.
struct RecomputedUnit {
    passes: Vec<Arc<Pass>>,
    /// Which parameters take gradients.
    trained: Vec<bool>,
    /// Which inputs take gradients.
    tracked: Vec<bool>,
    /// Over the outputs of the first run.
    sum: u32,
    /// Where its layers drew.
    draws: Option<Draws>,
}

impl RecomputedUnit {
    /// Runs forward and backward, and returns the gradients of the inputs.
    fn run<M, I, O, F>(self, module: M, inputs: I, f: &F, seeds: SlotGradients) -> SlotGradients
    where
        M: Module,
        I: Activations,
        O: Activations,
        F: Fn(&M, I) -> O,
    {
        let _recomputing = Recomputing::start();
        let _draws = draws::resume(self.draws);
        self.passes
            .iter()
            .for_each(|pass| pass.unshard_to_recompute());
        // Running state of its own: what a batch norm noted in the first run would be noted twice.
        let module = module.valid().train();
        let module = module.map(&mut Attach(self.trained.into_iter()));
        let mut leaves = Leaves::tracked(&self.tracked);
        let inputs = inputs.map(&mut leaves);
        let mut scope = Scope::of(&self.passes);
        let inputs = scope.enter(inputs);
        let (outputs, sum) = Checksum::of(f(&module, inputs));
        scope.post_forward();
        if sum != self.sum {
            raise(changed(scope.name()));
        }
        let mut seeds = Seeds {
            gradients: seeds.into_iter(),
            token: untracked(&scope.device()),
        };
        drop(outputs.map(&mut seeds));
        let found = if tape::is_tracked(&seeds.token) {
            let gradients = seeds.token.backward();
            let of = |handle: Option<Handle>| handle.and_then(|h| h(&gradients));
            leaves.handles.into_iter().map(of).collect()
        } else {
            Vec::new()
        };
        // Those whose inputs take no gradients have no token that fires.
        let passes = self.passes.iter();
        passes.for_each(|pass| or_raise(pass.post_backward()));
        found
    }
}

fn captured(unit: String) -> Error {
    Error::model(
        unit,
        "is to be recomputed, but its closure captured a tensor that takes gradients",
        "pass that tensor to `unit` among the inputs",
    )
}

fn changed(unit: String) -> Error {
    Error::model(
        unit,
        "computed something else when it was run again for backward",
        "draw random numbers that come out the same again: burn_dist::nn::Dropout in the place of Burn's Dropout, \
         burn_dist::Noise for numbers of your own; or do without Strategy::recompute",
    )
}

/// Gradients by number, of outputs or of inputs.
type SlotGradients = Vec<Option<Primitive>>;
type Run = dyn FnOnce(SlotGradients) -> SlotGradients + Send;

/// A unit's forward that is not on the tape, and the gradients on their way through it.
#[derive(Default)]
struct Recomputed(Mutex<State>);

#[derive(Default)]
struct State {
    run: Option<Box<Run>>,
    outputs: SlotGradients,
    inputs: SlotGradients,
}

impl Recomputed {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn prepare(&self, run: impl FnOnce(SlotGradients) -> SlotGradients + Send + 'static) {
        self.state().run = Some(Box::new(run));
    }
}

impl fmt::Debug for Recomputed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recomputed")
    }
}

/// An input on the outer tape, or a parameter that stands for one.
#[derive(Debug)]
struct RecomputedInput {
    recomputed: Arc<Recomputed>,
    input: Option<usize>,
}

impl TokenHook for RecomputedInput {
    /// The gradient of the input, after the unit has run again.
    fn backward(&self) -> Result<TokenGradient> {
        let run = {
            let mut state = self.recomputed.state();
            let run = state.run.take();
            run.map(|run| (run, std::mem::take(&mut state.outputs)))
        };
        if let Some((run, outputs)) = run {
            // Not under the lock: it may unwind, or take long.
            let inputs = run(outputs);
            self.recomputed.state().inputs = inputs;
        }
        let Some(input) = self.input else {
            return Ok(TokenGradient::Nothing);
        };
        let mut state = self.recomputed.state();
        let gradient = state.inputs.get_mut(input).and_then(Option::take);
        // What computed an unused input expects a gradient all the same.
        Ok(gradient.map_or(TokenGradient::Zeros, TokenGradient::Is))
    }
}

/// An output on the outer tape.
#[derive(Debug)]
struct RecomputedOutput {
    recomputed: Arc<Recomputed>,
    index: usize,
}

impl GradientHook for RecomputedOutput {
    fn gradient(&self, gradient: Primitive) -> Result<()> {
        let mut state = self.recomputed.state();
        if state.outputs.len() <= self.index {
            state.outputs.resize(self.index + 1, None);
        }
        state.outputs[self.index] = Some(gradient);
        Ok(())
    }
}

/// A gradient of the outer tape, for an output of the inner one.
#[derive(Debug)]
struct Seed(Mutex<Option<Primitive>>);

impl TokenHook for Seed {
    fn backward(&self) -> Result<TokenGradient> {
        let mut seed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(seed
            .take()
            .map_or(TokenGradient::Nothing, TokenGradient::Is))
    }
}
