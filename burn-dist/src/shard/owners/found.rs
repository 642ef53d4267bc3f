//! The parameters of a model that are stepped whole, as they are stored now, and how new ones are stored.

use super::job::Job;
use crate::error::{Error, Result};
use crate::shard::memory::{Primitive, Shard};
use crate::shard::model::{ShardedParam, Visit, id_for_stepper, walk};
use burn::module::{Module, ModuleMapper, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use std::collections::HashMap;
use std::sync::Arc;

/// A parameter as it is stored.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) id: ParamId,
    pub(super) shard: Shard,
    /// What this rank has of its gradient; none if no rank has any.
    pub(super) gradient: Option<Primitive>,
}

/// Those of `jobs`, in their order, with the gradients that were handed out for them.
///
/// # Errors
/// [`Error::Model`] for a parameter that `model` has not.
pub(super) fn find<M: Module>(
    model: &M,
    jobs: &[Job],
    gradients: &mut GradientsParams,
) -> Result<Vec<Found>> {
    let mut find = Find {
        jobs,
        gradients,
        found: jobs.iter().map(|_| None).collect(),
    };
    walk(model, &mut find);
    let pairs = find.found.into_iter().zip(jobs);
    pairs
        .map(|(found, job)| {
            found.ok_or_else(|| {
                Error::model(
                    &job.path,
                    "is stepped by this stepper, and not in this model",
                    "step the model that the stepper was made for (world.stepper(optimizer, &model))",
                )
            })?
        })
        .collect()
}

struct Find<'a> {
    jobs: &'a [Job],
    gradients: &'a mut GradientsParams,
    found: Vec<Option<Result<Found>>>,
}

type Take = fn(&mut GradientsParams, ParamId) -> Option<Result<Primitive>>;

impl Visit for Find<'_> {
    type Held = (ParamId, Result<Shard>, Take);

    fn hold<const D: usize>(&mut self, param: &Param<Tensor<D>>) -> Self::Held {
        let take: Take = |gradients, id| gradients.remove::<D>(id).map(Primitive::of);
        (param.id, Shard::of(param.base()), take)
    }

    fn sharded(&mut self, _: &str, (id, shard, take): Self::Held, param: ShardedParam) {
        let place = self.jobs.iter().position(|job| {
            (job.unit, job.slot) == (param.unit, param.slot)
                && Arc::ptr_eq(&job.sharding, &param.sharding)
        });
        if let Some(place) = place {
            // What a plain step would have taken.
            drop(take(self.gradients, id));
            let gradient = take(self.gradients, id_for_stepper(id)).transpose();
            let found = gradient.and_then(|gradient| {
                let shard = shard?;
                Ok(Found {
                    id,
                    shard,
                    gradient,
                })
            });
            self.found[place] = Some(found);
        }
    }
}

/// Stores new tensors to the parameters with these ids, as Burn's optimizers do.
pub(super) fn store<M: Module>(model: M, tensors: HashMap<ParamId, Primitive>) -> M {
    model.map(&mut Store(tensors))
}

struct Store(HashMap<ParamId, Primitive>);

impl ModuleMapper for Store {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(new) = self.0.remove(&param.id) else {
            return param;
        };
        let (id, old, mapper) = param.consume();
        let mut tensor = Tensor::from_inner(new.into_tensor::<D>());
        if let Some(strategy) = old.gradient_checkpointing_strategy() {
            tensor = tensor.with_gradient_checkpointing_strategy(strategy);
        }
        if old.is_require_grad() {
            tensor = tensor.require_grad();
        }
        Param::from_mapped_value(id, tensor, mapper)
    }
}
