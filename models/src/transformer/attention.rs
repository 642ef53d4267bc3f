//! Multi-head self-attention.

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::{Bool, Device, Tensor, activation::softmax};

use super::{fold, init};
use crate::widen::{narrowed, widened};
use burn_dist::Noise;

/// Scaled dot-product attention in several heads: softmax(Q·Kᵀ / √d)·V.
///
/// Vaswani et al., 2017, <https://arxiv.org/abs/1706.03762>.
#[derive(Module, Debug)]
pub struct Attention {
    /// The query projection.
    pub query: Linear,
    /// The key projection.
    pub key: Linear,
    /// The value projection.
    pub value: Linear,
    /// The output projection over all heads.
    pub output: Linear,
    /// Number of heads; they divide the width.
    pub heads: usize,
    /// Probability of dropping an attention probability.
    pub dropout: f64,
}

impl Attention {
    pub(crate) fn new(width: usize, heads: usize, std: f64, device: &Device) -> Self {
        Self {
            query: init::linear(width, width, std, device),
            key: init::linear(width, width, std, device),
            value: init::linear(width, width, std, device),
            output: init::linear(width, width, std, device),
            heads,
            dropout: 0.0,
        }
    }

    /// The attention of all tokens to all tokens.
    ///
    /// - `x` and output: `[batch, tokens, width]`.
    /// - `padding`: `[batch, tokens]`, true at tokens that no token may attend to. The output at such a token is
    ///   meaningless, but finite, even where a whole row is padding.
    /// - `site`: the number of this attention's draw within its block.
    ///
    /// The probabilities are computed in f32 where `x` is f16 or bf16.
    pub fn forward(
        &self,
        x: Tensor<3>,
        padding: Option<Tensor<2, Bool>>,
        noise: Option<Noise>,
        site: u32,
    ) -> Tensor<3> {
        let [batch, tokens, width] = x.dims();
        let features = width / self.heads;
        let split = |x: Tensor<2>| x.reshape([batch, tokens, self.heads, features]);
        let x = fold(x);

        // The scale goes on the queries: they are fewer than the scores as soon as there are more tokens
        // than features in a head.
        let query = self.query.forward(x.clone()) * (features as f64).powf(-0.5);
        let query = split(query).swap_dims(1, 2);
        let key = split(self.key.forward(x.clone())).permute([0, 2, 3, 1]);
        let value = split(self.value.forward(x)).swap_dims(1, 2);

        let mut probabilities = probabilities(query.matmul(key), padding);
        if let Some(noise) = noise {
            probabilities = noise.dropout(probabilities, self.dropout, site);
        }
        let heads = probabilities.matmul(value).swap_dims(1, 2);
        let heads = heads.reshape([batch * tokens, width]);
        self.output.forward(heads).reshape([batch, tokens, width])
    }
}

/// The softmax over the keys that are not padding; `scores`: `[batch, heads, queries, keys]`.
fn probabilities(scores: Tensor<4>, padding: Option<Tensor<2, Bool>>) -> Tensor<4> {
    let dtype = scores.dtype();
    let shape = scores.dims();
    let [batch, _, _, keys] = shape;
    let mut scores = widened(scores);
    if let Some(padding) = padding {
        // Finite, so that a row of nothing but padding becomes uniform rather than 0 / 0; low enough that
        // beside any other score its exponential is 0.
        let padding = padding.reshape([batch, 1, 1, keys]).expand(shape);
        scores = scores.mask_fill(padding, f32::MIN);
    }
    narrowed(softmax(scores, 3), dtype)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use burn::tensor::{DType, Distribution, FloatDType, Tolerance};

    fn scores(device: &Device) -> Tensor<4> {
        Tensor::random([2, 3, 4, 4], Distribution::Normal(0.0, 3.0), device)
    }

    /// The second sample's last two tokens are padding.
    fn padding(device: &Device) -> Tensor<2, Bool> {
        let rows = [[false; 4], [false, false, true, true]];
        Tensor::from_data(rows, device)
    }

    #[test]
    fn the_softmax_ignores_padding() {
        let device = Device::flex();
        let scores = scores(&device);
        let whole = probabilities(scores.clone(), Some(padding(&device)));

        let short = scores.clone().slice([1..2, 0..3, 0..4, 0..2]);
        let short = probabilities(short, None).into_data();
        let second = whole.clone().slice([1..2, 0..3, 0..4]);
        second
            .clone()
            .slice([0..1, 0..3, 0..4, 0..2])
            .into_data()
            .assert_eq(&short, true);
        let rest = second.slice([0..1, 0..3, 0..4, 2..4]).abs().max();
        assert_eq!(rest.into_scalar::<f32>(), 0.0);

        let first = whole.narrow(0, 0, 1).into_data();
        let alone = probabilities(scores.narrow(0, 0, 1), None).into_data();
        first.assert_eq(&alone, true);
    }

    #[test]
    fn a_row_of_only_padding_has_finite_values_and_gradients() {
        let device = Device::flex().autodiff();
        for dtype in [FloatDType::F32, FloatDType::F16, FloatDType::F64] {
            let scores = scores(&device).inner().cast(dtype);
            let scores = Tensor::from_inner(scores).require_grad();
            let padding = Tensor::from_data([[true; 4], [false; 4]], &device);
            let out = probabilities(scores.clone(), Some(padding));
            assert_eq!(FloatDType::from(out.dtype()), dtype);
            let first: f32 = out.clone().narrow(0, 0, 1).sum().into_scalar();
            assert!((first - 12.0).abs() < 1e-2, "{first}");

            let grads = out.powi_scalar(2).sum().backward();
            let grad = scores.grad(&grads).unwrap().into_data();
            assert!(grad.iter::<f64>().all(f64::is_finite));
            assert!(grad.iter::<f64>().take(48).all(|x| x == 0.0));
        }
    }

    #[test]
    fn half_precision_is_within_one_rounding_of_f32() {
        let device = Device::flex();
        let scores = scores(&device).cast(FloatDType::BF16);
        let exact = probabilities(scores.clone().cast(FloatDType::F32), None);
        let half = probabilities(scores, None);
        assert_eq!(half.dtype(), DType::BF16);
        let half = half.cast(FloatDType::F32).into_data();
        // bf16 keeps eight bits: half a step is 2⁻⁹ of the value.
        half.assert_approx_eq::<f32>(&exact.into_data(), Tolerance::relative(2f32.powi(-8)));
    }
}
