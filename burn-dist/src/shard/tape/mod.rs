//! The engine's operations on the autodiff tape. They know nobody above them: each calls back through a
//! trait.
//!
//! - [`weight`] turns a parameter's stored shard into the full parameter. Backward asks its [`WeightHook`]
//!   for the parameter again, and hands it the gradient.
//! - [`adapted`](adapted()) is the same for a frozen parameter with low-rank adapters, which get its gradient.
//! - [`token`] is a tensor of one element, never read, that lies behind other tensors on the tape. Its
//!   [`TokenHook`] is called when backward comes to it, after everything that had the token as a parent.
//! - [`exchange`] hands a tensor to its [`ExchangeHook`], and in backward its gradient.
//! - [`observe`] is the identity; its [`GradientHook`] is shown the gradient.

use crate::error::Result;
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
use burn::tensor::{DType, Shape, Tensor};
use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::Arc;

mod adapted;

pub(crate) use adapted::adapted;

/// Where the full value of one parameter comes from, and where its gradient goes.
pub(crate) trait WeightHook: Debug + Send + Sync {
    /// The full parameter in forward; `stored` is what the parameter stores.
    fn unshard(&self, stored: Primitive) -> Result<Primitive>;

    /// The full parameter again, in backward.
    fn unshard_again(&self, stored: Primitive) -> Result<Primitive>;

    /// Whether the full value lives until backward anyway, so that the tape may hold it.
    fn keeps_unsharded(&self) -> bool;

    /// Takes the gradient of the full parameter.
    fn accumulate(&self, gradient: Primitive) -> Result<()>;
}

/// What happens when backward comes to a token.
pub(crate) trait TokenHook: Debug + Send + Sync {
    /// The token is on a tape, so a backward may come.
    fn tracked(&self) {}

    /// Backward has come to the token; the gradient of the tensor it was made from.
    fn backward(&self) -> Result<TokenGradient>;
}

/// What a token gives the tensor it was made from as its gradient.
#[allow(clippy::large_enum_variant)]
#[derive(Debug)]
pub(crate) enum TokenGradient {
    /// Nothing: the tensor gets its gradient from elsewhere.
    Nothing,
    /// Zeros: what computed the tensor expects a gradient.
    Zeros,
    /// This one.
    Is(Primitive),
}

/// Who gives another tensor for one, in forward and for the gradient in backward.
pub(crate) trait ExchangeHook: Debug + Send + Sync {
    /// What stands in the place of a tensor of this shape.
    fn exchange(&self, mine: Primitive, shape: &[usize]) -> Result<Primitive>;
}

/// Who is shown a gradient that passes.
pub(crate) trait GradientHook: Debug + Send + Sync {
    /// The gradient of the observed tensor.
    fn gradient(&self, gradient: Primitive) -> Result<()>;
}

/// The full parameter whose stored shard is `stored`; backward comes to it before it comes to `token`.
pub(crate) fn weight<const D: usize>(
    stored: Tensor<D>,
    token: Tensor<1>,
    hook: Arc<dyn WeightHook>,
) -> Tensor<D> {
    let (stored, token) = (stored.into_dispatch(), token.into_dispatch());
    Tensor::from_dispatch(<Dispatch as TapeOps>::tape_weight(stored, token, hook))
}

/// A token behind `x` and `earlier`.
pub(crate) fn token<const D: usize>(
    x: Tensor<D>,
    earlier: Tensor<1>,
    hook: Arc<dyn TokenHook>,
) -> Tensor<1> {
    let (x, earlier) = (x.into_dispatch(), earlier.into_dispatch());
    Tensor::from_dispatch(<Dispatch as TapeOps>::tape_token(x, earlier, hook))
}

/// `x`, behind `token`.
pub(crate) fn observe<const D: usize>(
    x: Tensor<D>,
    token: Tensor<1>,
    hook: Arc<dyn GradientHook>,
) -> Tensor<D> {
    let (x, token) = (x.into_dispatch(), token.into_dispatch());
    Tensor::from_dispatch(<Dispatch as TapeOps>::tape_observe(x, token, hook))
}

