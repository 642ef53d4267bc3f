//! The MLP of a transformer block.

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::{Device, Tensor, activation::gelu};

use super::{fold, init};

/// Two linear layers with a GELU between them.
#[derive(Module, Debug)]
pub struct Mlp {
    /// `[width, mlp_width]`
    pub up: Linear,
    /// `[mlp_width, width]`
    pub down: Linear,
}

impl Mlp {
    pub(crate) fn new(width: usize, mlp_width: usize, std: f64, device: &Device) -> Self {
        Self {
            up: init::linear(width, mlp_width, std, device),
            down: init::linear(mlp_width, width, std, device),
        }
    }

    /// `x` and output: `[batch, tokens, width]`. The GELU is the exact one, by the error function.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let [batch, tokens, width] = x.dims();
        let hidden = gelu(self.up.forward(fold(x)));
        self.down.forward(hidden).reshape([batch, tokens, width])
    }
}
