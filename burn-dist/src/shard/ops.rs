//! The operations on the autodiff tape: the view of a parameter, the token of a pass, and what stands
//! for a unit that is recomputed.

use super::pass::Pass;
use super::primitive::{Held, Primitive};
use super::recompute::{Joined, Output};
use super::source::Source;
use super::watch::Probe;
use crate::error::Result;
use crate::unwind::or_raise;
#[cfg(feature = "cube")]
use burn::backend::Cube;
use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::retro_forward::RetroForward;
use burn::backend::autodiff::checkpoint::state::BackwardStates;
use burn::backend::autodiff::checkpoint::strategy::{BalancedCheckpointing, CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{DType, Shape, Tensor};
use std::marker::PhantomData;
use std::sync::Arc;

/// One parameter, and where its full value comes from.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub(crate) source: Source,
    pub(crate) slot: usize,
}

/// A pass, as an argument of an operation.
#[derive(Debug, Clone)]
pub(crate) struct Passing(Arc<Pass>);

/// The full parameter whose stored piece is `base`.
///
/// `token` only orders the backward; its value is not read.
pub(crate) fn view<const D: usize>(base: Tensor<D>, token: Tensor<1>, view: View) -> Tensor<D> {
    let (base, token) = (base.into_dispatch(), token.into_dispatch());
    Tensor::from_dispatch(<Dispatch as ShardOps>::shard_view(base, token, view))
}

/// A one-element tensor that comes after `x` and `earlier` on the tape.
pub(crate) fn token<const D: usize>(
    x: Tensor<D>,
    earlier: Tensor<1>,
    pass: Arc<Pass>,
) -> Tensor<1> {
    let (x, earlier) = (x.into_dispatch(), earlier.into_dispatch());
    Tensor::from_dispatch(<Dispatch as ShardOps>::shard_token(
        x,
        earlier,
        Passing(pass),
    ))
}

/// A token that comes after an input `x` of a recomputed unit and after `earlier`.
pub(super) fn join<const D: usize>(x: Tensor<D>, earlier: Tensor<1>, joined: Joined) -> Tensor<1> {
    let (x, earlier) = (x.into_dispatch(), earlier.into_dispatch());
    Tensor::from_dispatch(<Dispatch as ShardOps>::shard_join(x, earlier, joined))
}

/// `x`, on the tape behind the last join of the unit that computed it.
pub(super) fn output<const D: usize>(x: Tensor<D>, token: Tensor<1>, output: Output) -> Tensor<D> {
    let (x, token) = (x.into_dispatch(), token.into_dispatch());
    Tensor::from_dispatch(<Dispatch as ShardOps>::shard_output(x, token, output))
}

/// A token whose backward gives `x` this gradient.
pub(super) fn seed<const D: usize>(
    x: Tensor<D>,
    earlier: Tensor<1>,
    gradient: Primitive,
) -> Tensor<1> {
    let (x, earlier) = (x.into_dispatch(), earlier.into_dispatch());
    let gradient = Seed(gradient);
    Tensor::from_dispatch(<Dispatch as ShardOps>::shard_seed(x, earlier, gradient))
}

/// `x` again; its gradient is noted when it comes.
pub(super) fn probe<const D: usize>(x: Tensor<D>, probe: Probe) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as ShardOps>::shard_probe(
        x.into_dispatch(),
        probe,
    ))
}

/// Whether a gradient would flow through `x`.
pub(crate) fn is_tracked<const D: usize>(x: &Tensor<D>) -> bool {
    macro_rules! ask {
        ($($backend:ty),*) => {
            $(if let Ok(x) = x.clone().try_into_primitive::<$backend>() {
                return x.is_tracked();
            })*
        };
    }
    ask!(Autodiff<Flex>, Autodiff<Flex, BalancedCheckpointing>);
    #[cfg(feature = "cube")]
    ask!(Autodiff<Cube>, Autodiff<Cube, BalancedCheckpointing>);
    false
}