/// What `hook` gives for `x`; in backward it is asked for the gradient.
#[cfg(feature = "nn")]
pub(crate) fn exchange<const D: usize>(x: Tensor<D>, hook: Arc<dyn ExchangeHook>) -> Tensor<D> {
    let x = x.into_dispatch();
    Tensor::from_dispatch(<Dispatch as TapeOps>::tape_exchange(x, hook))
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
pub(crate) trait TapeOps: Backend {
    fn tape_weight(
        stored: FloatTensor<Self>,
        token: FloatTensor<Self>,
        hook: Arc<dyn WeightHook>,
    ) -> FloatTensor<Self>;
    fn tape_token(
        x: FloatTensor<Self>,
        earlier: FloatTensor<Self>,
        hook: Arc<dyn TokenHook>,
    ) -> FloatTensor<Self>;
    fn tape_observe(
        x: FloatTensor<Self>,
        token: FloatTensor<Self>,
        hook: Arc<dyn GradientHook>,
    ) -> FloatTensor<Self>;
    fn tape_exchange(x: FloatTensor<Self>, hook: Arc<dyn ExchangeHook>) -> FloatTensor<Self>;
}

/// The operations on a backend without a tape: only `tape_weight` does anything.
macro_rules! without_a_tape {
    ($backend:ty) => {
        impl TapeOps for $backend {
            fn tape_weight(
                stored: FloatTensor<Self>,
                _: FloatTensor<Self>,
                hook: Arc<dyn WeightHook>,
            ) -> FloatTensor<Self> {
                Self::from_storage(or_raise(hook.unshard(Self::into_storage(stored))))
            }

            fn tape_token(
                x: FloatTensor<Self>,
                _: FloatTensor<Self>,
                _: Arc<dyn TokenHook>,
            ) -> FloatTensor<Self> {
                Self::unread_element(&x)
            }

            fn tape_observe(
                x: FloatTensor<Self>,
                _: FloatTensor<Self>,
                _: Arc<dyn GradientHook>,
            ) -> FloatTensor<Self> {
                x
            }

            fn tape_exchange(
                x: FloatTensor<Self>,
                hook: Arc<dyn ExchangeHook>,
            ) -> FloatTensor<Self> {
                exchanged::<Self>(x, &*hook)
            }
        }
    };
}

/// What the hook gives for `x`.
fn exchanged<B: StorageBackend>(x: FloatTensor<B>, hook: &dyn ExchangeHook) -> FloatTensor<B> {
    let shape = x.shape().to_vec();
    B::from_storage(or_raise(hook.exchange(B::into_storage(x), &shape)))
}

without_a_tape!(Flex);
#[cfg(feature = "cube")]
without_a_tape!(Cube);

impl<B: StorageBackend, C: CheckpointStrategy> TapeOps for Autodiff<B, C> {
    fn tape_weight(
        stored: FloatTensor<Self>,
        token: FloatTensor<Self>,
        hook: Arc<dyn WeightHook>,
    ) -> FloatTensor<Self> {
        let nodes = [stored.node(), token.node()];
        let (takes_gradients, is_ordered) = (stored.is_tracked(), token.is_tracked());
        let storage = B::into_storage(stored.primitive().clone());
        let again = UnshardAgain {
            hook: hook.clone(),
            stored: storage.clone(),
            backend: PhantomData::<B>,
        };
        // The balanced strategy, whatever the device has: a memory-bound node of it is what makes
        // consumers put the way to gather on the tape instead of the weight. Its parents must be
        // the tracked ones and no others, or Burn stores the weight after all.
        let prepared = WeightBackward.prepare::<BalancedCheckpointing>(nodes);
        let prepared = match (hook.keeps_unsharded(), takes_gradients, is_ordered) {
            (false, true, true) => prepared
                .memory_bound()
                .retro_forward(again)
                .parents([&stored, &token]),
            (false, true, false) => prepared
                .memory_bound()
                .retro_forward(again)
                .parents([&stored]),
            (false, false, true) => prepared
                .memory_bound()
                .retro_forward(again)
                .parents([&token]),
            _ => prepared.compute_bound(),
        };
        let full = B::from_storage(or_raise(hook.unshard(storage)));
        let state = WeightState {
            hook,
            takes_gradients,
        };
        match prepared.stateful() {
            OpsKind::Tracked(p) => p.finish(state, full),
            OpsKind::UnTracked(p) => p.finish(full),
        }
    }

    fn tape_token(
        x: FloatTensor<Self>,
        earlier: FloatTensor<Self>,
        hook: Arc<dyn TokenHook>,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), earlier.node()];
        match TokenBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(p) => {
                hook.tracked();
                let state = TokenState {
                    hook,
                    shape: x.shape(),
                    dtype: x.dtype(),
                    device: x.device(),
                };
                p.finish(state, B::unread_element(x.primitive()))
            }
            OpsKind::UnTracked(p) => p.finish(B::unread_element(x.primitive())),
        }
    }

    fn tape_observe(
        x: FloatTensor<Self>,
        token: FloatTensor<Self>,
        hook: Arc<dyn GradientHook>,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), token.node()];
        match ObserveBackward
            .prepare::<C>(nodes)
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(p) => p.finish(hook, x.into_primitive()),
            OpsKind::UnTracked(p) => p.finish(x.into_primitive()),
        }
    }

    fn tape_exchange(x: FloatTensor<Self>, hook: Arc<dyn ExchangeHook>) -> FloatTensor<Self> {
        let prepared = ExchangeBackward.prepare::<C>([x.node()]);
        let given = exchanged::<B>(x.into_primitive(), &*hook);
        match prepared.compute_bound().stateful() {
            OpsKind::Tracked(p) => p.finish(hook, given),
            OpsKind::UnTracked(p) => p.finish(given),
        }
    }
}

