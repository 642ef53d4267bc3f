//! Weights from a Hugging Face checkpoint into a Vision Transformer.
//!
//! The source is a function from name to data rather than a file: the same loading serves a file in
//! memory, a mapped one, several shards, or a test.

use burn::tensor::TensorData;

use super::{Vit, hf_name};
use crate::hf::{LoadError, load};

impl Vit {
    /// This model with every parameter replaced by the tensor that `source` has under its
    /// [Hugging Face name](hf_name).
    ///
    /// `source` returns data in the checkpoint's layout, or `None` if it has none. Parameters take the dtype
    /// of their data (convert there for another precision), and keep their device, identity and whether they
    /// train. A parameter that was not drawn yet never is.
    ///
    /// # Errors
    ///
    /// A [`LoadError`] if tensors are missing or a shape differs.
    ///
    /// # Example
    ///
    /// ```
    /// use burn::tensor::Device;
    /// use models::{VitConfig, hf::LoadError};
    ///
    /// # fn main() -> Result<(), models::ConfigError> {
    /// let vit = VitConfig::tiny(10).init(&Device::flex())?;
    /// let empty = vit.load_hf(|_name| None);
    /// assert!(matches!(empty, Err(LoadError::Missing { names, .. }) if names.len() == 72));
    /// # Ok(())
    /// # }
    /// ```
    pub fn load_hf(
        self,
        source: impl FnMut(&str) -> Option<TensorData>,
    ) -> Result<Self, LoadError> {
        load(self, "ViTForImageClassification", hf_name, source)
    }
}