#[backend_extension(Flex, Cube: cfg(feature = "cube"), Autodiff)]
pub(crate) trait ShardOps: Backend {
    fn shard_view(
        base: FloatTensor<Self>,
        token: FloatTensor<Self>,
        view: View,
    ) -> FloatTensor<Self>;
    fn shard_token(
        x: FloatTensor<Self>,
        earlier: FloatTensor<Self>,
        pass: Passing,
    ) -> FloatTensor<Self>;
    fn shard_join(
        x: FloatTensor<Self>,
        earlier: FloatTensor<Self>,
        joined: Joined,
    ) -> FloatTensor<Self>;
    fn shard_output(
        x: FloatTensor<Self>,
        token: FloatTensor<Self>,
        output: Output,
    ) -> FloatTensor<Self>;
    fn shard_seed(
        x: FloatTensor<Self>,
        earlier: FloatTensor<Self>,
        gradient: Seed,
    ) -> FloatTensor<Self>;
    fn shard_probe(x: FloatTensor<Self>, probe: Probe) -> FloatTensor<Self>;
}

/// What the operations come to where no tape is: only a view does anything.
macro_rules! without_a_tape {
    ($backend:ty) => {
        impl ShardOps for $backend {
            fn shard_view(
                base: FloatTensor<Self>,
                _: FloatTensor<Self>,
                view: View,
            ) -> FloatTensor<Self> {
                Self::give(or_raise(view.source.view(view.slot, Self::hold(base))))
            }

            fn shard_token(
                x: FloatTensor<Self>,
                _: FloatTensor<Self>,
                _: Passing,
            ) -> FloatTensor<Self> {
                Self::nothing(&x)
            }

            fn shard_join(
                x: FloatTensor<Self>,
                _: FloatTensor<Self>,
                _: Joined,
            ) -> FloatTensor<Self> {
                Self::nothing(&x)
            }

            fn shard_output(
                x: FloatTensor<Self>,
                _: FloatTensor<Self>,
                _: Output,
            ) -> FloatTensor<Self> {
                x
            }

            fn shard_seed(
                x: FloatTensor<Self>,
                _: FloatTensor<Self>,
                _: Seed,
            ) -> FloatTensor<Self> {
                Self::nothing(&x)
            }

            fn shard_probe(x: FloatTensor<Self>, _: Probe) -> FloatTensor<Self> {
                x
            }
        }
    };
}

without_a_tape!(Flex);
#[cfg(feature = "cube")]
without_a_tape!(Cube);

impl<B: Held, C: CheckpointStrategy> ShardOps for Autodiff<B, C> {
    fn shard_view(
        base: FloatTensor<Self>,
        token: FloatTensor<Self>,
        view: View,
    ) -> FloatTensor<Self> {
        let nodes = [base.node(), token.node()];
        let (tracked, ordered) = (base.is_tracked(), token.is_tracked());
        let held = B::hold(base.primitive().clone());
        let again = Again {
            view: view.clone(),
            base: held.clone(),
            backend: PhantomData::<B>,
        };
        // Whatever strategy the device has: a memory-bound node of the balanced one is what makes
        // consumers put the way to gather on the tape instead of the weight. Its parents must be
        // the tracked ones and no others, or Burn stores the weight after all.
        let prepared = Collect.prepare::<BalancedCheckpointing>(nodes);
        let prepared = match (view.source.keeps(), tracked, ordered) {
            (false, true, true) => prepared
                .memory_bound()
                .retro_forward(again)
                .parents([&base, &token]),
            (false, true, false) => prepared
                .memory_bound()
                .retro_forward(again)
                .parents([&base]),
            (false, false, true) => prepared
                .memory_bound()
                .retro_forward(again)
                .parents([&token]),
            _ => prepared.compute_bound(),
        };
        let leaf = tracked.then(|| base.id());
        let full = B::give(or_raise(view.source.view(view.slot, held)));
        match prepared.stateful() {
            OpsKind::Tracked(p) => p.finish(Collected { view, leaf }, full),
            OpsKind::UnTracked(p) => p.finish(full),
        }
    }

