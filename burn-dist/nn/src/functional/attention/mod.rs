//! Scaled dot-product attention in several heads.

mod heads;
mod tape;

use super::dropout::{Dropout, dropout};
use crate::flex::is_fused;
use burn::backend::Dispatch;
use burn::tensor::{Bool, DType, FloatDType, Tensor, activation::softmax};
use heads::Heads;
use tape::ScaledDotProduct;

/// How [`attention`] attends.
#[derive(Debug, Clone)]
pub struct Attention {
    /// Number of heads; they divide the width.
    pub heads: usize,
    /// `[batch, keys]`, true at keys that no query may attend to. A query all of whose keys are padding attends
    /// to them evenly, so that its output is finite.
    pub padding: Option<Tensor<2, Bool>>,
    /// Query `i` attends to keys `0..=i` only.
    pub is_causal: bool,
    /// Of the probabilities, which are numbered as a tensor `[batch, heads, queries, keys]`.
    pub dropout: Option<Dropout>,
}

impl Attention {
    /// Every query attends to every key.
    pub fn new(heads: usize) -> Self {
        Self {
            heads,
            padding: None,
            is_causal: false,
            dropout: None,
        }
    }
}

/// What queries find at keys: dropout(softmax(Q Kᵀ / √features)) V in each head.
///
/// - `query` and output: `[batch, queries, width]`; a head is a range of `width / heads` features.
/// - `key` and `value`: `[batch, keys, width]`.
///
/// Heads are read and written in place, without a permuted copy. The probabilities are computed again in
/// backward, so that nothing of `[queries, keys]` outlives the call: 0 to 3 % slower, and what they would take
/// (100 MB a layer of BERT-base on 8 texts of 512 tokens) is free. The samples of a batch are computed by
/// different threads. f16 and bf16 go by way of f32 between the two products.
///
/// Vaswani et al., 2017, <https://arxiv.org/abs/1706.03762>.
///
/// # Panics
///
/// If the sizes do not fit each other, or the heads do not divide the width.
///
/// # Example
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use burn_dist_nn::functional::{Attention, attention};
///
/// let device = Device::flex();
/// let value = Tensor::<3>::from_data([[[1.0, 5.0], [3.0, 7.0]]], &device);
/// let zeros = value.zeros_like();
/// let causal = Attention { is_causal: true, ..Attention::new(2) };
/// let y = attention(zeros.clone(), zeros, value, causal);
/// // The first query finds the first value, the second the mean of both.
/// assert_eq!(y.into_data().try_to_vec::<f32>().unwrap(), [1.0, 5.0, 2.0, 6.0]);
/// ```
pub fn attention(query: Tensor<3>, key: Tensor<3>, value: Tensor<3>, how: Attention) -> Tensor<3> {
    let ([batch, _, width], [_, keys, _]) = (query.dims(), key.dims());
    assert_eq!([batch, keys, width], key.dims(), "sizes of the keys");
    assert_eq!(key.dims(), value.dims(), "sizes of the values");
    assert!(how.heads > 0, "0 heads, where at least 1 is expected");
    assert_eq!(
        width % how.heads,
        0,
        "{} heads of {width} features",
        how.heads
    );
    if let Some(padding) = &how.padding {
        assert_eq!([batch, keys], padding.dims(), "sizes of the padding");
    }
    if ![&query, &key, &value].into_iter().all(is_fused) {
        return composed(query, key, value, how);
    }
    // An operation takes no optional tensors: no elements stand for none.
    let device = query.device().inner();
    let padding = how
        .padding
        .unwrap_or_else(|| Tensor::empty([0, 0], &device));
    let shape = Heads {
        count: how.heads,
        is_causal: how.is_causal,
        dropout: how.dropout.filter(|dropout| {
            dropout.check();
            dropout.rate > 0.0
        }),
    };
    Tensor::from_dispatch(<Dispatch as ScaledDotProduct>::fused_attention(
        query.into_dispatch(),
        key.into_dispatch(),
        value.into_dispatch(),
        padding.into_dispatch(),
        shape,
    ))
}

/// The same of Burn's operations.
fn composed(query: Tensor<3>, key: Tensor<3>, value: Tensor<3>, how: Attention) -> Tensor<3> {
    let ([batch, queries, width], [_, keys, _]) = (query.dims(), key.dims());
    let features = width / how.heads;
    // The scale goes on the queries: they are fewer than the scores as soon as there are more keys than
    // features in a head.
    let query = query * (features as f64).powf(-0.5);
    let query = query
        .reshape([batch, queries, how.heads, features])
        .swap_dims(1, 2);
    let key = key
        .reshape([batch, keys, how.heads, features])
        .permute([0, 2, 3, 1]);
    let value = value
        .reshape([batch, keys, how.heads, features])
        .swap_dims(1, 2);
    let scores = query.matmul(key);

    let dtype: FloatDType = scores.dtype().into();
    let mut scores = match scores.dtype() {
        DType::F16 | DType::BF16 => scores.cast(FloatDType::F32),
        _ => scores,
    };
    let shape = scores.dims();
    if let Some(padding) = how.padding {
        // Finite, so that a row of nothing but padding becomes uniform rather than 0 / 0; low enough that
        // beside any other score its exponential is 0.
        let padding = padding.reshape([batch, 1, 1, keys]).expand(shape);
        scores = scores.mask_fill(padding, f32::MIN);
    }
    if how.is_causal {
        let later = Tensor::<2, Bool>::tril_mask([queries, keys], 0, &scores.device());
        let later = later.reshape([1, 1, queries, keys]).expand(shape);
        scores = scores.mask_fill(later, f32::NEG_INFINITY);
    }
    let mut probabilities = softmax(scores, 3).cast(dtype);
    if let Some(how) = how.dropout {
        probabilities = dropout(probabilities, how);
    }
    let heads = probabilities.matmul(value).swap_dims(1, 2);
    heads.reshape([batch, queries, width])
}
