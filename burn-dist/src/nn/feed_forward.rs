//! The feed-forward part of a transformer's layer.

use super::functional::{MlpWeights, gelu, gelu_approximate, mlp};
use super::linear::rows;
use super::{Dropout, DropoutConfig, Linear, LinearConfig};
use burn::config::Config;
use burn::module::{Initializer, Module, Param};
use burn::nn::activation::{Activation, ActivationConfig};
use burn::tensor::{Device, Tensor};

/// Settings of a [`FeedForward`]; those of Burn's `PositionWiseFeedForwardConfig`.
#[derive(Config, Debug)]
pub struct FeedForwardConfig {
    /// Features of input and output.
    pub d_model: usize,
    /// Features between the two layers.
    pub d_ff: usize,
    /// The probability of dropping an element after the activation.
    #[config(default = 0.1)]
    pub dropout: f64,
    /// What the parameters are drawn from.
    #[config(default = "super::kaiming()")]
    pub initializer: Initializer,
    /// The function between the two layers.
    #[config(default = "ActivationConfig::Gelu")]
    pub activation: ActivationConfig,
}

impl FeedForwardConfig {
    /// The layer; nothing is drawn before it is used or sharded.
    pub fn init(&self, device: &Device) -> FeedForward {
        let linear = |from, to| {
            let config = LinearConfig::new(from, to).with_initializer(self.initializer.clone());
            config.init(device)
        };
        FeedForward {
            linear_inner: linear(self.d_model, self.d_ff),
            linear_outer: linear(self.d_ff, self.d_model),
            dropout: DropoutConfig::new(self.dropout).init(),
            activation: self.activation.init(device),
        }
    }
}

/// Two linear layers with an activation between them, as Burn's `PositionWiseFeedForward`.
///
/// Burn's own reads the shape of what is stored, so that every rank must store all of it: two thirds of a
/// transformer. This one is sharded. Where the activation is a GELU and nothing is dropped, it is one
/// operation on a CPU, which keeps the hidden layer once.
#[derive(Module, Debug)]
pub struct FeedForward {
    /// `d_model` to `d_ff`.
    pub linear_inner: Linear,
    /// `d_ff` to `d_model`.
    pub linear_outer: Linear,
    /// After the activation.
    pub dropout: Dropout,
    /// Between the two layers.
    pub activation: Activation,
}

impl FeedForward {
    /// `x` and output: `[.., d_model]`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let shape = x.dims();
        self.of_rows(rows(x)).reshape(shape)
    }

    fn of_rows(&self, x: Tensor<2>) -> Tensor<2> {
        let mask = self.dropout.mask(&x.device());
        let hidden = match (&self.activation, &mask) {
            (Activation::Gelu(how), None) if !how.approximate => match self.weights() {
                Some(weights) => return mlp(x, weights),
                None => gelu(self.linear_inner.forward(x)),
            },
            (Activation::Gelu(how), _) if how.approximate => {
                gelu_approximate(self.linear_inner.forward(x))
            }
            (Activation::Gelu(_), _) => gelu(self.linear_inner.forward(x)),
            (other, _) => other.forward(self.linear_inner.forward(x)),
        };
        let hidden = match mask {
            Some(mask) => super::functional::dropout(hidden, mask),
            None => hidden,
        };
        self.linear_outer.forward(hidden)
    }

    /// All four, where both layers have a bias.
    fn weights(&self) -> Option<MlpWeights> {
        let bias = |linear: &Linear| linear.bias.as_ref().map(Param::val);
        Some(MlpWeights {
            up: self.linear_inner.weight.val(),
            up_bias: bias(&self.linear_inner)?,
            down: self.linear_outer.weight.val(),
            down_bias: bias(&self.linear_outer)?,
        })
    }
}
