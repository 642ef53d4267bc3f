//! Whether an optimizer's plain step was taken although parameters of the model have owners.
//!
//! Gradients of owned parameters are handed out for a stepper alone, so a plain step changes the others only. That is seen
//! at the next step: gradients were handed out, no stepper took them, another parameter was changed, and an owned one was not.

use super::gradients::PartGradients;
use crate::error::{Error, Result};
use crate::shard::memory::Shard;
use crate::shard::model::{ShardedParam, Visit, Witness, walk};
use burn::module::{Module, Param};
use burn::tensor::Tensor;
use std::sync::Arc;

/// Fails if the last gradients went past the model's stepper; notes what these ones are handed out for.
///
/// # Errors
/// [`Error::Optimizer`]; what reading a device fails with.
pub(super) fn check<M: Module>(model: &M, parts: &[PartGradients]) -> Result<()> {
    if parts.iter().all(|part| part.sharding.owners.is_empty()) {
        return Ok(());
    }
    let mut collect = Collect(Vec::new());
    walk(model, &mut collect);
    for part in parts {
        let sharding = &part.sharding;
        let own = collect.0.iter();
        let own: Vec<_> = own
            .filter(|piece| Arc::ptr_eq(&piece.param.sharding, sharding))
            .map(|piece| {
                let (unit, slot) = (piece.param.unit, piece.param.slot);
                Ok(((unit, slot), piece.shard.clone()?, &piece.path))
            })
            .collect::<Result<_>>()?;
        let now = |key: (usize, usize)| own.iter().find(|(known, ..)| *known == key);
        let was_untaken = sharding.owners.take();
        if let Some(Witness { owned, other }) = sharding.owners.witness().filter(|_| was_untaken)
            && let (Some(owned_now), Some(other_now)) = (now(owned.0), now(other.0))
            && owned.1.is(&owned_now.1)
            && !other.1.is(&other_now.1)
        {
            return Err(Error::Optimizer {
                problem: format!(
                    "the last step changed {} and left {} as it was: the model has a stepper, and \
                     its gradients went to an optimizer's own step",
                    other_now.2, owned_now.2
                ),
                remedy: "step it with stepper.step(rate, model, grads)? and with nothing else"
                    .into(),
            });
        }
        let has_gradient = |(unit, slot): (usize, usize)| {
            let gradients = part.units.get(unit).and_then(Option::as_ref);
            gradients.is_some_and(|gradients| gradients.present[slot])
        };
        // Those of few elements: they are held until the next step.
        let smallest = |is_owned: bool| {
            let fits = own.iter().filter(|((unit, slot), shard, _)| {
                shard.size() > 0
                    && has_gradient((*unit, *slot))
                    && sharding.owners.of(*unit, *slot).is_some() == is_owned
            });
            let smallest = fits.min_by_key(|(key, shard, _)| (shard.size(), *key))?;
            Some((smallest.0, smallest.1.clone()))
        };
        let pair = smallest(true).zip(smallest(false));
        let witness = pair.map(|(owned, other)| Witness { owned, other });
        sharding.owners.set_witness(witness);
    }
    Ok(())
}

struct Collect(Vec<Stored>);

struct Stored {
    path: String,
    param: ShardedParam,
    shard: Result<Shard>,
}

impl Visit for Collect {
    type Held = Result<Shard>;

    fn hold<const D: usize>(&mut self, param: &Param<Tensor<D>>) -> Self::Held {
        Shard::of(param.base())
    }

    fn sharded(&mut self, path: &str, shard: Self::Held, param: ShardedParam) {
        let path = path.to_string();
        self.0.push(Stored { path, param, shard });
    }
}
