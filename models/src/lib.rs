//! The models that the examples and tests of burn-dist train, written as any Burn user would write them.
//!
//! A [`Vit`] or a [`Bert`] is an ordinary Burn module: it trains on one device with Burn alone, and its
//! parameters map one to one to those of a Hugging Face checkpoint. The models know of burn-dist a single
//! function, [`burn_dist::unit()`].
//!
//! # Why `unit`
//!
//! A fully sharded model holds only a slice of every weight. Which weights are gathered together decides on its
//! speed and memory: with small groups, most of the time is latency of the network; with large ones, most of
//! the model is in memory at once. In a transformer the block is the usual group, and a model marks it where it
//! calls one:
//!
//! ```
//! use burn::module::Module;
//! use burn::nn::{LayerNorm, LayerNormConfig, Linear, LinearConfig};
//! use burn::tensor::{Device, Tensor, activation::gelu};
//! use burn_dist::unit;
//!
//! #[derive(Module, Debug)]
//! struct Block {
//!     norm: LayerNorm,
//!     linear: Linear,
//! }
//!
//! impl Block {
//!     fn forward(&self, x: Tensor<2>) -> Tensor<2> {
//!         x.clone() + gelu(self.linear.forward(self.norm.forward(x)))
//!     }
//! }
//!
//! #[derive(Module, Debug)]
//! struct Stack {
//!     blocks: Vec<Block>,
//!     head: Linear,
//! }
//!
//! impl Stack {
//!     fn forward(&self, x: Tensor<2>) -> Tensor<2> {
//!         // The outermost unit sees the whole model and owns what no inner unit claims: the head.
//!         unit(self, x, |stack: &Stack, mut x| {
//!             for block in &stack.blocks {
//!                 x = unit(block, x, |block: &Block, x| block.forward(x));
//!             }
//!             stack.head.forward(x)
//!         })
//!     }
//! }
//!
//! let device = Device::flex();
//! let block = || Block {
//!     norm: LayerNormConfig::new(8).init(&device),
//!     linear: LinearConfig::new(8, 8).init(&device),
//! };
//! let model = Stack {
//!     blocks: vec![block(), block()],
//!     head: LinearConfig::new(8, 3).init(&device),
//! };
//! assert_eq!(model.forward(Tensor::ones([4, 8], &device)).dims(), [4, 3]);
//! ```
//!
//! Outside a sharded model `unit` calls the closure and adds nothing. Inside one it gathers the block's
//! weights before the closure runs and reshards them afterwards. The closure must be repeatable, because a
//! backward pass may run it again: every tensor that it uses is one of its inputs, and everything else that it
//! captures is a plain value. Random numbers must be the same both times; [`burn_dist::Noise`] has such numbers.
//!
//! # What is here
//!
//! - [`vit`]: the Vision Transformer and its presets;
//! - [`bert`]: BERT and DistilBERT, which classify texts or fill in words, and their presets;
//! - [`hf`]: names and configurations of Hugging Face checkpoints;
//! - [`data`]: CIFAR-10 and AG News, images and texts that need no files, word pieces, augmentation and batching;
//! - [`run`]: what the examples share: command line, schedule, progress, evaluation, report;
//! - [`saves`]: saves as files of other programs and back: what the program `burn-dist-save` does.

pub mod bert;
mod config;
pub mod data;
pub mod hf;
mod init;
#[cfg(test)]
mod parameter_count;
pub mod run;
pub mod saves;
mod transformer_flops;
pub mod vit;

pub use bert::{Bert, BertClassifier, BertConfig, BertMaskedLm};
pub use config::ConfigError;
pub use vit::{Vit, VitConfig};
