//! Backward passes: running the tape, and what becomes of the gradients it yields.

use super::flat::Flat;
use super::full::not_sharded;
use super::gradients::{Entry, ShardedGradients, UnitGradients};
use super::pass::{Gradients, Pass};
use super::sharded::{Identity, Visit, walk};
use super::sharding::Sharding;
use crate::comm::{Reduce, SpanMut, Ticket};
use crate::error::{Error, Result};
use crate::strategy::When;
use crate::unwind::catch_raised;
use crate::world::World;
use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::Tensor;
use burn_flex::FlexTensor;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What one backward pass has collected so far.
#[derive(Debug, Default)]
pub(crate) struct Session {
    /// Whether this is the only backward of its step, so that everything can be reduced at once.
    only: bool,
    passes: Vec<Arc<Pass>>,
    /// Gradients of parameters that were read outside of any pass, by unit.
    alone: BTreeMap<usize, Gradients>,
    reduced: Vec<Reduced>,
}

/// The gradients of one unit from one pass.
#[derive(Debug)]
struct Reduced {
    unit: usize,
    present: Vec<bool>,
    stage: Stage,
}

/// How far a unit's gradients are on their way to the sum over all ranks.
#[derive(Debug)]
enum Stage {
    /// This rank's own, whole.
    Own(Flat),
    /// On their way to the sum over the cut's ranks, and over replicas if `only`.
    Coming(Ticket<Flat>),
}

impl Session {
    pub(crate) fn touched(&mut self, pass: Arc<Pass>) {
        self.passes.push(pass);
    }

    /// Starts what the strategy does with a pass's gradients during backward.
    pub(crate) fn reduce(
        &mut self,
        sharding: &Arc<Sharding>,
        unit: usize,
        gradients: Gradients,
    ) -> Result<()> {
        let slots = sharding.unit(unit).layout.slots.len();
        let present = gradients.present(slots);
        let own = gradients.pack(sharding, unit);
        let stage = match self.only || sharding.strategy.when == When::Backward {
            true => Stage::Coming(sharding.reduce(unit, &present, own, Steps::both(self.only))),
            false => Stage::Own(own),
        };
        self.reduced.push(Reduced {
            unit,
            present,
            stage,
        });
        Ok(())
    }
}

/// Which sums a reduction still has to make.
#[derive(Debug, Clone, Copy)]
struct Steps {
    over_cut: bool,
    over_replicas: bool,
}

impl Steps {
    fn both(replicas: bool) -> Self {
        Self {
            over_cut: true,
            over_replicas: replicas,
        }
    }
}

impl Sharding {
    /// Takes a gradient of a parameter that was read outside of any pass.
    pub(crate) fn collect_alone(
        &self,
        unit: usize,
        slot: usize,
        gradient: FlexTensor,
    ) -> Result<()> {
        match self.session().as_mut() {
            Some(session) => session.alone.entry(unit).or_default().add(slot, gradient),
            None => self
                .world
                .expect_backward(&self.unit(unit).layout.slots[slot].path)?,
        }
        Ok(())
    }

    /// Sums a unit's gradients over ranks, behind what was submitted before.
    ///
    /// The set of parameters that have one is part of the fingerprint: adding one rank's gradient
    /// to another's absence would be wrong without anybody noticing.
    fn reduce(
        self: &Arc<Self>,
        unit: usize,
        present: &[bool],
        own: Flat,
        steps: Steps,
    ) -> Ticket<Flat> {
        let bits: String = present.iter().map(|p| if *p { '1' } else { '0' }).collect();
        let this = self.clone();
        self.world.queue().submit(move || {
            let unit = this.unit(unit);
            let label = unit.label.with_detail(format!("gradients {bits}"));
            let summed = || -> Result<Flat> {
                let mut sum = match steps.over_cut && this.cut.size() > 1 {
                    true => {
                        let mut sum = Flat::zeros(unit.layout.cut, own.dtype());
                        let send = own.span()?;
                        this.cut
                            .reduce_scatter(&label, Reduce::Sum, send, sum.span_mut()?)?;
                        drop(own);
                        sum
                    }
                    false => own,
                };
                if steps.over_replicas {
                    this.replicas
                        .all_reduce(&label, Reduce::Sum, sum.span_mut()?)?;
                }
                Ok(sum)
            };
            summed().map_err(|error| this.name_missing(error, unit))
        })
    }

