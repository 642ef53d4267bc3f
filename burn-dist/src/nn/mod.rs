//! Layers for models that are sharded.
//!
//! They have the names, fields, paths, settings and initial values of [`burn::nn`]'s, so an import is all that
//! changes, and records and weights go both ways. What Burn's do that a sharded model suffers from, they do not:
//!
//! | layer | Burn's own, sharded |
//! |---|---|
//! | [`FeedForward`], [`RmsNorm`] | reads the shape of what is stored, so every rank stores all of it |
//! | [`SyncBatchNorm`] | as above, and normalises by each rank's own batch |
//! | [`Linear`], and all that is made of it | may keep the weight on the tape, expanded to the batch |
//! | [`Dropout`] | draws from one generator for all ranks of a process: no run repeats, no unit is recomputed |
//! | [`Embedding`] | copies the gathered table in each forward |
//! | [`TransformerEncoder`], [`TransformerDecoder`] | is not divided into units; all of the above |
//! | [`LayerNorm`], [`MultiHeadAttention`] | is composed of many passes over memory on a CPU |
//!
//! On a CPU in f32 they use the operations in one pass of [`functional`]; anywhere else those are Burn's
//! compositions. The operations know nothing of ranks; they are a crate of their own, `burn-dist-nn`, that any Burn
//! program may use.

mod attention;
mod batch_norm;
mod decoder;
mod dropout;
mod embedding;
mod encoder;
mod feed_forward;
mod half;
mod layer_norm;
mod linear;
pub mod loss;
mod rms_norm;
mod transformer;

pub use attention::{MhaInput, MhaOutput, MultiHeadAttention, MultiHeadAttentionConfig};
pub use batch_norm::{SyncBatchNorm, SyncBatchNormConfig};
#[doc(inline)]
pub use burn_dist_nn::functional;
pub use decoder::{
    TransformerDecoder, TransformerDecoderConfig, TransformerDecoderInput, TransformerDecoderLayer,
};
pub use dropout::{DropPath, DropPathConfig, Dropout, DropoutConfig};
pub use embedding::{Embedding, EmbeddingConfig};
pub use encoder::{
    TransformerEncoder, TransformerEncoderConfig, TransformerEncoderInput, TransformerEncoderLayer,
};
pub use feed_forward::{FeedForward, FeedForwardConfig};
pub use layer_norm::{LayerNorm, LayerNormConfig};
pub use linear::{Linear, LinearConfig};
#[doc(inline)]
pub use rms_norm::{RmsNormConfig, ShardedRmsNorm as RmsNorm};

use burn::module::Initializer;

/// What Burn draws the parameters of linear layers from.
fn kaiming() -> Initializer {
    Initializer::KaimingUniform {
        gain: 1.0 / 3f64.sqrt(),
        fan_out_only: false,
    }
}
