//! Saves as files of other programs and back, and two saves compared: what `burn-dist-save` does.
//!
//! Nothing here needs the Rust type of a model: an export reads what the manifest lists, and an import makes a module of
//! whatever tensors there are. Only [`Layout`] knows models, by their names in Hugging Face's files.
//!
//! - `chosen` is a save as the command line names it, `layout` the names in a file, `adamw` the settings
//!   of an AdamW, `states` what PyTorch's keeps;
//! - `tensor_files` are safetensors files to read, `transposed` a matrix of them the other way round;
//! - `export` writes a file of a save, and says so (`written`); `import` a save of a file, from a `loose_model`;
//! - `torch_state` loads such a file into a model and its optimizer, without a save;
//! - `difference` compares two saves; `refused` is the error of a tensor that does not fit.

mod adamw;
mod chosen;
mod difference;
mod export;
mod import;
mod layout;
mod loose_model;
mod refused;
mod states;
mod tensor_files;
mod torch_state;
mod transposed;
mod written;

pub use adamw::AdamWSettings;
pub use chosen::ChosenSave;
pub use difference::{Difference, differences};
pub use export::Export;
pub use import::{Import, Imported};
pub use layout::Layout;
pub use tensor_files::TensorFiles;
pub use torch_state::TorchState;