/// Computes a weight again in backward.
#[derive(Debug)]
struct UnshardAgain<B> {
    hook: Arc<dyn WeightHook>,
    stored: Primitive,
    backend: PhantomData<B>,
}

impl<B: StorageBackend> RetroForward for UnshardAgain<B> {
    fn forward(&self, states: &mut BackwardStates, out: NodeId) {
        let full = or_raise(self.hook.unshard_again(self.stored.clone()));
        states.save(out, B::from_storage(full));
    }
}

/// Hands the gradient of the full parameter to the hook; the stored shard gets none from the tape.
#[derive(Debug)]
struct WeightBackward;

#[derive(Debug, Clone)]
struct WeightState {
    hook: Arc<dyn WeightHook>,
    takes_gradients: bool,
}

impl<B: StorageBackend> Backward<B, 2> for WeightBackward {
    type State = WeightState;

    fn backward(self, ops: Ops<WeightState, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        // A frozen parameter is on the tape only to be gathered again: its gradient ends here.
        if ops.state.takes_gradients {
            or_raise(ops.state.hook.accumulate(B::into_storage(gradient)));
        }
    }
}

/// Calls the hook. All weights that the token orders have it as a parent, so they have run before.
#[derive(Debug)]
struct TokenBackward;

#[derive(Debug, Clone)]
struct TokenState<D> {
    hook: Arc<dyn TokenHook>,
    shape: Shape,
    dtype: DType,
    device: D,
}

impl<B: StorageBackend> Backward<B, 2> for TokenBackward {
    type State = TokenState<B::Device>;

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let TokenState {
            hook,
            shape,
            dtype,
            device,
        } = ops.state;
        let gradient = or_raise(hook.backward());
        let Some(x) = &ops.parents[0] else { return };
        match gradient {
            TokenGradient::Nothing => {}
            TokenGradient::Zeros => {
                grads.register::<B>(x.id, B::float_zeros(shape, &device, dtype.into()));
            }
            TokenGradient::Is(gradient) => grads.register::<B>(x.id, B::from_storage(gradient)),
        }
    }
}

/// Shows the gradient to the hook and hands it on, where `x` takes one.
#[derive(Debug)]
struct ObserveBackward;

impl<B: StorageBackend> Backward<B, 2> for ObserveBackward {
    type State = Arc<dyn GradientHook>;

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        or_raise(ops.state.gradient(B::into_storage(gradient.clone())));
        if let Some(x) = &ops.parents[0] {
            grads.register::<B>(x.id, gradient);
        }
    }
}

/// Asks the hook for the gradient.
#[derive(Debug)]
struct ExchangeBackward;

impl<B: StorageBackend> Backward<B, 1> for ExchangeBackward {
    type State = Arc<dyn ExchangeHook>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let gradient = exchanged::<B>(grads.consume::<B>(&ops.node), &*ops.state);
        if let Some(x) = &ops.parents[0] {
            grads.register::<B>(x.id, gradient);
        }
    }
}

#[cfg(test)]
mod tests;
