//! Dropout whose mask is a function of a key.

use super::tape::{parents, register};
use crate::flex::{is_fused, owned};
use crate::rows::block;
use crate::simd::{self, Kernel, MulAdd};
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{Tensor, TensorData};
use burn_flex::FlexTensor;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

/// Which elements are dropped: a probability, and the key of a stream of random numbers.
///
/// Element `i` of a tensor is dropped if the `i`-th 32 bits of the ChaCha8 stream of `key` are less than
/// `rate` * 2³². The mask is therefore the same in a second forward pass, in backward, and on any number of
/// threads; two dropouts of one pass want different keys.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// The probability that an element is dropped: nothing at 0 or less, everything at 1 or more.
    pub rate: f64,
    /// The key of the stream.
    pub key: [u8; 32],
}

impl Dropout {
    /// Panics if the rate is no number.
    pub(super) fn check(&self) {
        assert!(
            !self.rate.is_nan(),
            "a dropout rate of NaN, where a probability is expected"
        );
    }

    /// What the elements that stay are multiplied with, so that the mean is kept.
    fn scale(&self) -> f32 {
        if self.rate < 1.0 {
            (1.0 / (1.0 - self.rate)) as f32
        } else {
            0.0
        }
    }

    /// The stream, from its `first` number on.
    fn stream(&self, first: usize) -> ChaCha8Rng {
        let mut stream = ChaCha8Rng::from_seed(self.key);
        stream.set_word_pos(first as u128);
        stream
    }

    /// Multiplies `x`, which are the elements from `first` on of a tensor, by the mask. `words` is scratch.
    pub(super) fn apply(&self, first: usize, x: &mut [f32], words: &mut Vec<u32>) {
        words.resize(x.len(), 0);
        self.stream(first)
            .fill_bytes(bytemuck::cast_slice_mut(words));
        simd::run(Mask {
            words,
            // The cast saturates at rate 1.
            threshold: (self.rate * 2f64.powi(32)) as u32,
            scale: self.scale(),
            x,
        });
    }
}

/// `x`, each element dropped with the probability of `dropout`, the others scaled so that the mean is kept.
///
/// Output: shape and type of `x`. A rate of 0 or less returns `x` itself. About 1.5 ns an element, forward and
/// again backward, on one core. Srivastava et al., 2014, <https://jmlr.org/papers/v15/srivastava14a.html>.
///
/// # Example
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use burn_dist_nn::functional::{Dropout, dropout};
///
/// let x = Tensor::<2>::ones([4, 8], &Device::flex());
/// let half = Dropout { rate: 0.5, key: [7; 32] };
/// let y = dropout(x.clone(), half);
/// assert_eq!(y.clone().into_data(), dropout(x, half).into_data());
/// assert!(y.into_data().iter::<f32>().all(|y| y == 0.0 || y == 2.0));
/// ```
pub fn dropout<const D: usize>(x: Tensor<D>, dropout: Dropout) -> Tensor<D> {
    dropout.check();
    if dropout.rate <= 0.0 {
        return x;
    }
    if !is_fused(&x) {
        let shape = x.dims();
        let mut mask = vec![1.0; shape.iter().product()];
        dropout.apply(0, &mut mask, &mut Vec::new());
        let mask = TensorData::new(mask, shape);
        let mask = Tensor::<D>::from_data(mask, (&x.device(), x.dtype()));
        return x * mask;
    }
    Tensor::from_dispatch(<Dispatch as Drop>::fused_dropout(
        x.into_dispatch(),
        dropout,
    ))
}

struct Mask<'a> {
    words: &'a [u32],
    threshold: u32,
    scale: f32,
    x: &'a mut [f32],
}

impl Kernel for Mask<'_> {
    type Output = ();

    #[inline(always)]
    fn run<M: MulAdd>(self) {
        for (x, &word) in self.x.iter_mut().zip(self.words) {
            // A product, not a choice: what is no number stays none.
            *x *= if word < self.threshold {
                0.0
            } else {
                self.scale
            };
        }
    }
}

/// Multiplies `x` by the mask.
fn masked(x: &mut [f32], dropout: &Dropout) {
    let elements = block(1);
    let blocks = x.par_chunks_mut(elements).enumerate();
    blocks.for_each_init(Vec::new, |words, (i, x)| {
        dropout.apply(i * elements, x, words)
    });
}

#[backend_extension(Flex, Autodiff)]
trait Drop: Backend {
    fn fused_dropout(x: FloatTensor<Self>, dropout: Dropout) -> FloatTensor<Self>;
}

impl Drop for Flex {
    fn fused_dropout(x: FlexTensor, dropout: Dropout) -> FlexTensor {
        let mut x = owned(x);
        masked(x.storage_mut(), &dropout);
        x
    }
}

#[derive(Debug)]
struct DropoutNode;

impl<B: Drop> Backward<B, 1> for DropoutNode {
    type State = Dropout;

    fn backward(self, ops: Ops<Dropout, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let (gradient, parents) = (grads.consume::<B>(&ops.node), parents(&ops));
        let found = B::fused_dropout(gradient, ops.state);
        register::<B, 1>(grads, parents, [Some(found)]);
    }
}

impl<B: Drop, C: CheckpointStrategy> Drop for Autodiff<B, C> {
    fn fused_dropout(x: FloatTensor<Self>, dropout: Dropout) -> FloatTensor<Self> {
        let prepared = DropoutNode.prepare::<C>([x.node()]);
        let prepared = prepared.compute_bound().stateful();
        let y = B::fused_dropout(x.into_primitive(), dropout);
        match prepared {
            OpsKind::Tracked(node) => node.finish(dropout, y),
            OpsKind::UnTracked(node) => node.finish(y),
        }
    }
}
