//! Gradient accumulation: the backward passes of one step, whose gradients are summed.

use super::gradients::{PartGradients, ShardedGradients, TrainedParam};
use super::running_state::average_running_state;
use super::trained::Trained;
use crate::comm::{Label, Reduce, SpanMut};
use crate::error::{Error, Result};
use crate::shard::model::{GradientSums, Sharding};
use crate::shard::tape;
use crate::unwind::catch_raised;
use crate::world::World;
use burn::module::Module;
use burn::tensor::Tensor;
use std::sync::Arc;

#[cfg(test)]
mod tests;

/// The backward passes of one step.
///
/// The strategy decides which collectives each one causes. FSDP and ZeRO-2 reduce-scatter every micro-batch,
/// to hold no full gradients, unless [`no_sync`](crate::Strategy::no_sync) says otherwise; DDP and ZeRO-1 reduce once
/// a step, and so does hybrid across its groups:
/// during the last backward, if it is known which one that is ([`micro_batches`](Self::micro_batches),
/// [`set_is_last`](Self::set_is_last)), and else after it, where nothing is left to overlap with.
#[derive(Debug)]
pub struct Accumulation<'a, M: Module> {
    world: &'a World,
    model: &'a M,
    parts: Vec<Part>,
    params: Vec<TrainedParam>,
    /// Backward passes so far.
    passes: usize,
    /// The number of backward passes in the step, if it is known.
    expected: Option<usize>,
    /// The backward pass that did not complete, after which the step has no gradients.
    failed: Option<FailedPass>,
    divisor: Divisor,
    /// The losses of this rank, to be checked if a gradient is not finite.
    losses: Vec<Tensor<1>>,
}

/// A part of the model that was sharded by one call; a model may consist of several.
#[derive(Debug)]
struct Part {
    sharding: Arc<Sharding>,
    sums: GradientSums,
}

/// A backward pass that did not complete: the sums of the passes before it went with it.
#[derive(Debug)]
struct FailedPass {
    /// Its number in the step, from 1.
    number: usize,
    cause: String,
}

/// The divisor of the sum of gradients.
#[derive(Debug, Clone, Copy)]
enum Divisor {
    /// Not known before the first pass.
    Unknown,
    /// The number of mean losses on each rank.
    Means(usize),
    /// The number of samples on this rank.
    Samples(usize),
}

impl<'a, M: Module> Accumulation<'a, M> {
    pub(crate) fn new(world: &'a World, model: &'a M) -> Result<Self> {
        let Trained { shardings, params } = Trained::of(model)?;
        let part = |sharding: Arc<Sharding>| Part {
            sums: GradientSums::new(sharding.units().len()),
            sharding,
        };
        Ok(Self {
            world,
            model,
            parts: shardings.into_iter().map(part).collect(),
            params,
            passes: 0,
            expected: None,
            failed: None,
            divisor: Divisor::Unknown,
            losses: Vec::new(),
        })
    }

