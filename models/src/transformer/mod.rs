//! Parts that ViT and BERT share: attention, the MLP, layer norms for half precision, initialisation.
//!
//! Each model has its own block, since BERT's norms follow the residual sums and ViT's precede the branches.

mod attention;
pub(crate) mod init;
mod mlp;
mod norm;

pub use attention::Attention;
pub use mlp::Mlp;
pub use norm::LayerNorm;

use burn::tensor::Tensor;

/// `[batch, tokens, width]` as `[batch * tokens, width]`.
///
/// On three dimensions Burn's linear layer may reshape its *weight* instead, and that reshaped weight
/// stays on the autodiff tape until backward: exactly what a sharded model must not hold.
pub(crate) fn fold(x: Tensor<3>) -> Tensor<2> {
    let [batch, tokens, width] = x.dims();
    x.reshape([batch * tokens, width])
}
