//! The operation that computes a weight with its low-rank adapters.
//!
//! Plain Burn adds the product of the adapters to the weight on the tape, where the sum, as large as the weight, stays
//! until backward. Here nothing of that size stays: in backward the weight is asked for again, and the sum is made again.

use super::WeightHook;
use crate::shard::memory::{Primitive, StorageBackend};
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
use burn::tensor::Tensor;
use std::marker::PhantomData;
use std::sync::Arc;

/// The full frozen weight whose stored shard is `stored`, plus `scale * a * b`; backward comes to it before it comes to
/// `token`, and gives gradients to `a` and `b` alone.
pub(crate) fn adapted<const D: usize>(
    stored: Tensor<D>,
    token: Tensor<1>,
    [a, b]: [Tensor<2>; 2],
    scale: f64,
    hook: Arc<dyn WeightHook>,
) -> Tensor<D> {
    let (stored, token) = (stored.into_dispatch(), token.into_dispatch());
    let (a, b) = (a.into_dispatch(), b.into_dispatch());
    Tensor::from_dispatch(<Dispatch as AdaptedOps>::tape_adapted(
        stored, token, a, b, scale, hook,
    ))
}

#[backend_extension(Flex, Cube: cfg(feature = "cube"), Autodiff)]
pub(crate) trait AdaptedOps: Backend {
    fn tape_adapted(
        stored: FloatTensor<Self>,
        token: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
        hook: Arc<dyn WeightHook>,
    ) -> FloatTensor<Self>;
}

macro_rules! without_a_tape {
    ($backend:ty) => {
        impl AdaptedOps for $backend {
            fn tape_adapted(
                stored: FloatTensor<Self>,
                _: FloatTensor<Self>,
                a: FloatTensor<Self>,
                b: FloatTensor<Self>,
                scale: f64,
                hook: Arc<dyn WeightHook>,
            ) -> FloatTensor<Self> {
                let weight = or_raise(hook.unshard(Self::into_storage(stored)));
                sum::<Self>(Self::from_storage(weight), a, b, scale)
            }
        }
    };
}

without_a_tape!(Flex);
#[cfg(feature = "cube")]
without_a_tape!(Cube);

/// `weight + scale * a * b`, with the rounding and the type of Burn's own adapters.
fn sum<B: Backend>(
    weight: FloatTensor<B>,
    a: FloatTensor<B>,
    b: FloatTensor<B>,
    scale: f64,
) -> FloatTensor<B> {
    // A rank that is to receive nothing of a model that is being gathered.
    if weight.shape().num_elements() == 0 {
        return weight;
    }
    let product = B::float_mul_scalar(B::float_matmul(a, b), scale.into());
    let weight = if weight.dtype() == product.dtype() {
        weight
    } else {
        B::float_cast(weight, product.dtype().into())
    };
    // Into the product, which nobody else holds; the weight is a view of its unit.
    B::float_add(product, weight)
}

impl<B: StorageBackend, C: CheckpointStrategy> AdaptedOps for Autodiff<B, C> {
    fn tape_adapted(
        stored: FloatTensor<Self>,
        token: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
        hook: Arc<dyn WeightHook>,
    ) -> FloatTensor<Self> {
        let nodes = [stored.node(), token.node(), a.node(), b.node()];
        let again = SumAgain {
            hook: hook.clone(),
            stored: B::into_storage(stored.primitive().clone()),
            a: Factor::of::<B, C>(&a, nodes[2].id()),
            b: Factor::of::<B, C>(&b, nodes[3].id()),
            scale,
            backend: PhantomData::<B>,
        };
        let weight = B::from_storage(or_raise(hook.unshard(again.stored.clone())));
        let full = sum::<B>(weight, a.primitive().clone(), b.primitive().clone(), scale);
        let tracked: Vec<_> = [&token, &a, &b]
            .into_iter()
            .filter(|x| x.is_tracked())
            .collect();
        // As for a weight without adapters: a memory-bound node of the balanced strategy makes consumers put the way to
        // compute it on the tape. Of its parents only those that are tracked are on it.
        let prepared = AdaptedBackward.prepare::<BalancedCheckpointing>(nodes);
        let prepared = if tracked.is_empty() {
            prepared.compute_bound()
        } else {
            prepared
                .memory_bound()
                .retro_forward(again)
                .parents(tracked)
        };
        match prepared.stateful() {
            OpsKind::Tracked(mut p) => {
                // The gradient of each factor takes the other one's value.
                let mut state = |factor: &FloatTensor<Self>, other: &FloatTensor<Self>| {
                    other.is_tracked().then(|| {
                        if factor.is_tracked() {
                            Factor::Tracked(p.checkpoint(factor))
                        } else {
                            let constant = B::into_storage(factor.primitive().clone());
                            Factor::Constant(Box::new(constant))
                        }
                    })
                };
                let state = AdaptedState {
                    a: state(&a, &b),
                    b: state(&b, &a),
                    scale,
                };
                p.finish(state, full)
            }
            OpsKind::UnTracked(p) => p.finish(full),
        }
    }
}

