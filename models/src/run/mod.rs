//! What an example needs and nobody comes to an example for: its command line, its schedule, its
//! progress bar, its evaluation and its closing table.

mod alike;
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
mod schedule;
mod vit;
mod vocabulary;

pub use alike::same_arguments;
pub use args::RunArgs;
pub use bert::{BertArgs, BertSize, Texts};
pub use classes::{Classes, same_classes};
pub use course::{Course, Progress};
pub use evaluate::{Evaluation, evaluate};
pub use meter::Meter;
pub use pretrained::{Pretrained, WeightArgs, sharded};
pub use report::Report;
pub use schedule::Schedule;
pub use vit::{Images, VitArgs, VitSize};
pub use vocabulary::shared;
