//! What every rank stores whole because a layer of Burn's reads the shape of what is stored.

use crate::layout::Parameter;
use std::collections::{BTreeMap, HashMap};
use std::fmt;

/// A layer of Burn's that reads the shape of what is stored.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Reader {
    name: &'static str,
    /// What to use in its place.
    instead: Option<&'static str>,
}

static READERS: [Reader; 3] = [
    Reader {
        name: "BatchNorm",
        instead: None,
    },
    Reader {
        name: "RmsNorm",
        instead: Some("burn_dist::nn::RmsNorm"),
    },
    Reader {
        name: "PositionWiseFeedForward",
        instead: Some("burn_dist::nn::FeedForward"),
    },
];

/// The layer that `container` is, if it reads the shape of what is stored; by a visitor's word for it,
/// `Struct:RmsNorm`.
pub(super) fn reader(container: &str) -> Option<&'static Reader> {
    let layer = container.strip_prefix("Struct:")?;
    READERS.iter().find(|reader| reader.name == layer)
}

/// The parameters of such layers in a model.
#[derive(Debug, Default)]
pub(crate) struct StoredWhole {
    /// Elements by layer and path, in which `*` stands for any number.
    layers: BTreeMap<(&'static Reader, String), usize>,
    /// Elements of all parameters of the model.
    all: usize,
}

impl StoredWhole {
    /// Of `parameters` those that `read` names, each with its layer and the layer's path.
    pub(super) fn of(
        parameters: &[Parameter],
        read: &HashMap<String, (&'static Reader, Vec<String>)>,
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
    fn add(&mut self, layer: &'static Reader, path: &[String], elements: usize) {
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
        let mut layers = self.layers.keys();
        layers.any(|(layer, _)| layer.instead.is_some())
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
            write!(f, "{comma} {path} ({}", layer.name)?;
            match layer.instead {
                Some(instead) => write!(f, "; use {instead}, which is sharded)")?,
                None => write!(f, ")")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
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
        let layer = |name: &str| reader(&format!("Struct:{name}")).unwrap();
        whole.add(layer("BatchNorm"), &path("norm"), 10);
        assert!(!whole.is_avoidable());
        whole.add(
            layer("PositionWiseFeedForward"),
            &path("layers.0.pwff"),
            100,
        );
        whole.add(
            layer("PositionWiseFeedForward"),
            &path("layers.1.pwff"),
            100,
        );
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
        let name = |container| reader(container).map(|reader| reader.name);
        assert_eq!(name("Struct:RmsNorm"), Some("RmsNorm"));
        assert_eq!(name("Struct:ShardedRmsNorm"), None);
        assert_eq!(name("Vec"), None);
    }
}
