//! One step's backward passes, run one after the other and completed together.

use super::backward::{Reduced, Session, Stage, Steps};
use super::full::not_sharded;
use super::gradients::{Entry, ShardedGradients, UnitGradients};
use super::ops;
use super::running::average_running_state;
use super::sharded::{Identity, Visit, walk};
use super::sharding::Sharding;
use crate::comm::{Reduce, SpanMut};
use crate::error::{Error, Result};
use crate::strategy::When;
use crate::unwind::catch_raised;
use crate::world::World;
use burn::module::{Module, Param};
use burn::tensor::Tensor;
use std::sync::Arc;

/// The backward passes of one step.
///
/// Which traffic each one causes is the strategy's: FSDP and ZeRO-2 reduce every micro-batch to
/// keep gradients cut, DDP and ZeRO-1 reduce once, at the end.
#[derive(Debug)]
pub struct Accumulation<'a, M: Module> {
    world: &'a World,
    model: &'a M,
    sharding: Arc<Sharding>,
    entries: Vec<Entry>,
    only: bool,
    /// What the backward passes came to so far, by unit.
    sums: Vec<Option<UnitGradients>>,
    passes: usize,
    weight: Weight,
}

/// What the sum of gradients is divided by.
#[derive(Debug, Clone, Copy)]
enum Weight {
    Nothing,
    /// So many means, on each rank.
    Means(usize),
    /// So many samples, on this rank.
    Samples(usize),
}

impl<'a, M: Module> Accumulation<'a, M> {
    pub(super) fn new(world: &'a World, model: &'a M, only: bool) -> Result<Self> {
        let mut look = Look::default();
        walk(model, &mut look);
        let Some(sharding) = look.sharding else {
            return Err(not_sharded());
        };
        let units = sharding.units().len();
        Ok(Self {
            world,
            model,
            sharding,
            entries: look.entries,
            only,
            passes: 0,
            sums: (0..units).map(|_| None).collect(),
            weight: Weight::Nothing,
        })
    }

    /// Runs the backward pass of a micro-batch's mean loss.
    ///
    /// # Errors
    /// As [`World::backward`]; [`Error::Config`] after [`add_sum`](Self::add_sum).
    pub fn add(&mut self, loss: Tensor<1>) -> Result<()> {
        let weight = match self.weight {
            Weight::Nothing => Weight::Means(1),
            Weight::Means(n) => Weight::Means(n + 1),
            Weight::Samples(_) => return Err(mixed()),
        };
        self.run(loss, weight)
    }

    /// Runs the backward pass of a micro-batch's loss that is the sum over `count` samples.
    ///
    /// # Errors
    /// As [`World::backward_sum`]; [`Error::Config`] after [`add`](Self::add).
    pub fn add_sum(&mut self, loss: Tensor<1>, count: usize) -> Result<()> {
        let weight = match self.weight {
            Weight::Nothing => Weight::Samples(count),
            Weight::Samples(n) => Weight::Samples(n + count),
            Weight::Means(_) => return Err(mixed()),
        };
        self.run(loss, weight)
    }

    fn run(&mut self, loss: Tensor<1>, weight: Weight) -> Result<()> {
        if !ops::is_tracked(&loss) {
            return Err(Error::model(
                "the loss",
                "depends on nothing that takes gradients",
                "compute it with the sharded model, in training mode and not wholly frozen",
            ));
        }
        let running = Running::start(self.world, &self.sharding, self.only);
        let ran = catch_raised(|| drop(loss.backward()));
        let rest = ran.and_then(|()| self.rest());
        let reduced = running.finish();
        rest.map_err(|error| self.sharding.name_missing(error))?;
        self.weight = weight;
        self.passes += 1;
        // Nothing is under way when this returns: the program may communicate on its own.
        self.settle(reduced)
            .map_err(|error| self.sharding.name_missing(error))
    }

    /// Reduces what the tape could not: passes whose inputs take no gradients, latest first.
    fn rest(&self) -> Result<()> {
        let mut passes = match self.sharding.session().as_mut() {
            Some(session) => std::mem::take(&mut session.passes),
            None => Vec::new(),
        };
        passes.sort_by_key(|pass| std::cmp::Reverse(pass.number));
        passes.iter().try_for_each(|pass| pass.reduce())?;
        let mut session = self.sharding.session();
        let Some(session) = session.as_mut() else {
            return Ok(());
        };
        let alone = std::mem::take(&mut session.alone);
        alone
            .into_iter()
            .rev()
            .try_for_each(|(unit, gradients)| session.reduce(&self.sharding, unit, gradients))
    }