    /// Turns a disagreement about which parameters have a gradient into one that names them.
    fn name_missing(&self, error: Error, unit: &super::sharding::Unit) -> Error {
        let bits = |text: &str| {
            let (_, bits) = text.split_once("[gradients ")?;
            Some(bits.trim_end_matches(']').to_string())
        };
        let Error::Mismatch {
            rank,
            ours,
            peer,
            theirs,
        } = &error
        else {
            return error;
        };
        let (Some(a), Some(b)) = (bits(ours), bits(theirs)) else {
            return error;
        };
        let differs = a.chars().zip(b.chars()).position(|(a, b)| a != b);
        match differs.and_then(|slot| Some((unit.layout.slots.get(slot)?, a.chars().nth(slot)?))) {
            Some((slot, has)) => Error::GradientSet {
                parameter: slot.path.clone(),
                with: if has == '1' { *rank } else { *peer },
                without: if has == '1' { *peer } else { *rank },
            },
            None => error,
        }
    }
}

impl World {
    /// Runs the backward pass of a loss that is the mean over this rank's batch.
    ///
    /// Returns the gradients of `model`'s parameters, averaged over ranks and cut as the
    /// parameters are. Right where all ranks have batches of equal size; otherwise use
    /// [`backward_sum`](Self::backward_sum). Collective.
    ///
    /// # Errors
    /// [`Error::Model`] if `model` is not sharded or `loss` does not depend on it;
    /// [`Error::GradientSet`] if the ranks' losses reach different parameters; what collectives
    /// return.
    pub fn backward<M: Module>(&self, loss: Tensor<1>, model: &M) -> Result<ShardedGradients> {
        let mut accumulation = Accumulation::new(self, model, true)?;
        accumulation.add(loss)?;
        accumulation.finish()
    }

    /// Runs the backward pass of a loss that is the sum over `count` samples of this rank.
    ///
    /// The gradients are divided by the samples of all ranks, so uneven batches are exact: the
    /// same as one device with all samples. A rank without samples gives a loss that is zero and
    /// a count of 0. Collective; one all-reduce of 8 bytes more than [`backward`](Self::backward).
    ///
    /// # Errors
    /// As [`backward`](Self::backward); [`Error::Config`] if no rank has a sample.
    pub fn backward_sum<M: Module>(
        &self,
        loss: Tensor<1>,
        count: usize,
        model: &M,
    ) -> Result<ShardedGradients> {
        let mut accumulation = Accumulation::new(self, model, true)?;
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
    /// let mut step = world.accumulate(&model)?;
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
    /// # Errors
    /// [`Error::Model`] if `model` is not sharded.
    pub fn accumulate<'a, M: Module>(&'a self, model: &'a M) -> Result<Accumulation<'a, M>> {
        Accumulation::new(self, model, false)
    }
}

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
    reduced: Vec<Reduced>,
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
    fn new(world: &'a World, model: &'a M, only: bool) -> Result<Self> {
        let mut look = Look::default();
        walk(model, &mut look);
        let Some(sharding) = look.sharding else {
            return Err(not_sharded());
        };
        Ok(Self {
            world,
            model,
            sharding,
            entries: look.entries,
            only,
            reduced: Vec::new(),
            weight: Weight::Nothing,
        })
    }

    /// Runs the backward pass of a micro-batch's mean loss.
    ///
    /// # Errors
    /// As [`World::backward`]; [`Error::Config`] after [`add_sum`](Self::add_sum).
    pub fn add(&mut self, loss: Tensor<1>) -> Result<()> {
        self.weight = match self.weight {
            Weight::Nothing => Weight::Means(1),
            Weight::Means(n) => Weight::Means(n + 1),
            Weight::Samples(_) => return Err(mixed()),
        };
        self.run(loss)
    }

    /// Runs the backward pass of a micro-batch's loss that is the sum over `count` samples.
    ///
    /// # Errors
    /// As [`World::backward_sum`]; [`Error::Config`] after [`add`](Self::add).
    pub fn add_sum(&mut self, loss: Tensor<1>, count: usize) -> Result<()> {
        self.weight = match self.weight {
            Weight::Nothing => Weight::Samples(count),
            Weight::Samples(n) => Weight::Samples(n + count),
            Weight::Means(_) => return Err(mixed()),
        };
        self.run(loss)
    }

