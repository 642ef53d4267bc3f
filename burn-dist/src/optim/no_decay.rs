//! The parameters whose weights do not decay.

use super::groups::{GroupedParameter, Groups};
use crate::error::Result;
use burn::module::ParamGroup;
use std::collections::BTreeSet;

/// A choice of parameters without weight decay; made by [`Groups::no_decay`].
///
/// ```
/// use burn::nn::{EmbeddingConfig, LayerNormConfig};
/// use burn::tensor::Device;
/// use burn_dist::optim::Groups;
///
/// let words = EmbeddingConfig::new(100, 8).init(&Device::flex().autodiff());
/// let groups = Groups::of(&words)?;
/// assert_eq!(groups.no_decay().paths().count(), 0); // a table decays in Hugging Face's Trainer,
/// assert_eq!(groups.no_decay().embeddings().paths().count(), 1); // and not in timm
/// # Ok::<(), burn_dist::Error>(())
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct NoDecay<'a> {
    groups: &'a Groups,
    paths: BTreeSet<&'a str>,
}

impl Groups {
    /// What does not decay in the field's recipes: parameters of at most one dimension, which are biases and the
    /// scales and shifts of norms.
    ///
    /// Shapes are full ones, so a rank's shard of a matrix is none of them.
    ///
    /// # Source
    /// Hugging Face: `Trainer.get_decay_parameter_names`; timm: `param_groups_weight_decay`.
    pub fn no_decay(&self) -> NoDecay<'_> {
        let none = NoDecay {
            groups: self,
            paths: BTreeSet::new(),
        };
        none.and(|parameter| parameter.shape().len() <= 1)
    }
}

impl<'a> NoDecay<'a> {
    /// Embeddings do not decay either: parameters of a struct whose name begins with `Embedding`, which in the models
    /// here are tables, positions and the class token.
    ///
    /// # Source
    /// timm exempts positions and class tokens (`no_weight_decay`); Hugging Face's Trainer lets all of them decay.
    pub fn embeddings(self) -> Self {
        self.and(|parameter| parameter.layer().starts_with("Embedding"))
    }

    /// Neither do the parameters at these paths, with patterns as for [`Groups::at`].
    ///
    /// # Errors
    /// [`Error::Model`](crate::Error::Model) for a pattern that names no trainable parameter, with the nearest path.
    pub fn at(mut self, patterns: impl IntoIterator<Item = impl AsRef<str>>) -> Result<Self> {
        self.paths.extend(self.groups.paths(patterns)?);
        Ok(self)
    }

    /// Their paths, sorted.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.paths.iter().copied()
    }

    /// The group, for an optimizer without decay: `adamw.with_group(group, undecayed, None)`.
    pub fn group(&self) -> ParamGroup {
        ParamGroup::from_paths(self.paths.iter().copied().collect())
    }

    fn and(mut self, choose: impl Fn(&GroupedParameter) -> bool) -> Self {
        let chosen = self.groups.parameters().iter().filter(|p| choose(p));
        self.paths.extend(chosen.map(GroupedParameter::path));
        self
    }
}