    /// Completes the reductions and returns the gradients of the step.
    ///
    /// # Errors
    /// [`Error::Config`] if nothing was added, or no rank had a sample; what collectives return.
    pub fn finish(self) -> Result<ShardedGradients> {
        let sharding = self.sharding.clone();
        self.complete()
            .map_err(|error| sharding.name_missing(error))
    }

    /// Adds what a backward pass started to the sums.
    fn settle(&mut self, reduced: Vec<Reduced>) -> Result<()> {
        for Reduced {
            unit,
            present,
            stage,
        } in reduced
        {
            let flat = match stage {
                Stage::Own(flat) => flat,
                Stage::Coming(ticket) => self.world.waiting(|| ticket.wait())?.arrive()?,
            };
            match &mut self.sums[unit] {
                None => self.sums[unit] = Some(UnitGradients { present, flat }),
                Some(sum) => {
                    sum.flat.add(&flat);
                    let both = sum.present.iter_mut().zip(present);
                    both.for_each(|(a, b)| *a |= b);
                }
            }
        }
        // A gather that backward started ahead and did not need.
        self.world.waiting(|| self.world.submit(|| Ok(())).wait())
    }

    fn complete(self) -> Result<ShardedGradients> {
        let sharding = &self.sharding;
        let mut sums = self.sums;
        if !self.only {
            let steps = Steps {
                over_cut: sharding.strategy.when == When::Step,
                over_replicas: true,
                passes: self.passes,
            };
            let mut coming = Vec::new();
            for (unit, sum) in sums.iter_mut().enumerate().rev() {
                if let Some(UnitGradients { present, flat }) = sum.take() {
                    let ticket = sharding.reduce(unit, &present, flat, steps);
                    coming.push((unit, present, ticket));
                }
            }
            for (unit, present, ticket) in coming {
                let flat = self.world.waiting(|| ticket.wait())?.arrive()?;
                sums[unit] = Some(UnitGradients { present, flat });
            }
        }
        sharding.forget();
        self.world.comm().recorder().stepped();
        if self.passes > 0 && sums.iter().all(Option::is_none) {
            return Err(Error::model(
                "the loss",
                "depends on no parameter of this model that takes gradients",
                "pass the model that the loss was computed with",
            ));
        }
        let divisor = divisor(self.world, self.weight)?;
        for sum in sums.iter_mut().flatten() {
            sum.flat.scale(1.0 / divisor);
        }
        average_running_state(self.world, self.model)?;
        Ok(ShardedGradients::new(
            self.sharding.clone(),
            self.entries,
            sums,
        ))
    }
}

/// A backward pass that is going on; ends also when the tape panics.
struct Running<'a> {
    world: &'a World,
    sharding: Arc<Sharding>,
}

impl<'a> Running<'a> {
    fn start(world: &'a World, sharding: &Arc<Sharding>, only: bool) -> Self {
        *sharding.session() = Some(Session::new(only));
        world.set_backward(true);
        let sharding = sharding.clone();
        Self { world, sharding }
    }

    fn finish(self) -> Vec<Reduced> {
        let session = self.sharding.session().take();
        session.map_or(Vec::new(), |s| s.reduced)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.world.set_backward(false);
        *self.sharding.session() = None;
    }
}

fn mixed() -> Error {
    let expected = "either means (add) or sums with counts (add_sum) in one step";
    Error::config("accumulated losses", expected, "both")
}

fn divisor(world: &World, weight: Weight) -> Result<f64> {
    match weight {
        Weight::Nothing => Err(Error::config("accumulated losses", "at least one", "none")),
        Weight::Means(n) => Ok((n * world.size()) as f64),
        Weight::Samples(mine) => {
            let mut all = [mine as u64];
            let label = "samples".into();
            world
                .comm()
                .all_reduce(&label, Reduce::Sum, SpanMut::of(&mut all))?;
            match all[0] {
                0 => Err(Error::config(
                    "samples of the step",
                    "at least one on some rank",
                    0,
                )),
                n => Ok(n as f64),
            }
        }
    }
}

/// A model's sharded parameters.
#[derive(Default)]
struct Look {
    sharding: Option<Arc<Sharding>>,
    entries: Vec<Entry>,
}

impl Visit for Look {
    type Held = Entry;

    fn hold<const D: usize>(&mut self, param: &Param<Tensor<D>>) -> Entry {
        Entry::new(param)
    }

    fn sharded(&mut self, _: &str, entry: Entry, identity: Identity) {
        let sharding = self
            .sharding
            .get_or_insert_with(|| identity.sharding.clone());
        if Arc::ptr_eq(sharding, &identity.sharding) {
            self.entries.push(entry.at(identity.unit, identity.slot));
        }
    }
}
