//! Whether an optimizer's plain step was taken although parameters of the model have owners.
//!
//! Gradients of owned parameters are handed out for a stepper alone, so a plain step changes the others only. That is seen
//! at the next step: gradients were handed out, no stepper took them, another parameter was changed, and an owned one was not.
//! Where every parameter has an owner, one of them has a decoy for a gradient, which is not a number, and so is then the parameter.

use super::gradients::PartGradients;
use crate::error::{Error, Result};
use crate::shard::memory::Shard;
use crate::shard::model::{ShardedParam, Sharding, Visit, Witness, walk};
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
        match sharding.owners.witness().filter(|_| was_untaken) {
            Some(Witness::Pair { owned, other }) => {
                if let (Some(owned_now), Some(other_now)) = (now(owned.0), now(other.0))
                    && owned.1.is(&owned_now.1)
                    && !other.1.is(&other_now.1)
                {
                    let (other, owned) = (other_now.2, owned_now.2);
                    return Err(missed(format!(
                        "changed {other} and left {owned} as it was"
                    )));
                }
            }
            Some(Witness::Decoy(decoy)) => {
                let (at, before) = *decoy;
                if let Some((_, after, path)) = now(at)
                    && !before.is(after)
                    && is_not_a_number(sharding, at, after)?
                {
                    return Err(missed(format!("left {path} without a number")));
                }
            }
            None => {}
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
            Some(Box::new((smallest.0, smallest.1.clone())))
        };
        let witness = match (smallest(true), smallest(false)) {
            (Some(owned), Some(other)) => Some(Witness::Pair { owned, other }),
            (Some(owned), None) => Some(Witness::Decoy(owned)),
            (None, _) => None,
        };
        sharding.owners.set_witness(witness);
    }
    Ok(())
}

fn missed(what: String) -> Error {
    Error::Optimizer {
        problem: format!(
            "the last step {what}: the model has a stepper, and its gradients went to an \
             optimizer's own step"
        ),
        remedy: "step it with stepper.step(rate, model, grads)? and with nothing else".into(),
    }
}

/// Whether what this rank stores of a parameter has no number.
fn is_not_a_number(
    sharding: &Sharding,
    (unit, slot): (usize, usize),
    shard: &Shard,
) -> Result<bool> {
    let layout = &sharding.unit(unit).layout;
    let len = sharding.slot_in_shard(unit, slot).len();
    let stored = shard.slice(0..len, layout.dtype, &[len]);
    Ok(stored.numbers()?.iter().any(|number| number.is_nan()))
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
