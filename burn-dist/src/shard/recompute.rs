//! Running a unit's forward again in backward, instead of keeping what it computed.
//!
//! The first forward runs on untracked copies of inputs and parameters, so nothing of it is on the
//! tape. In its place stand three operations of ours:
//!
//! ```text
//! inputs --- join, one per input --- (token) --- output, one per output --- the rest of the model
//! ```
//!
//! Backward comes to the outputs first, which note their gradients; then to the last join, which
//! runs the forward again, this time with a tape of its own, and that tape's backward at once; and
//! each join hands on the gradient of its input. Burn holds the lock of the outer tape meanwhile,
//! so the inner one must not touch it: it starts from fresh leaves only.

use super::activations::{Activations, IsTracked, MapActivations};
use super::flat::Piece;
use super::ops;
use super::pass::Pass;
use super::primitive::{Primitive, untracked};
use super::scope::Scope;
use crate::error::Error;
use crate::unwind::{or_raise, raise};
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Device, Gradients, Tensor};
use std::cell::Cell;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

thread_local! {
    static RUNNING: Cell<bool> = const { Cell::new(false) };
}

/// Whether a forward is running again in this thread.
pub(super) fn is_running() -> bool {
    RUNNING.get()
}

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
    let (inputs, tracked, token) = join(module, inputs, &recomputed, &scope.device());
    if !ops::is_tracked(&token) {
        let inputs = scope.enter(inputs);
        return f(module, inputs);
    }
    let free = inputs.map(&mut Leaves::free());
    // What stands for this unit on the tape is not its passes' tokens, but they do come back.
    scope.passes().iter().for_each(|pass| pass.track());
    let entered = scope.enter(free.clone());
    let mut detach = Detach::default();
    let module = module.clone().map(&mut detach);
    let outputs = f(&module, entered);
    scope.leave();
    let (outputs, is_captured) = IsTracked::ask(outputs);
    if is_captured {
        raise(captured(scope.name()));
    }
    let (outputs, sum) = Checksum::of(outputs);
    let unit = Unit {
        passes: scope.passes().to_vec(),
        trained: detach.trained,
        tracked,
        sum,
    };
    recomputed.prepare(move |seeds| unit.run(module, free, &f, seeds));
    outputs.map(&mut Outputs {
        recomputed,
        token,
        count: 0,
    })
}

/// Joins the inputs that take gradients, or else a parameter that does, into a token. Also says
/// of each input whether it takes gradients.
fn join<M: Module, I: Activations>(
    module: &M,
    inputs: I,
    recomputed: &Arc<Recomputed>,
    device: &Device,
) -> (I, Vec<bool>, Tensor<1>) {
    let mut joins = Joins {
        recomputed: recomputed.clone(),
        token: untracked(device),
        tracked: Vec::new(),
    };
    let inputs = inputs.map(&mut joins);
    if !joins.tracked.contains(&true) {
        module.visit(&mut joins);
    }
    (inputs, joins.tracked, joins.token)
}

struct Joins {
    recomputed: Arc<Recomputed>,
    token: Tensor<1>,
    tracked: Vec<bool>,
}

impl Joins {
    fn add<const D: usize>(&mut self, x: Tensor<D>, input: Option<usize>) {
        let earlier = self.token.clone();
        let joined = Joined {
            recomputed: self.recomputed.clone(),
            input,
        };
        self.token = ops::join(x, earlier, joined);
    }
}

impl MapActivations for Joins {
    fn map<const D: usize>(&mut self, x: Tensor<D>) -> Tensor<D> {
        let tracked = ops::is_tracked(&x);
        if tracked {
            self.add(x.clone(), Some(self.tracked.len()));
        }
        self.tracked.push(tracked);
        x
    }
}

/// The first parameter that takes gradients. It gets none from the tape: passes collect them.
impl ModuleVisitor for Joins {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !ops::is_tracked(&self.token) && param.is_require_grad() {
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
    /// Leaves of which none takes gradients.
    fn free() -> Self {
        Self::tracked(&[])
    }

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
        let output = Output {
            recomputed: self.recomputed.clone(),
            index: self.count,
        };
        self.count += 1;
        ops::output(x, self.token.clone(), output)
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
            self.token = ops::seed(x.clone(), earlier, gradient);
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
        match or_raise(Piece::of(x.clone())) {
            Piece::Host(piece) => self.0.update(piece.bytes()),
            #[cfg(feature = "cube")]
            Piece::Device(_) => {}
        }
        x
    }
}