    fn shard_token(
        x: FloatTensor<Self>,
        earlier: FloatTensor<Self>,
        pass: Passing,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), earlier.node()];
        match Fire.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(p) => {
                pass.0.track();
                p.finish(pass, B::nothing(x.primitive()))
            }
            OpsKind::UnTracked(p) => p.finish(B::nothing(x.primitive())),
        }
    }

    fn shard_join(
        x: FloatTensor<Self>,
        earlier: FloatTensor<Self>,
        joined: Joined,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), earlier.node()];
        match Join.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(p) => {
                let state = (joined, x.shape(), x.dtype(), x.device());
                p.finish(state, B::nothing(x.primitive()))
            }
            OpsKind::UnTracked(p) => p.finish(B::nothing(x.primitive())),
        }
    }

    fn shard_output(
        x: FloatTensor<Self>,
        token: FloatTensor<Self>,
        output: Output,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), token.node()];
        match Leave.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(p) => p.finish(output, x.into_primitive()),
            OpsKind::UnTracked(p) => p.finish(x.into_primitive()),
        }
    }

    fn shard_seed(
        x: FloatTensor<Self>,
        earlier: FloatTensor<Self>,
        gradient: Seed,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), earlier.node()];
        match Sow.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(p) => p.finish(gradient, B::nothing(x.primitive())),
            OpsKind::UnTracked(p) => p.finish(B::nothing(x.primitive())),
        }
    }

    fn shard_probe(x: FloatTensor<Self>, probe: Probe) -> FloatTensor<Self> {
        let nodes = [x.node()];
        match Pry.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(p) => p.finish(probe, x.into_primitive()),
            OpsKind::UnTracked(p) => p.finish(x.into_primitive()),
        }
    }
}

/// A gradient from outside of a tape.
#[derive(Debug, Clone)]
pub(crate) struct Seed(Primitive);

/// Gathers in backward.
#[derive(Debug)]
struct Again<B> {
    view: View,
    base: Primitive,
    backend: PhantomData<B>,
}

impl<B: Held> RetroForward for Again<B> {
    fn forward(&self, states: &mut BackwardStates, out: NodeId) {
        let View { source, slot } = &self.view;
        let full = or_raise(source.view_again(*slot, self.base.clone()));
        states.save(out, B::give(full));
    }
}

/// Backward of a view: hands the gradient of the full parameter to whoever reduces it.
#[derive(Debug)]
struct Collect;

#[derive(Debug, Clone)]
struct Collected {
    view: View,
    /// The stored piece's node; none if it takes no gradient.
    leaf: Option<NodeId>,
}

impl<B: Held> Backward<B, 2> for Collect {
    type State = Collected;

    fn backward(self, ops: Ops<Collected, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        // A frozen parameter is on the tape only to be gathered again: its gradient ends here.
        if ops.state.leaf.is_some() {
            let View { source, slot } = ops.state.view;
            let collected: Result<()> = source.collect(slot, B::hold(gradient));
            or_raise(collected);
        }
    }
}

/// Backward of a token. All views of the pass have it as a parent, so they have run before.
#[derive(Debug)]
struct Fire;

impl<B: Held> Backward<B, 2> for Fire {
    type State = Passing;

    fn backward(self, ops: Ops<Passing, 2>, _: &mut Gradients, _: &mut Checkpointer) {
        or_raise(ops.state.0.reduce());
    }
}

/// Backward of a join: hands on what the recomputed unit gives its input.
#[derive(Debug)]
struct Join;

impl<B: Held> Backward<B, 2> for Join {
    type State = (Joined, Shape, DType, B::Device);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let (joined, shape, dtype, device) = ops.state;
        let gradient = joined.gradient().map(B::give);
        if let (true, Some(parent)) = (joined.is_input(), &ops.parents[0]) {
            // What computed an unused input expects a gradient all the same.
            let zeros = || B::float_zeros(shape, &device, dtype.into());
            grads.register::<B>(parent.id, gradient.unwrap_or_else(zeros));
        }
    }
}

/// Backward of a recomputed unit's output.
#[derive(Debug)]
struct Leave;

impl<B: Held> Backward<B, 2> for Leave {
    type State = Output;

    fn backward(self, ops: Ops<Output, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        ops.state.seed(B::hold(grads.consume::<B>(&ops.node)));
    }
}

/// Backward of a seed.
#[derive(Debug)]
struct Sow;

impl<B: Held> Backward<B, 2> for Sow {
    type State = Seed;

    fn backward(self, ops: Ops<Seed, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        if let Some(parent) = &ops.parents[0] {
            grads.register::<B>(parent.id, B::give(ops.state.0));
        }
    }
}

/// Backward of a probe.
#[derive(Debug)]
struct Pry;

impl<B: Held> Backward<B, 1> for Pry {
    type State = Probe;

    fn backward(self, ops: Ops<Probe, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        ops.state.note(B::hold(gradient.clone()));
        if let [Some(parent)] = &ops.parents {
            grads.register::<B>(parent.id, gradient);
        }
    }
}