    fn run(&mut self, loss: Tensor<1>) -> Result<()> {
        if !loss.is_autodiff() {
            return Err(Error::model(
                "the loss",
                "is not on a device that tracks gradients",
                "make the inputs and the model on world.device()",
            ));
        }
        *self.sharding.session() = Some(Session {
            only: self.only,
            ..Session::default()
        });
        self.world.set_backward(true);
        let ran = catch_raised(|| drop(loss.backward()));
        self.world.set_backward(false);
        let rest = ran.and_then(|()| self.rest());
        let session = self.sharding.session().take();
        rest?;
        self.reduced
            .extend(session.into_iter().flat_map(|s| s.reduced));
        Ok(())
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
        let sharding = &self.sharding;
        let units = sharding.units().len();
        let mut sums: Vec<Option<UnitGradients>> = (0..units).map(|_| None).collect();
        for Reduced {
            unit,
            present,
            stage,
        } in self.reduced
        {
            let flat = match stage {
                Stage::Own(flat) => flat,
                Stage::Coming(ticket) => self.world.waiting(|| ticket.wait())?,
            };
            match &mut sums[unit] {
                None => sums[unit] = Some(UnitGradients { present, flat }),
                Some(sum) => {
                    sum.flat.add(&flat);
                    sum.present
                        .iter_mut()
                        .zip(present)
                        .for_each(|(a, b)| *a |= b);
                }
            }
        }
        if !self.only {
            let steps = Steps {
                over_cut: sharding.strategy.when == When::Step,
                over_replicas: true,
            };
            let mut coming = Vec::new();
            for (unit, sum) in sums.iter_mut().enumerate().rev() {
                if let Some(UnitGradients { present, flat }) = sum.take() {
                    let ticket = sharding.reduce(unit, &present, flat, steps);
                    coming.push((unit, present, ticket));
                }
            }
            for (unit, present, ticket) in coming {
                let flat = self.world.waiting(|| ticket.wait())?;
                sums[unit] = Some(UnitGradients { present, flat });
            }
        }
        sharding.forget();
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

/// Averages running state, such as a batch norm's, over ranks; nothing happens without any.
fn average_running_state<M: Module>(world: &World, model: &M) -> Result<()> {
    let mut look = Look::default();
    // Clones share running state, and making a valid one folds in what threads have noted.
    let _ = model.valid();
    walk(model, &mut look);
    if world.size() == 1 || look.plain.is_empty() {
        return Ok(());
    }
    let mut state = Average {
        world,
        paths: look.plain,
        path: Vec::new(),
        result: Ok(()),
    };
    let _ = model.clone().map(&mut state);
    state.result
}

struct Average<'a> {
    world: &'a World,
    paths: Vec<String>,
    path: Vec<String>,
    result: Result<()>,
}

impl Average<'_> {
    fn mean<const D: usize>(&self, tensor: Tensor<D>) -> Result<Tensor<D>> {
        let (device, dims) = (tensor.device(), tensor.dims());
        let mut flat = super::flat::copy_of(tensor)?;
        let label = crate::comm::Label::new(self.path.join("."));
        self.world
            .comm()
            .all_reduce(&label, Reduce::Mean, flat.span_mut()?)?;
        let mean = Tensor::from_primitive::<burn::backend::Flex>(flat.share().view(0, &dims));
        Ok(if device.is_autodiff() {
            Tensor::from_inner(mean)
        } else {
            mean
        })
    }
}

impl ModuleMapper for Average<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.result.is_err() || !self.paths.contains(&self.path.join(".")) {
            return param;
        }
        match self.mean(param.base()) {
            Ok(mean) => param.map(|_| mean),
            Err(error) => {
                self.result = Err(error);
                param
            }
        }
    }
}

/// A model's sharded parameters and the paths of its other float tensors.
#[derive(Default)]
struct Look {
    sharding: Option<Arc<Sharding>>,
    entries: Vec<Entry>,
    plain: Vec<String>,
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

    fn plain(&mut self, path: &str, _: Entry) {
        self.plain.push(path.to_string());
    }
}
