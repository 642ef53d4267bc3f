//! What every rank stores whole because a layer of Burn's reads the shape of what is stored.

use crate::layout::Parameter;
use std::collections::{BTreeMap, HashMap};
use std::fmt;

/// Burn layers that read the shape of what is stored, and what to use in their place.
const READ_STORED_SHAPE: [(&str, Option<&str>); 3] = [
    ("BatchNorm", None),
    ("RmsNorm", Some("burn_dist::nn::RmsNorm")),
    (
        "PositionWiseFeedForward",
        Some("burn_dist::nn::FeedForward"),
    ),
];

/// The name of a layer that reads the shape of what is stored, if `container` is one; by a visitor's
/// word for it, `Struct:RmsNorm`.
pub(super) fn reader(container: &str) -> Option<&'static str> {
    let layer = container.strip_prefix("Struct:")?;
    let mut readers = READ_STORED_SHAPE.iter();
    readers
        .find(|(name, _)| *name == layer)
        .map(|(name, _)| *name)
}

/// The parameters of such layers in a model.
#[derive(Debug, Default)]
pub(crate) struct StoredWhole {
    /// Elements by layer and path, in which `*` stands for any number.
    layers: BTreeMap<(&'static str, String), usize>,
    /// Elements of all parameters of the model.
    all: usize,
}

impl StoredWhole {
    /// Of `parameters` those that `read` names, each with its layer and the layer's path.
    pub(super) fn of(
        parameters: &[Parameter],
        read: &HashMap<String, (&'static str, Vec<String>)>,
    ) -> Self {
        let mut whole = Self::default();
        for parameter in parameters {
            let elements = parameter.shape.iter().product();
            whole.all += elements;
            if let Some((layer, path)) = read.get(&parameter.path) {
                whole.add(layer, path, elements);
            }
        }
        whole
    }

    /// Counts a parameter of the layer at `path`.
    fn add(&mut self, layer: &'static str, path: &[String], elements: usize) {
        let names = path.iter().map(|name| {
            if name.parse::<usize>().is_ok() {
                "*"
            } else {
                name.as_str()
            }
        });
        let path = names.collect::<Vec<_>>().join(".");
        *self.layers.entry((layer, path)).or_default() += elements;
    }

    /// Whether another layer would shard what this model stores whole.
    pub(super) fn is_avoidable(&self) -> bool {
        let instead = |(layer, _): &(&str, String)| {
            let mut readers = READ_STORED_SHAPE.iter();
            readers.any(|(name, instead)| name == layer && instead.is_some())
        };
        self.layers.keys().any(instead)
    }
}

impl fmt::Display for StoredWhole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole: usize = self.layers.values().sum();
        let share = 100.0 * whole as f64 / self.all.max(1) as f64;
        write!(
            f,
            "{share:.0} % of the parameters ({whole} of {}) are not sharded: every rank stores all of them and of \
             their optimizer states, because these layers of Burn's read the shape of what is stored:",
            self.all
        )?;
        for (at, ((layer, path), _)) in self.layers.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            let path = if path.is_empty() { "the model" } else { path };
            write!(f, "{comma} {path} ({layer}")?;
            let mut readers = READ_STORED_SHAPE.iter();
            match readers.find(|(name, _)| name == layer) {
                Some((_, Some(instead))) => write!(f, "; use {instead}, which is sharded)")?,
                _ => write!(f, ")")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Vec<String> {
        text.split('.').map(String::from).collect()
    }

    #[test]
    fn equal_layers_are_named_once_with_their_replacement() {
        let mut whole = StoredWhole {
            all: 400,
            ..StoredWhole::default()
        };
        assert!(!whole.is_avoidable());
        whole.add("BatchNorm", &path("norm"), 10);
        assert!(!whole.is_avoidable());
        whole.add("PositionWiseFeedForward", &path("layers.0.pwff"), 100);
        whole.add("PositionWiseFeedForward", &path("layers.1.pwff"), 100);
        assert!(whole.is_avoidable());
        let text = whole.to_string();
        assert!(
            text.starts_with("52 % of the parameters (210 of 400)"),
            "{text}"
        );
        assert!(text.contains("norm (BatchNorm)"), "{text}");
        let replaced = "layers.*.pwff (PositionWiseFeedForward; use burn_dist::nn::FeedForward, which is sharded)";
        assert!(text.contains(replaced), "{text}");
    }

    #[test]
    fn layers_are_found_by_their_name() {
        assert_eq!(reader("Struct:RmsNorm"), Some("RmsNorm"));
        assert_eq!(reader("Struct:ShardedRmsNorm"), None);
        assert_eq!(reader("Vec"), None);
    }
}
