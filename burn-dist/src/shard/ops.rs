//! The two operations on the autodiff tape: the view of a parameter, and the token of a pass.

use super::pass::Pass;
use super::scope::Source;
use crate::error::Result;
use crate::unwind::or_raise;
use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::retro_forward::RetroForward;
use burn::backend::autodiff::checkpoint::state::BackwardStates;
use burn::backend::autodiff::checkpoint::strategy::{BalancedCheckpointing, CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{Shape, Tensor, TensorData};
use burn_flex::FlexTensor;
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

/// Whether a gradient would flow through `x`.
pub(crate) fn is_tracked(x: &Tensor<1>) -> bool {
    let plain = || x.clone().try_into_primitive::<Autodiff<Flex>>();
    let balanced = || {
        x.clone()
            .try_into_primitive::<Autodiff<Flex, BalancedCheckpointing>>()
    };
    let tracked = plain().map(|x| x.is_tracked());
    tracked
        .or_else(|_| balanced().map(|x| x.is_tracked()))
        .unwrap_or(false)
}

#[backend_extension(Flex, Autodiff)]
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
}

impl ShardOps for Flex {
    fn shard_view(base: FlexTensor, _: FlexTensor, view: View) -> FlexTensor {
        or_raise(view.source.view(view.slot, base))
    }

    fn shard_token(_: FlexTensor, _: FlexTensor, _: Passing) -> FlexTensor {
        FlexTensor::from_data(TensorData::new(vec![0f32], Shape::from(vec![1])))
    }
}

impl<C: CheckpointStrategy> ShardOps for Autodiff<Flex, C> {
    fn shard_view(
        base: FloatTensor<Self>,
        token: FloatTensor<Self>,
        view: View,
    ) -> FloatTensor<Self> {
        let nodes = [base.node(), token.node()];
        let (tracked, ordered) = (base.is_tracked(), token.is_tracked());
        let again = Again {
            view: view.clone(),
            base: base.primitive().clone(),
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
        let full = or_raise(view.source.view(view.slot, base.into_primitive()));
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
        let out = Flex::shard_token(x.into_primitive(), earlier.into_primitive(), pass.clone());
        match Fire.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(p) => {
                pass.0.track();
                p.finish(pass, out)
            }
            OpsKind::UnTracked(p) => p.finish(out),
        }
    }
}

/// Gathers in backward.
#[derive(Debug)]
struct Again {
    view: View,
    base: FlexTensor,
}

impl RetroForward for Again {
    fn forward(&self, states: &mut BackwardStates, out: NodeId) {
        let View { source, slot } = &self.view;
        states.save(out, or_raise(source.view_again(*slot, self.base.clone())));
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

impl Backward<Flex, 2> for Collect {
    type State = Collected;

    fn backward(self, ops: Ops<Collected, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let gradient = grads.consume::<Flex>(&ops.node);
        // A frozen parameter is on the tape only to be gathered again: its gradient ends here.
        if ops.state.leaf.is_some() {
            let View { source, slot } = ops.state.view;
            let collected: Result<()> = source.collect(slot, gradient);
            or_raise(collected);
        }
    }
}

/// Backward of a token. All views of the pass have it as a parent, so they have run before.
#[derive(Debug)]
struct Fire;

impl Backward<Flex, 2> for Fire {
    type State = Passing;

    fn backward(self, ops: Ops<Passing, 2>, _: &mut Gradients, _: &mut Checkpointer) {
        or_raise(ops.state.0.reduce());
    }
}
