//! What of a model trains: the parts it was sharded in, and nothing beside them.

use super::full::not_sharded;
use super::gradients::Entry;
use super::sharded::{Identity, Visit, walk};
use super::sharding::Sharding;
use super::survey::trainable;
use crate::error::{Error, Result};
use burn::module::{Module, Param};
use burn::tensor::Tensor;
use std::sync::Arc;

/// A model's parameters that take part in training.
#[derive(Debug, Default)]
pub(super) struct Trained {
    /// The parts that the model was sharded in, in the order in which it shows them.
    pub(super) shardings: Vec<Arc<Sharding>>,
    pub(super) entries: Vec<Entry>,
}

impl Trained {
    /// # Errors
    /// [`Error::Model`] if `model` was not sharded, and for trainable parameters that no sharding
    /// holds: nobody would reduce their gradients.
    pub(super) fn of<M: Module>(model: &M) -> Result<Self> {
        let mut look = Look::default();
        walk(model, &mut look);
        let Look { trained, unheld } = look;
        match unheld.as_slice() {
            _ if trained.shardings.is_empty() => Err(not_sharded()),
            [] => Ok(trained),
            unheld => Err(Error::model(
                some_of(unheld),
                "would never train: it takes gradients, and no sharding of this model holds it",
                "shard the part it belongs to (Strategy::ddp().shard(..) replicates it), freeze it \
                 (no_grad), or say that it is to be left alone (Strategy::ignore)",
            )),
        }
    }
}

/// The first few paths.
fn some_of(paths: &[String]) -> String {
    const MOST: usize = 5;
    match paths.len() {
        0..=MOST => paths.join(", "),
        more => format!("{} and {} more", paths[..MOST].join(", "), more - MOST),
    }
}

#[derive(Default)]
struct Look {
    trained: Trained,
    /// Trainable parameters of no sharding.
    unheld: Vec<String>,
}

impl Visit for Look {
    /// The parameter, and whether it takes gradients.
    type Held = (Entry, bool);

    fn hold<const D: usize>(&mut self, param: &Param<Tensor<D>>) -> Self::Held {
        (Entry::new(param), trainable(param))
    }

    fn sharded(&mut self, _: &str, (entry, _): Self::Held, identity: Identity) {
        let shardings = &mut self.trained.shardings;
        let known = shardings
            .iter()
            .position(|sharding| Arc::ptr_eq(sharding, &identity.sharding));
        let part = known.unwrap_or_else(|| {
            shardings.push(identity.sharding.clone());
            shardings.len() - 1
        });
        let entry = entry.at(part, identity.unit, identity.slot);
        self.trained.entries.push(entry);
    }

    fn plain(&mut self, path: &str, (_, trainable): Self::Held) {
        if trainable {
            self.unheld.push(path.into());
        }
    }

    fn ignored(&mut self, _: &str, _: Self::Held) {}
}
