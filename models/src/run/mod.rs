//! Parts that the examples share: command line, progress bar, evaluation and closing table.

mod args;
mod bert;
mod classes;
mod evaluate;
mod fetch;
#[cfg(feature = "images")]
mod folder_images;
mod global_batch;
#[cfg(feature = "hub")]
mod hub;
mod image_args;
mod image_source;
mod meter;
mod positions;
mod preprocessing;
mod pretrained;
mod report;
mod same_arguments;
mod vit;
mod vocabulary;

pub use args::RunArgs;
pub use bert::{BertArgs, BertSize, Texts};
pub use classes::{Classes, same_classes};
pub use evaluate::{Evaluation, evaluate};
pub use image_args::{BrokenImages, ImageArgs};
pub use meter::Meter;
pub use pretrained::{Pretrained, WeightArgs, shard_pretrained};
pub use report::Report;
pub use same_arguments::same_arguments;
pub use vit::{Images, VitArgs, VitSize};
pub use vocabulary::{same_vocabulary, shared_tokenizer, vocabulary_checksum};