    /// Says how many backward passes the step has, so that the last one reduces while it runs.
    ///
    /// Every rank says the same. Gradients, and the bytes that are sent, are those of a step of which
    /// this is not known.
    ///
    /// ```
    /// # use burn::{nn::LinearConfig, tensor::Tensor};
    /// # use burn_dist::{Strategy, launch::Threads};
    /// # Threads::new(2).run(|world| {
    /// let model = LinearConfig::new(4, 2).init(&world.device());
    /// let model = Strategy::ddp().shard(model, &world)?;
    /// let mut step = world.accumulate(&model)?.micro_batches(3);
    /// for _ in 0..3 {
    ///     let x = Tensor::<2>::ones([8, 4], &world.device());
    ///     step.add(model.forward(x).mean())?;
    /// }
    /// let gradients = step.finish()?;
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), burn_dist::Error>(())
    /// ```
    ///
    /// # Source
    /// PyTorch: `FSDPModule.set_is_last_backward`, DDP's `no_sync` around all but the last.
    pub fn micro_batches(self, number: usize) -> Self {
        Self {
            expected: Some(number),
            ..self
        }
    }

    /// Says that the next backward pass is the step's last one, where their number is not known before.
    pub fn set_is_last(&mut self) {
        self.expected = Some(self.passes + 1);
    }

    /// Runs the backward pass of a micro-batch's mean loss.
    ///
    /// # Errors
    /// As [`World::backward`]; [`Error::Config`] after [`add_sum`](Self::add_sum), after the pass that
    /// was announced as the last, and after a pass that failed.
    pub fn add(&mut self, loss: Tensor<1>) -> Result<()> {
        let divisor = match self.divisor {
            Divisor::Unknown => Divisor::Means(1),
            Divisor::Means(n) => Divisor::Means(n + 1),
            Divisor::Samples(_) => return Err(mixed_losses()),
        };
        self.run(loss, divisor)
    }

    /// Runs the backward pass of a micro-batch's loss that is the sum over `count` samples.
    ///
    /// # Errors
    /// As [`World::backward_sum`]; [`Error::Config`] after [`add`](Self::add), after the pass that was
    /// announced as the last, and after a pass that failed.
    pub fn add_sum(&mut self, loss: Tensor<1>, count: usize) -> Result<()> {
        let divisor = match self.divisor {
            Divisor::Unknown => Divisor::Samples(count),
            Divisor::Samples(n) => Divisor::Samples(n + count),
            Divisor::Means(_) => return Err(mixed_losses()),
        };
        self.run(loss, divisor)
    }

    fn run(&mut self, loss: Tensor<1>, divisor: Divisor) -> Result<()> {
        if let Some(failed) = &self.failed {
            return Err(failed.error());
        }
        let number = self.passes + 1;
        if let Some(expected) = self.expected.filter(|expected| number > *expected) {
            return Err(wrong_count(expected, number));
        }
        // Set before the pass runs, because a panic leaves the step without its sums too.
        let cause = "it panicked".into();
        self.failed = Some(FailedPass { number, cause });
        let ran = self.run_pass(loss, number);
        self.failed = ran.as_ref().err().map(|error| FailedPass {
            number,
            cause: error.to_string(),
        });
        if ran.is_ok() {
            self.divisor = divisor;
            self.passes = number;
        }
        ran
    }

    /// Runs the backward pass with this number and adds its gradients to the sums.
    fn run_pass(&mut self, loss: Tensor<1>, number: usize) -> Result<()> {
        if !tape::is_tracked(&loss) {
            return Err(Error::model(
                "the loss",
                "depends on nothing that takes gradients",
                "compute it with the sharded model, in training mode and not wholly frozen; adapters that \
                 apply_lora was to add after shard are lost: use Strategy::lora",
            ));
        }
        self.losses.push(loss.clone().inner());
        let is_last = self.expected == Some(number);
        let running = RunningBackward::start(self.world, &mut self.parts, number, is_last);
        let ran = catch_raised(|| drop(loss.backward()));
        let ran = ran.and_then(|()| running.reduce_rest());
        // Nothing is under way when this returns: the program may communicate on its own.
        let finished = ran.and_then(|()| running.finish());
        let sums = finished.map_err(|error| self.name_missing(error))?;
        for (part, sums) in self.parts.iter_mut().zip(sums) {
            part.sums = sums;
        }
        // Waits for a gather that backward has prefetched and did not need.
        let rest = self.world.submit(|| Ok(()));
        self.world.waiting(|| rest.wait())
    }

    /// Names the parameter that ranks disagree about, in whichever part it lies.
    fn name_missing(&self, error: Error) -> Error {
        let parts = self.parts.iter();
        parts.fold(error, |error, part| part.sharding.name_missing(error))
    }

    /// Completes the reductions and returns the gradients of the step.
    ///
    /// # Errors
    /// [`Error::Config`] if a pass failed, with its number and error, if nothing was added, if fewer
    /// passes came than were announced, or if no rank had a sample; [`Error::Mismatch`] if a pass failed
    /// on another rank only; what collectives return.
    pub fn finish(mut self) -> Result<ShardedGradients> {
        if let Some(failed) = &self.failed {
            return Err(self.tell_failed(failed));
        }
        if let Some(expected) = self.expected.filter(|expected| self.passes < *expected) {
            return Err(wrong_count(expected, self.passes));
        }
        self.reduce().map_err(|error| self.name_missing(error))?;
        let divisor = self.divisor.over_ranks(self.world)?;
        average_running_state(self.world, self.model)?;
        // Every part counts its steps, so all are asked; one comparison serves them all.
        let due = self
            .parts
            .iter()
            .filter(|part| part.sharding.is_check_due());
        if due.count() > 0 {
            self.world.check_replicas(self.model)?;
        }
        let parts = self.parts.into_iter().map(|part| PartGradients {
            sharding: part.sharding,
            units: part.sums.into_reduced(),
        });
        let (world, parts) = (self.world.clone(), parts.collect::<Vec<_>>());
        super::missed::check(self.model, &parts)?;
        let gradients = ShardedGradients::new(world, parts, self.params, self.losses);
        Ok(gradients.scaled(1.0 / divisor))
    }

    /// The error of a step of which a pass failed; ranks on which it did not fail return an error too.
    ///
    /// Those ranks are in a reduction, which does not match this barrier. It is issued behind what the
    /// failed pass has started, which may still be under way.
    fn tell_failed(&self, failed: &FailedPass) -> Error {
        let comm = self.world.comm().clone();
        let label = format!("a step of which backward pass {} failed", failed.number);
        let told = self.world.submit(move || comm.barrier(&Label::new(label)));
        // An error of the barrier is a consequence; the failed pass is the cause.
        let _ = self.world.waiting(|| told.wait());
        failed.error()
    }

    /// Reduces the gradients that no backward pass has reduced.
    fn reduce(&mut self) -> Result<()> {
        for part in &mut self.parts {
            let units = part.sharding.units().len();
            let sums = std::mem::replace(&mut part.sums, GradientSums::new(units));
            part.sums = part.sharding.finish_step(sums, self.passes)?;
        }
        self.world.comm().recorder().stepped();
        let mut parts = self.parts.iter();
        if self.passes > 0 && parts.all(|part| part.sums.is_empty()) {
            Err(Error::model(
                "the loss",
                "depends on no parameter of this model that takes gradients",
                "pass the model that the loss was computed with",
            ))
        } else {
            Ok(())
        }
    }
}

