//! Scaled dot-product attention in several heads.

use super::dropout::{Dropout, dropout};
use super::tape::{parents, register};
use crate::flex::{contiguous, dims, is_fused, slice, tensor, truths};
use crate::matmul::{Matrix, Write, matmul};
use crate::simd::{self, Kernel, MulAdd, exp, max, sum};
use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::{BoolTensor, FloatTensor};
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{Bool, DType, FloatDType, Tensor, activation::softmax};
use burn_flex::FlexTensor;
use rayon::prelude::*;

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
        dropout: how.dropout.filter(|dropout| dropout.rate > 0.0),
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

/// What the operation takes besides tensors.
#[derive(Debug, Clone, Copy)]
struct Heads {
    count: usize,
    is_causal: bool,
    dropout: Option<Dropout>,
}

/// The softmax of rows of scores.
struct Softmax<'a> {
    scores: &'a mut [f32],
    keys: usize,
    scale: f32,
    padding: Option<&'a [bool]>,
    is_causal: bool,
}

impl Kernel for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run<M: MulAdd>(self) {
        for (query, row) in self.scores.chunks_exact_mut(self.keys).enumerate() {
            let open = if self.is_causal {
                self.keys.min(query + 1)
            } else {
                self.keys
            };
            let (row, closed) = row.split_at_mut(open);
            closed.fill(0.0);
            if let Some(padding) = self.padding {
                for (score, &is_padding) in row.iter_mut().zip(padding) {
                    *score = if is_padding { f32::MIN } else { *score };
                }
            }
            let largest = max(row);
            for score in row.iter_mut() {
                *score = exp::<M>((*score - largest) * self.scale);
            }
            let total = sum(row.len(), |i, sum| sum + row[i]);
            let scale = 1.0 / total;
            for score in row.iter_mut() {
                *score *= scale;
            }
        }
    }
}

/// From the gradient of probabilities to that of their scores, which is 0 at padding: the score there is a
/// constant.
struct SoftmaxBack<'a> {
    probabilities: &'a [f32],
    gradient: &'a mut [f32],
    keys: usize,
    scale: f32,
    padding: Option<&'a [bool]>,
}

impl Kernel for SoftmaxBack<'_> {
    type Output = ();

    #[inline(always)]
    fn run<M: MulAdd>(self) {
        let rows = self.probabilities.chunks_exact(self.keys);
        for (p, gradient) in rows.zip(self.gradient.chunks_exact_mut(self.keys)) {
            let dot = sum(p.len(), |i, sum| M::mul_add(p[i], gradient[i], sum));
            for (gradient, p) in gradient.iter_mut().zip(p) {
                *gradient = p * (*gradient - dot) * self.scale;
            }
            if let Some(padding) = self.padding {
                for (gradient, &is_padding) in gradient.iter_mut().zip(padding) {
                    *gradient = if is_padding { 0.0 } else { *gradient };
                }
            }
        }
    }
}

/// The sizes of one call, and all that its samples share.
#[derive(Debug, Clone)]
struct Call {
    queries: usize,
    keys: usize,
    width: usize,
    features: usize,
    padding: Vec<bool>,
    how: Heads,
}

/// What a thread computes a head in.
#[derive(Debug, Default)]
struct Scratch {
    probabilities: Vec<f32>,
    gradient: Vec<f32>,
    dropped: Vec<f32>,
    words: Vec<u32>,
}

/// Queries, keys and values of one sample.
#[derive(Debug, Clone, Copy)]
struct Sample<'a> {
    index: usize,
    query: &'a [f32],
    key: &'a [f32],
    value: &'a [f32],
}

impl Call {
    fn new(query: &FlexTensor, key: &FlexTensor, padding: FlexTensor, how: Heads) -> Self {
        let ([_, queries, width], [_, keys, _]) = (dims(query), dims(key));
        Self {
            queries,
            keys,
            width,
            features: width / how.count,
            padding: truths(padding),
            how,
        }
    }

    fn scale(&self) -> f32 {
        (self.features as f32).powf(-0.5)
    }

    /// Which of a sample's keys are padding.
    fn padding_of(&self, sample: Sample) -> Option<&[bool]> {
        let of = |keys| &self.padding[sample.index * keys..][..keys];
        (!self.padding.is_empty()).then(|| of(self.keys))
    }

