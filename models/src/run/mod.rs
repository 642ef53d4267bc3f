//! Parts that the examples share: command line, progress bar, evaluation and closing table.

mod args;
mod bert;
mod classes;
mod command_line;
mod config_file;
mod division;
mod evaluate;
mod fetch;
#[cfg(feature = "images")]
mod folder_images;
mod global_batch;
#[cfg(feature = "hub")]
mod hub;
mod image_args;
mod image_source;
mod log_args;
mod lora_args;
mod meter;
mod monitor;
mod optimizer;
mod optimizer_kind;
mod optimizer_state;
mod peak;
mod positions;
mod preprocessing;
mod pretrained;
mod recording;
mod report;
mod results;
mod same_arguments;
mod saving;
mod schedule_kind;
mod sharding_args;
mod values;
mod vit;
mod vocabulary;
mod work;

pub use args::RunArgs;
pub use bert::{BertArgs, BertSize, Texts};
pub use classes::{Classes, same_classes};
pub use command_line::{CommandLine, parse, parse_from};
pub use evaluate::evaluate;
pub use image_args::{BrokenImages, ImageArgs};
pub use log_args::{LogArgs, Steps};
pub use lora_args::LoraArgs;
pub use meter::Meter;
pub use monitor::{BestEpoch, Monitor};
pub use optimizer::OptimizerArgs;
pub use optimizer_kind::OptimizerKind;
pub use optimizer_state::OptimizerState;
pub use pretrained::{Pretrained, WeightArgs, shard_pretrained};
pub use report::Report;
pub use same_arguments::same_arguments;
pub use schedule_kind::ScheduleKind;
pub use sharding_args::ShardingArgs;
pub use vit::{Images, VitArgs, VitSize};
pub use vocabulary::{same_vocabulary, shared_tokenizer, vocabulary_checksum};
pub use work::Work;

/// A model's name: its kind, and its size as it is given on the command line.
fn named(kind: &str, size: &impl clap::ValueEnum) -> String {
    let size = size.to_possible_value();
    let size = size.as_ref().map_or("", |value| value.get_name());
    format!("{kind}-{size}")
}