impl FailedPass {
    fn error(&self) -> Error {
        Error::config(
            "backward passes of the step",
            "none that failed (start the step anew with world.accumulate)",
            format!("that pass {} failed: {}", self.number, self.cause),
        )
    }
}

/// A backward pass that is running; it ends also when the tape panics.
struct RunningBackward<'a> {
    world: &'a World,
    shardings: Vec<Arc<Sharding>>,
}

impl<'a> RunningBackward<'a> {
    fn start(world: &'a World, parts: &mut [Part], number: usize, is_last: bool) -> Self {
        let mut shardings = Vec::new();
        for Part { sharding, sums } in parts {
            let sums = std::mem::replace(sums, GradientSums::new(sharding.units().len()));
            sharding.begin_backward(sums, number, is_last);
            shardings.push(sharding.clone());
        }
        world.tracer().begin_backward();
        world.set_backward(true);
        Self { world, shardings }
    }

    fn reduce_rest(&self) -> Result<()> {
        let mut shardings = self.shardings.iter();
        shardings.try_for_each(|sharding| sharding.reduce_rest())
    }

    /// The sums of the step so far, by part.
    fn finish(self) -> Result<Vec<GradientSums>> {
        let shardings = self.shardings.iter();
        shardings
            .map(|sharding| sharding.finish_backward())
            .collect()
    }
}

impl Drop for RunningBackward<'_> {
    fn drop(&mut self) {
        self.world.set_backward(false);
        for sharding in &self.shardings {
            sharding.abandon_backward();
        }
    }
}

fn mixed_losses() -> Error {
    let expected = "either means (add) or sums with counts (add_sum) in one step";
    Error::config("accumulated losses", expected, "both")
}

fn wrong_count(expected: usize, found: usize) -> Error {
    Error::config(
        "backward passes of the step",
        format!("the {expected} that were announced (micro_batches, set_is_last)"),
        found,
    )
}

impl Divisor {
    /// The number of means or samples on all ranks together. Collective for samples.
    fn over_ranks(self, world: &World) -> Result<f64> {
        match self {
            Self::Unknown => Err(Error::config("accumulated losses", "at least one", "none")),
            Self::Means(n) => Ok((n * world.size()) as f64),
            Self::Samples(mine) => {
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
}

impl World {
    /// Runs the backward pass of a loss that is the mean over this rank's batch.
    ///
    /// Returns the gradients of `model`'s parameters, averaged over ranks and sharded as the
    /// parameters are. Right where all ranks have batches of equal size; otherwise use
    /// [`backward_sum`](Self::backward_sum). Collective.
    ///
    /// # Errors
    /// [`Error::Model`] if `model` is not sharded, has a trainable parameter that no sharding holds, or
    /// `loss` does not depend on it; [`Error::GradientSet`] if the ranks' losses reach different
    /// parameters; what collectives return.
    pub fn backward<M: Module>(&self, loss: Tensor<1>, model: &M) -> Result<ShardedGradients> {
        let mut accumulation = Accumulation::new(self, model)?.micro_batches(1);
        accumulation.add(loss)?;
        accumulation.finish()
    }

    /// Runs the backward pass of a loss that is the sum over `count` samples of this rank.
    ///
    /// The gradients are divided by the samples of all ranks, so uneven batches are exact: the
    /// same as one device with all samples. A rank without samples computes its loss from a padding
    /// sample of weight 0, with a count of 0. Collective; one all-reduce of 8 bytes more than
    /// [`backward`](Self::backward).
    ///
    /// # Errors
    /// As [`backward`](Self::backward); [`Error::Config`] if no rank has a sample.
    pub fn backward_sum<M: Module>(
        &self,
        loss: Tensor<1>,
        count: usize,
        model: &M,
    ) -> Result<ShardedGradients> {
        let mut accumulation = Accumulation::new(self, model)?.micro_batches(1);
        accumulation.add_sum(loss, count)?;
        accumulation.finish()
    }

    /// Starts to accumulate the gradients of several micro-batches into one step.
    ///
    /// ```
    /// # use burn::{nn::LinearConfig, tensor::Tensor};
    /// # use burn_dist::{Strategy, launch::Threads};
    /// # Threads::new(2).run(|world| {
    /// let model = LinearConfig::new(4, 2).init(&world.device());
    /// let model = Strategy::zero1().shard(model, &world)?;
    /// let batches = vec![Tensor::<2>::ones([8, 4], &world.device()); 3];
    /// let mut step = world.accumulate(&model)?.micro_batches(batches.len());
    /// for x in batches {
    ///     step.add(model.forward(x).mean())?;
    /// }
    /// let gradients = step.finish()?;
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), burn_dist::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Model`] if `model` is not sharded.
    pub fn accumulate<'a, M: Module>(&'a self, model: &'a M) -> Result<Accumulation<'a, M>> {
        Accumulation::new(self, model)
    }
}
