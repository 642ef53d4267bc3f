//! The MLP of a transformer block.

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::{Device, Tensor};
use burn_dist::nn::functional::{MlpWeights, gelu, mlp};

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
        let x = fold(x);
        let out = match (&self.up.bias, &self.down.bias) {
            (Some(up_bias), Some(down_bias)) => {
                let weights = MlpWeights {
                    up: self.up.weight.val(),
                    up_bias: up_bias.val(),
                    down: self.down.weight.val(),
                    down_bias: down_bias.val(),
                };
                mlp(x, weights)
            }
            _ => self.down.forward(gelu(self.up.forward(x))),
        };
        out.reshape([batch, tokens, width])
    }
}
