//! Names, layouts and configurations of Hugging Face checkpoints.
//!
//! What its parameters are called there and which fields its `config.json` has, each model knows itself
//! (`vit::hf_name`, `bert::hf_name`); how names are looked up and fields read is the same for all.

mod fields;
mod names;
mod preprocessor;

pub(crate) use fields::{Fields, labels, written};
pub use fields::{HfConfigError, class_names, with_classes};
pub use names::HfName;
pub(crate) use names::Names;
pub use preprocessor::{Preprocessor, PreprocessorError, Resample, Resize};
