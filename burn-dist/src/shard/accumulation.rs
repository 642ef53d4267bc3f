//! One step's backward passes, run one after the other and completed together.

use super::backward::{Reduced, Session, Stage, Steps};
use super::gradients::{Entry, PartGradients, ShardedGradients, UnitGradients};
use super::ops;
use super::running::average_running_state;
use super::sharding::Sharding;
use super::trained::Trained;
use crate::comm::{Reduce, SpanMut};
use crate::error::{Error, Result};
use crate::strategy::{Keep, When};
use crate::unwind::catch_raised;
use crate::world::World;
use burn::module::Module;
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
    parts: Vec<Part>,
    entries: Vec<Entry>,
    only: bool,
    passes: usize,
    weight: Weight,
    /// The losses of this rank, to be asked if a gradient is not finite.
    losses: Vec<Tensor<1>>,
}

/// What was sharded by one call, of a model that may consist of several such parts.
#[derive(Debug)]
struct Part {
    sharding: Arc<Sharding>,
    /// What the backward passes came to so far, by unit.
    sums: Vec<Option<UnitGradients>>,
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
        let Trained { shardings, entries } = Trained::of(model)?;
        let part = |sharding: Arc<Sharding>| Part {
            sums: sharding.units().iter().map(|_| None).collect(),
            sharding,
        };
        Ok(Self {
            world,
            model,
            parts: shardings.into_iter().map(part).collect(),
            entries,
            only,
            passes: 0,
            weight: Weight::Nothing,
            losses: Vec::new(),
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
        self.losses.push(loss.clone().inner());
        let running = Running::start(self.world, self.shardings(), self.only);
        let ran = catch_raised(|| drop(loss.backward()));
        let rest = ran.and_then(|()| self.parts.iter().try_for_each(Part::rest));
        let reduced = running.finish();
        rest.map_err(|error| self.name_missing(error))?;
        self.weight = weight;
        self.passes += 1;
        // Nothing is under way when this returns: the program may communicate on its own.
        self.settle(reduced)
            .map_err(|error| self.name_missing(error))
    }

    fn shardings(&self) -> Vec<Arc<Sharding>> {
        self.parts
            .iter()
            .map(|part| part.sharding.clone())
            .collect()
    }

    fn name_missing(&self, error: Error) -> Error {
        name_missing(&self.shardings(), error)
    }

    /// Completes the reductions and returns the gradients of the step.
    ///
    /// # Errors
    /// [`Error::Config`] if nothing was added, or no rank had a sample; what collectives return.
    pub fn finish(self) -> Result<ShardedGradients> {
        let shardings = self.shardings();
        self.complete()
            .map_err(|error| name_missing(&shardings, error))
    }

    /// Adds what a backward pass started to the sums, part by part.
    fn settle(&mut self, reduced: Vec<Vec<Reduced>>) -> Result<()> {
        for (part, reduced) in self.parts.iter_mut().zip(reduced) {
            part.settle(self.world, reduced)?;
        }
        // A gather that backward started ahead and did not need.
        self.world.waiting(|| self.world.submit(|| Ok(())).wait())
    }

    fn complete(mut self) -> Result<ShardedGradients> {
        if !self.only {
            for part in &mut self.parts {
                part.reduce(self.world, self.passes)?;
            }
        }
        self.parts.iter().for_each(|part| part.sharding.forget());
        self.world.comm().recorder().stepped();
        let mut sums = self.parts.iter().flat_map(|part| &part.sums);
        if self.passes > 0 && sums.all(Option::is_none) {
            return Err(Error::model(
                "the loss",
                "depends on no parameter of this model that takes gradients",
                "pass the model that the loss was computed with",
            ));
        }
        let divisor = divisor(self.world, self.weight)?;
        let sums = self.parts.iter_mut().flat_map(|part| &mut part.sums);
        sums.flatten().for_each(|sum| sum.flat.scale(1.0 / divisor));
        average_running_state(self.world, self.model)?;
        // Counted for every part, compared once.
        let due = self
            .parts
            .iter()
            .filter(|part| part.sharding.is_check_due());
        if due.count() > 0 {
            self.world.check_replicas(self.model)?;
        }
        let parts = self.parts.into_iter().map(|part| PartGradients {
            sharding: part.sharding,
            units: part.sums,
        });
        Ok(ShardedGradients::new(
            self.world.clone(),
            parts.collect(),
            self.entries,
            self.losses,
        ))
    }
}

impl Part {
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
        alone.into_iter().rev().try_for_each(|(unit, gradients)| {
            if self.sharding.strategy.keep == Keep::Pass {
                self.sharding.let_go(unit);
            }
            session.reduce(&self.sharding, unit, gradients)
        })
    }

    /// Adds what a backward pass started to the sums.
    fn settle(&mut self, world: &World, reduced: Vec<Reduced>) -> Result<()> {
        for Reduced {
            unit,
            present,
            stage,
        } in reduced
        {
            let flat = match stage {
                Stage::Own(flat) => flat,
                Stage::Coming(ticket) => world.waiting(|| ticket.wait())?.arrive()?,
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
        Ok(())
    }

    /// Sums over ranks what the backward passes have left for the end of the step.
    fn reduce(&mut self, world: &World, passes: usize) -> Result<()> {
        let sharding = &self.sharding;
        let steps = Steps {
            over_cut: sharding.strategy.when == When::Step,
            over_replicas: true,
            passes,
        };
        let mut coming = Vec::new();
        for (unit, sum) in self.sums.iter_mut().enumerate().rev() {
            if let Some(UnitGradients { present, flat }) = sum.take() {
                let ticket = sharding.reduce(unit, &present, flat, steps);
                coming.push((unit, present, ticket));
            }
        }
        for (unit, present, ticket) in coming {
            let flat = world.waiting(|| ticket.wait())?.arrive()?;
            self.sums[unit] = Some(UnitGradients { present, flat });
        }
        Ok(())
    }
}

/// Names the parameter that ranks disagree about, in whichever part it lies.
fn name_missing(shardings: &[Arc<Sharding>], error: Error) -> Error {
    let name = |error: Error, sharding: &Arc<Sharding>| sharding.name_missing(error);
    shardings.iter().fold(error, name)
}

/// A backward pass that is going on; ends also when the tape panics.
struct Running<'a> {
    world: &'a World,
    shardings: Vec<Arc<Sharding>>,
}

impl<'a> Running<'a> {
    fn start(world: &'a World, shardings: Vec<Arc<Sharding>>, only: bool) -> Self {
        for sharding in &shardings {
            *sharding.session() = Some(Session::new(only));
        }
        world.set_backward(true);
        Self { world, shardings }
    }

    /// What was reduced, by part.
    fn finish(self) -> Vec<Vec<Reduced>> {
        let reduced = |sharding: &Arc<Sharding>| {
            let session = sharding.session().take();
            session.map_or(Vec::new(), |session| session.reduced)
        };
        self.shardings.iter().map(reduced).collect()
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.world.set_backward(false);
        for sharding in &self.shardings {
            *sharding.session() = None;
        }
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
