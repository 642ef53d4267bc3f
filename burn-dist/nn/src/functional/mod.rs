//! Operations on tensors with hand-written gradients.
//!
//! Each is one node on the autodiff tape and one pass over its elements, where Burn's compositions are many.
//! They compute f32 tensors on [`Device::flex`](burn::tensor::Device::flex); on any other type or device the
//! same function is Burn's composition, so that a model calls one function everywhere.
//!
//! | | PyTorch | kept for backward, besides inputs |
//! |---|---|---|
//! | [`gelu`], [`gelu_approximate`] | `F.gelu` | nothing |
//! | [`layer_norm`] | `F.layer_norm` | two numbers a row |
//! | [`attention`] | `F.scaled_dot_product_attention` | the padding; probabilities are computed again |
//! | [`mlp`] | two `F.linear` around `F.gelu` | the hidden layer before the activation, not after it |
//! | [`cross_entropy_sum`] | `F.cross_entropy(reduction="sum")` | four numbers a row |
//! | [`embedding`] | `F.embedding` | nothing |
//! | [`dropout`] | `F.dropout` | nothing: the mask is drawn again |
//!
//! An input that the tape can compute again, such as a weight that a sharded model gathers, is named on the tape and
//! not held. Outputs are never computed again by these operations themselves: on a device with
//! `gradient_checkpointing`, where Burn recomputes a GELU, they are kept; a unit's recomputation drops them.
//!
//! Sums over rows are taken in fixed blocks. Results do not depend on the number of threads.

mod attention;
mod cross_entropy;
mod dropout;
mod embedding;
mod gelu;
mod layer_norm;
mod mlp;
mod tape;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

pub use attention::{Attention, attention};
pub use cross_entropy::cross_entropy_sum;
pub use dropout::{Dropout, dropout};
pub use embedding::embedding;
pub use gelu::{gelu, gelu_approximate};
pub use layer_norm::layer_norm;
pub use mlp::{MlpWeights, mlp};
