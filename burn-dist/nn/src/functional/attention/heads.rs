//! The heads of one sample on slices, forward and backward.

use crate::flex::{dims, truths};
use crate::functional::dropout::Dropout;
use crate::matmul::{Matrix, Write, matmul};
use crate::simd::{self, Kernel, MulAdd, exp, max, sum};
use burn_flex::FlexTensor;

/// What the operation takes besides tensors.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heads {
    pub(super) count: usize,
    pub(super) is_causal: bool,
    pub(super) dropout: Option<Dropout>,
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
pub(super) struct Call {
    pub(super) queries: usize,
    pub(super) keys: usize,
    pub(super) width: usize,
    features: usize,
    padding: Vec<bool>,
    how: Heads,
}

/// What a thread computes a head in.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    probabilities: Vec<f32>,
    gradient: Vec<f32>,
    dropped: Vec<f32>,
    words: Vec<u32>,
}

/// Queries, keys and values of one sample.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample<'a> {
    pub(super) index: usize,
    pub(super) query: &'a [f32],
    pub(super) key: &'a [f32],
    pub(super) value: &'a [f32],
}

impl Call {
    pub(super) fn new(
        query: &FlexTensor,
        key: &FlexTensor,
        padding: FlexTensor,
        how: Heads,
    ) -> Self {
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

    pub(super) fn forward(&self, sample: Sample, out: &mut [f32], scratch: &mut Scratch) {
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
    pub(super) fn backward(
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
    pub(super) fn is_empty(&self) -> bool {
        self.queries == 0 || self.keys == 0 || self.width == 0
    }
}