/// What is known of a call when it is run again.
struct Unit {
    passes: Vec<Arc<Pass>>,
    /// Which parameters take gradients.
    trained: Vec<bool>,
    /// Which inputs take gradients.
    tracked: Vec<bool>,
    /// Over the outputs of the first run.
    sum: u32,
}

impl Unit {
    /// Runs forward and backward, and returns the gradients of the inputs.
    fn run<M, I, O, F>(self, module: M, inputs: I, f: &F, seeds: Seeded) -> Seeded
    where
        M: Module,
        I: Activations,
        O: Activations,
        F: Fn(&M, I) -> O,
    {
        let _running = Running::start();
        self.passes.iter().for_each(|pass| pass.run_again());
        let module = module.map(&mut Attach(self.trained.into_iter()));
        let mut leaves = Leaves::tracked(&self.tracked);
        let inputs = inputs.map(&mut leaves);
        let mut scope = Scope::of(&self.passes);
        let inputs = scope.enter(inputs);
        let (outputs, sum) = Checksum::of(f(&module, inputs));
        scope.leave();
        if sum != self.sum {
            raise(changed(scope.name()));
        }
        let mut seeds = Seeds {
            gradients: seeds.into_iter(),
            token: untracked(&scope.device()),
        };
        drop(outputs.map(&mut seeds));
        let found = match ops::is_tracked(&seeds.token) {
            true => {
                let gradients = seeds.token.backward();
                let of = |handle: Option<Handle>| handle.and_then(|h| h(&gradients));
                leaves.handles.into_iter().map(of).collect()
            }
            false => Vec::new(),
        };
        // Those whose inputs take no gradients have no token that fires.
        let passes = self.passes.iter();
        passes.for_each(|pass| or_raise(pass.reduce()));
        found
    }
}

/// Marks the thread while a forward runs again.
struct Running;

impl Running {
    fn start() -> Self {
        RUNNING.set(true);
        Self
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        RUNNING.set(false);
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
        "draw random numbers from a stream that replays (Burn's Dropout does not), or do without \
         Strategy::recompute",
    )
}

/// Gradients by number, of outputs or of inputs.
type Seeded = Vec<Option<Primitive>>;
type Run = dyn FnOnce(Seeded) -> Seeded + Send;

/// A unit's forward that is not on the tape, and the gradients on their way through it.
#[derive(Default)]
pub(super) struct Recomputed(Mutex<State>);

#[derive(Default)]
struct State {
    run: Option<Box<Run>>,
    outputs: Seeded,
    inputs: Seeded,
}

impl Recomputed {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn prepare(&self, run: impl FnOnce(Seeded) -> Seeded + Send + 'static) {
        self.state().run = Some(Box::new(run));
    }
}

impl fmt::Debug for Recomputed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recomputed")
    }
}

/// An input on the outer tape, or a parameter that stands for one.
#[derive(Debug, Clone)]
pub(crate) struct Joined {
    recomputed: Arc<Recomputed>,
    input: Option<usize>,
}

impl Joined {
    /// The gradient of the input, after the unit has run again.
    pub(super) fn gradient(&self) -> Option<Primitive> {
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
        let mut state = self.recomputed.state();
        state.inputs.get_mut(self.input?)?.take()
    }

    /// Whether it stands for an input.
    pub(super) fn is_input(&self) -> bool {
        self.input.is_some()
    }
}

/// An output on the outer tape.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    recomputed: Arc<Recomputed>,
    index: usize,
}

impl Output {
    /// Takes the gradient of the output.
    pub(super) fn seed(&self, gradient: Primitive) {
        let mut state = self.recomputed.state();
        if state.outputs.len() <= self.index {
            state.outputs.resize(self.index + 1, None);
        }
        state.outputs[self.index] = Some(gradient);
    }
}
