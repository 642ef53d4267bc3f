//! The parameters of a model that train: those of all its shardings, and none that no sharding holds.

use super::gradients::TrainedParam;
use crate::error::{Error, Result};
use crate::shard::model::{ShardedParam, Sharding, Visit, is_trainable, not_sharded, walk};
use burn::module::{Module, Param};
use burn::tensor::Tensor;
use std::sync::Arc;

/// A model's parameters that take part in training.
#[derive(Debug, Default)]
pub(crate) struct Trained {
    /// The shardings of the model, in its order.
    pub(crate) shardings: Vec<Arc<Sharding>>,
    pub(crate) params: Vec<TrainedParam>,
}

impl Trained {
    /// # Errors
    /// [`Error::Model`] if `model` was not sharded, and for trainable parameters that no sharding
    /// holds: nobody would reduce their gradients.
    pub(crate) fn of<M: Module>(model: &M) -> Result<Self> {
        let mut found = FindTrained::default();
        walk(model, &mut found);
        let FindTrained { trained, unheld } = found;
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
struct FindTrained {
    trained: Trained,
    /// Trainable parameters of no sharding.
    unheld: Vec<String>,
}

impl Visit for FindTrained {
    /// The parameter, and whether it takes gradients.
    type Held = (TrainedParam, bool);

    fn hold<const D: usize>(&mut self, param: &Param<Tensor<D>>) -> Self::Held {
        (TrainedParam::new(param), is_trainable(param))
    }

    fn sharded(&mut self, _: &str, (trained, _): Self::Held, param: ShardedParam) {
        let shardings = &mut self.trained.shardings;
        let known = shardings
            .iter()
            .position(|sharding| Arc::ptr_eq(sharding, &param.sharding));
        let part = known.unwrap_or_else(|| {
            shardings.push(param.sharding.clone());
            shardings.len() - 1
        });
        let trained = trained.at(part, param.unit, param.slot);
        self.trained.params.push(trained);
    }

    fn plain(&mut self, path: &str, (_, trainable): Self::Held) {
        if trainable {
            self.unheld.push(path.into());
        }
    }

    fn ignored(&mut self, _: &str, _: Self::Held) {}
}