    /// One head's rows of a sample's elements.
    fn head<'a>(&self, elements: &'a [f32], rows: usize, head: usize) -> Matrix<'a> {
        let elements = elements.get(head * self.features..).unwrap_or_default();
        Matrix::strided(elements, rows, self.features, self.width)
    }

    /// The probabilities of one head, before dropout.
    fn probabilities(&self, sample: Sample, head: usize, out: &mut Vec<f32>) {
        let (queries, keys) = (self.queries, self.keys);
        out.resize(queries * keys, 0.0);
        let query = self.head(sample.query, queries, head);
        let key = self.head(sample.key, keys, head);
        matmul(out, keys, Write::Replace, query, key.transposed());
        simd::run(Softmax {
            scores: out,
            keys,
            scale: self.scale(),
            padding: self.padding_of(sample),
            is_causal: self.how.is_causal,
        });
    }

    /// Multiplies what belongs to the probabilities of one head by their mask.
    fn drop(&self, sample: Sample, head: usize, x: &mut [f32], words: &mut Vec<u32>) {
        if let Some(dropout) = self.how.dropout {
            let first = (sample.index * self.how.count + head) * self.queries * self.keys;
            dropout.apply(first, x, words);
        }
    }

    fn forward(&self, sample: Sample, out: &mut [f32], scratch: &mut Scratch) {
        for head in 0..self.how.count {
            let probabilities = &mut scratch.probabilities;
            self.probabilities(sample, head, probabilities);
            self.drop(sample, head, probabilities, &mut scratch.words);
            let probabilities = Matrix::new(probabilities, self.queries, self.keys);
            let value = self.head(sample.value, self.keys, head);
            let out = &mut out[head * self.features..];
            matmul(out, self.width, Write::Replace, probabilities, value);
        }
    }

    /// Writes the gradients of queries, keys and values.
    fn backward(
        &self,
        sample: Sample,
        gradient: &[f32],
        [of_query, of_key, of_value]: [&mut [f32]; 3],
        scratch: &mut Scratch,
    ) {
        let (queries, keys, width) = (self.queries, self.keys, self.width);
        for head in 0..self.how.count {
            let first = head * self.features;
            let of_out = self.head(gradient, queries, head);
            self.probabilities(sample, head, &mut scratch.probabilities);
            let dropped = match self.how.dropout {
                Some(_) => {
                    scratch.dropped.clone_from(&scratch.probabilities);
                    self.drop(sample, head, &mut scratch.dropped, &mut scratch.words);
                    &scratch.dropped
                }
                None => &scratch.probabilities,
            };
            let dropped = Matrix::new(dropped, queries, keys);
            matmul(
                &mut of_value[first..],
                width,
                Write::Replace,
                dropped.transposed(),
                of_out,
            );

            let of_scores = &mut scratch.gradient;
            of_scores.resize(queries * keys, 0.0);
            let value = self.head(sample.value, keys, head);
            matmul(of_scores, keys, Write::Replace, of_out, value.transposed());
            self.drop(sample, head, of_scores, &mut scratch.words);
            simd::run(SoftmaxBack {
                probabilities: &scratch.probabilities,
                gradient: of_scores,
                keys,
                scale: self.scale(),
                padding: self.padding_of(sample),
            });
            let of_scores = Matrix::new(of_scores, queries, keys);
            let key = self.head(sample.key, keys, head);
            matmul(
                &mut of_query[first..],
                width,
                Write::Replace,
                of_scores,
                key,
            );
            let query = self.head(sample.query, queries, head);
            matmul(
                &mut of_key[first..],
                width,
                Write::Replace,
                of_scores.transposed(),
                query,
            );
        }
    }

    /// Whether there is nothing to attend with or to.
    fn is_empty(&self) -> bool {
        self.queries == 0 || self.keys == 0 || self.width == 0
    }
}

#[backend_extension(Flex, Autodiff)]
trait ScaledDotProduct: Backend {
    fn fused_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        padding: BoolTensor<Self>,
        how: Heads,
    ) -> FloatTensor<Self>;
}

trait ScaledDotProductBackward: ScaledDotProduct {
    /// The gradients of queries, keys and values.
    fn fused_attention_backward(
        inputs: [FloatTensor<Self>; 3],
        padding: BoolTensor<Self>,
        how: Heads,
        gradient: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 3];
}

