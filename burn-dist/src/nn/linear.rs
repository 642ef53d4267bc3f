//! The linear layer.

use burn::config::Config;
use burn::module::{Initializer, Module, Param};
use burn::nn::LinearLayout;
use burn::tensor::{Device, Tensor, module};

/// Settings of a [`Linear`]; those of [`burn::nn::LinearConfig`].
#[derive(Config, Debug)]
pub struct LinearConfig {
    /// Features of the input.
    pub d_input: usize,
    /// Features of the output.
    pub d_output: usize,
    /// Whether there is a bias.
    #[config(default = true)]
    pub bias: bool,
    /// What the parameters are drawn from.
    #[config(default = "super::kaiming()")]
    pub initializer: Initializer,
    /// How the weight is stored.
    #[config(default = "LinearLayout::Row")]
    pub layout: LinearLayout,
}

impl LinearConfig {
    /// The layer; nothing is drawn before it is used or sharded.
    pub fn init(&self, device: &Device) -> Linear {
        let burns = burn::nn::LinearConfig {
            d_input: self.d_input,
            d_output: self.d_output,
            bias: self.bias,
            initializer: self.initializer.clone(),
            layout: self.layout,
        };
        burns.init(device).into()
    }
}

/// `x weight + bias`, as [`burn::nn::Linear`] computes it.
///
/// Under FSDP its weight is gathered for the product and gone afterwards, whatever the rank of the input: Burn's
/// own layer may expand the weight to the batch, and that copy stays on the tape until backward.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use burn_dist::nn::LinearConfig;
///
/// let device = Device::flex();
/// let linear = LinearConfig::new(8, 3).init(&device);
/// assert_eq!(linear.forward(Tensor::<3>::ones([2, 5, 8], &device)).dims(), [2, 5, 3]);
/// ```
#[derive(Module, Debug)]
pub struct Linear {
    /// `[d_input, d_output]`
    pub weight: Param<Tensor<2>>,
    /// `[d_output]`
    pub bias: Option<Param<Tensor<1>>>,
}

impl Linear {
    /// `x`: `[.., d_input]`; output: `[.., d_output]`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let mut shape = x.dims();
        let bias = self.bias.as_ref().map(Param::val);
        let y = module::linear(rows(x), self.weight.val(), bias);
        shape[D - 1] = y.dims()[1];
        y.reshape(shape)
    }
}

/// `[.., width]` as `[rows, width]`, which keeps weights that it is multiplied with off the tape.
pub(super) fn rows<const D: usize>(x: Tensor<D>) -> Tensor<2> {
    let shape = x.dims();
    let width = shape[D - 1];
    x.reshape([shape.iter().product::<usize>() / width.max(1), width])
}

impl From<burn::nn::Linear> for Linear {
    fn from(burns: burn::nn::Linear) -> Self {
        Self {
            weight: burns.weight,
            bias: burns.bias,
        }
    }
}