/// Where backward finds the value of a factor.
#[derive(Debug, Clone)]
enum Factor {
    /// On the tape. Its value there may be a view of a gathered unit, which must not live until then.
    Tracked(NodeId),
    /// Here, as it takes no gradients.
    Constant(Box<Primitive>),
}

impl Factor {
    fn of<B: StorageBackend, C: CheckpointStrategy>(
        factor: &FloatTensor<Autodiff<B, C>>,
        node: NodeId,
    ) -> Self {
        if factor.is_tracked() {
            Self::Tracked(node)
        } else {
            let constant = B::into_storage(factor.primitive().clone());
            Self::Constant(Box::new(constant))
        }
    }

    fn value<B: StorageBackend>(
        &self,
        on_tape: impl FnOnce(NodeId) -> FloatTensor<B>,
    ) -> FloatTensor<B> {
        match self {
            Self::Tracked(node) => on_tape(*node),
            Self::Constant(value) => B::from_storage(*value.clone()),
        }
    }
}

/// Computes an adapted weight again in backward.
#[derive(Debug)]
struct SumAgain<B> {
    hook: Arc<dyn WeightHook>,
    stored: Primitive,
    a: Factor,
    b: Factor,
    scale: f64,
    backend: PhantomData<B>,
}

impl<B: StorageBackend> RetroForward for SumAgain<B> {
    fn forward(&self, states: &mut BackwardStates, out: NodeId) {
        let a = self.a.value::<B>(|node| states.get_state(&node));
        let b = self.b.value::<B>(|node| states.get_state(&node));
        let weight = or_raise(self.hook.unshard_again(self.stored.clone()));
        states.save(out, sum::<B>(B::from_storage(weight), a, b, self.scale));
    }
}

/// Gives the adapters their gradients. That of the weight ends here: it is frozen.
#[derive(Debug)]
struct AdaptedBackward;

#[derive(Debug, Clone)]
struct AdaptedState {
    /// The value of `a`, if `b` takes a gradient.
    a: Option<Factor>,
    /// The value of `b`, if `a` takes a gradient.
    b: Option<Factor>,
    scale: f64,
}

impl<B: StorageBackend> Backward<B, 4> for AdaptedBackward {
    type State = AdaptedState;

    fn backward(
        self,
        ops: Ops<Self::State, 4>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let AdaptedState { a, b, scale } = ops.state;
        let gradient = grads.consume::<B>(&ops.node);
        let [_, _, to_a, to_b] = &ops.parents;
        if a.is_none() && b.is_none() {
            return;
        }
        let gradient = B::float_mul_scalar(gradient, scale.into());
        if let (Some(to_a), Some(b)) = (to_a, b) {
            let b = b.value::<B>(|node| checkpointer.retrieve_node_output(node));
            let of_a = B::float_matmul(gradient.clone(), B::float_transpose(b));
            grads.register::<B>(to_a.id, of_a);
        }
        if let (Some(to_b), Some(a)) = (to_b, a) {
            let a = a.value::<B>(|node| checkpointer.retrieve_node_output(node));
            let of_b = B::float_matmul(B::float_transpose(a), gradient);
            grads.register::<B>(to_b.id, of_b);
        }
    }
}
