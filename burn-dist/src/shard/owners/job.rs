//! A parameter that is stepped whole, and its owner: a pure function of the layout and the number of ranks.

use crate::error::{Error, Result};
use crate::shard::check::{MOST_DIMENSIONS, Trial};
use crate::shard::memory::{Primitive, Shard};
use crate::shard::model::{Sharding, assign, cost};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A parameter that one rank steps whole.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) path: String,
    pub(super) sharding: Arc<Sharding>,
    pub(super) unit: usize,
    pub(super) slot: usize,
    /// The owner's number among the ranks that share the unit.
    pub(super) owner: usize,
    /// The piece that this rank stored last, to see whether another one was stored since.
    pub(super) stored: Option<Shard>,
    /// All of it, on its owner.
    pub(super) whole: Option<Primitive>,
}

impl Job {
    pub(super) fn is_mine(&self) -> bool {
        self.owner == self.sharding.shard_group.rank()
    }

    pub(super) fn shape(&self) -> &[usize] {
        &self.sharding.unit(self.unit).layout.slots[self.slot].shape
    }
}

/// The jobs for the parameters that `trials` found, in the order of the model, and their owners made known to their
/// shardings.
///
/// # Errors
/// [`Error::Optimizer`] for a parameter of more dimensions than can be stepped whole, and for replicas on GPUs.
pub(super) fn jobs(trials: &[&Trial], shardings: &[Arc<Sharding>]) -> Result<Vec<Job>> {
    let mut jobs = Vec::new();
    for sharding in shardings {
        let own = trials.iter();
        let own: Vec<_> = own
            .filter(|trial| Arc::ptr_eq(&trial.param.sharding, sharding))
            // What is frozen is not stepped at all.
            .filter(|trial| sharding.unit(trial.param.unit).layout.trainable)
            .collect();
        let shape = |trial: &Trial| {
            let layout = &sharding.unit(trial.param.unit).layout;
            layout.slots[trial.param.slot].shape.clone()
        };
        let costs: Vec<u128> = own.iter().map(|trial| cost(&shape(trial))).collect();
        let owners = assign(&costs, sharding.shard_group.size());
        let mut known = BTreeMap::new();
        for (trial, owner) in own.into_iter().zip(owners) {
            let (unit, slot) = (trial.param.unit, trial.param.slot);
            let dimensions = shape(trial).len();
            if !(1..=MOST_DIMENSIONS).contains(&dimensions) {
                let problem = format!(
                    "a step of {} whole differs from a step of its shards, and it has {dimensions} \
                     dimensions, where 1 to {MOST_DIMENSIONS} can be stepped whole",
                    trial.path
                );
                let remedy =
                    "give it an element-wise optimizer of its own (ModuleOptimizer::with_group)";
                let remedy = remedy.to_string();
                return Err(Error::Optimizer { problem, remedy });
            }
            known.insert((unit, slot), owner);
            jobs.push(Job {
                path: trial.path.clone(),
                sharding: sharding.clone(),
                unit,
                slot,
                owner,
                stored: None,
                whole: None,
            });
        }
        if !known.is_empty() && sharding.residence.is_device() && sharding.replica_group.size() > 1
        {
            return Err(Error::Optimizer {
                problem:
                    "it steps parameters whole, and replicas on GPUs may each choose other kernels \
                          for that and drift apart"
                        .into(),
                remedy: "use Strategy::fsdp() for it, or an element-wise optimizer".into(),
            });
        }
        sharding.owners.set(known);
    }
    Ok(jobs)
}

/// The jobs that travel together, by their numbers: of one sharding and type, and one of each owner, the longest
/// first, so that owners compute at the same time.
pub(super) fn buckets(jobs: &[Job]) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..jobs.len()).collect();
    order.sort_by_key(|job| (std::cmp::Reverse(cost(jobs[*job].shape())), *job));
    let mut buckets: Vec<Vec<usize>> = Vec::new();
    for number in order {
        let job = &jobs[number];
        let dtype = |job: &Job| job.sharding.unit(job.unit).layout.dtype;
        let fits = |bucket: &&mut Vec<usize>| {
            bucket.iter().all(|other| {
                let other = &jobs[*other];
                Arc::ptr_eq(&other.sharding, &job.sharding)
                    && dtype(other) == dtype(job)
                    && other.owner != job.owner
            })
        };
        match buckets.iter_mut().find(fits) {
            Some(bucket) => bucket.push(number),
            None => buckets.push(vec![number]),
        }
    }
    buckets
}
