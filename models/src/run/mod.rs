//! Parts that the examples share: command line, schedule, progress bar, evaluation and closing table.

mod args;
mod bert;
mod classes;
mod course;
mod evaluate;
mod fetch;
#[cfg(feature = "hub")]
mod hub;
mod meter;
mod pretrained;
mod report;
mod same_arguments;
mod schedule;
mod vit;
mod vocabulary;

pub use args::RunArgs;
pub use bert::{BertArgs, BertSize, Texts};
pub use classes::{Classes, same_classes};
pub use course::{Course, Progress};
pub use evaluate::{Evaluation, evaluate};
pub use meter::Meter;
pub use pretrained::{Pretrained, WeightArgs, shard_pretrained};
pub use report::Report;
pub use same_arguments::same_arguments;
pub use schedule::Schedule;
pub use vit::{Images, VitArgs, VitSize};
pub use vocabulary::shared_tokenizer;