impl ScaledDotProduct for Flex {
    fn fused_attention(
        query: FlexTensor,
        key: FlexTensor,
        value: FlexTensor,
        padding: FlexTensor,
        how: Heads,
    ) -> FlexTensor {
        let [query, key, value] = [query, key, value].map(contiguous);
        let call = Call::new(&query, &key, padding, how);
        let mut out = vec![0.0; slice(&query).len()];
        if !call.is_empty() {
            let (of_query, of_key) = (call.queries * call.width, call.keys * call.width);
            let inputs = slice(&query).par_chunks(of_query);
            let inputs = inputs.zip(slice(&key).par_chunks(of_key));
            let inputs = inputs.zip(slice(&value).par_chunks(of_key));
            let samples = out.par_chunks_mut(of_query).zip(inputs).enumerate();
            samples.for_each_init(Scratch::default, |scratch, (index, (out, inputs))| {
                let ((query, key), value) = inputs;
                let sample = Sample {
                    index,
                    query,
                    key,
                    value,
                };
                call.forward(sample, out, scratch);
            });
        }
        tensor(out, query.layout().shape().clone())
    }
}

impl ScaledDotProductBackward for Flex {
    fn fused_attention_backward(
        inputs: [FlexTensor; 3],
        padding: FlexTensor,
        how: Heads,
        gradient: FlexTensor,
    ) -> [FlexTensor; 3] {
        let [query, key, value] = inputs.map(contiguous);
        let gradient = contiguous(gradient);
        let call = Call::new(&query, &key, padding, how);
        let mut found = [&query, &key, &value].map(|input| vec![0.0; slice(input).len()]);
        if !call.is_empty() {
            let (of_query, of_key) = (call.queries * call.width, call.keys * call.width);
            let inputs = slice(&query).par_chunks(of_query);
            let inputs = inputs.zip(slice(&key).par_chunks(of_key));
            let inputs = inputs.zip(slice(&value).par_chunks(of_key));
            let inputs = inputs.zip(slice(&gradient).par_chunks(of_query));
            let [query, key, value] = &mut found;
            let outputs = query.par_chunks_mut(of_query);
            let outputs = outputs.zip(key.par_chunks_mut(of_key));
            let outputs = outputs.zip(value.par_chunks_mut(of_key));
            let samples = outputs.zip(inputs).enumerate();
            samples.for_each_init(Scratch::default, |scratch, (index, (outputs, inputs))| {
                let ((of_query, of_key), of_value) = outputs;
                let (((query, key), value), gradient) = inputs;
                let sample = Sample {
                    index,
                    query,
                    key,
                    value,
                };
                call.backward(sample, gradient, [of_query, of_key, of_value], scratch);
            });
        }
        let [of_query, of_key, of_value] = found;
        [
            tensor(of_query, query.layout().shape().clone()),
            tensor(of_key, key.layout().shape().clone()),
            tensor(of_value, value.layout().shape().clone()),
        ]
    }
}

#[derive(Debug)]
struct AttentionNode;

impl<B: ScaledDotProductBackward> Backward<B, 3> for AttentionNode {
    type State = ([NodeId; 3], BoolTensor<B>, Heads);

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let (gradient, parents) = (grads.consume::<B>(&ops.node), parents(&ops));
        let (nodes, padding, how) = ops.state;
        let inputs = nodes.map(|node| checkpointer.retrieve_node_output(node));
        let found = B::fused_attention_backward(inputs, padding, how, gradient);
        register::<B, 3>(grads, parents, found.map(Some));
    }
}

impl<B: ScaledDotProductBackward, C: CheckpointStrategy> ScaledDotProduct for Autodiff<B, C> {
    fn fused_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        padding: BoolTensor<Self>,
        how: Heads,
    ) -> FloatTensor<Self> {
        let inputs = [query, key, value];
        let nodes = inputs.each_ref().map(|input| input.node());
        let prepared = AttentionNode.prepare::<C>(nodes);
        match prepared.compute_bound().stateful() {
            OpsKind::Tracked(mut node) => {
                let nodes = inputs.each_ref().map(|input| node.checkpoint(input));
                let [query, key, value] = inputs.map(|input| input.into_primitive());
                let out = B::fused_attention(query, key, value, padding.clone(), how);
                node.finish((nodes, padding, how), out)
            }
            OpsKind::UnTracked(node) => {
                let [query, key, value] = inputs.map(|input| input.into_primitive());
                node.finish(B::fused_attention(query, key, value, padding, how))
            }
        }
    }
}
