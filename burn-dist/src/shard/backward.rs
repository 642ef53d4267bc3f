//! Backward passes: what the tape hands over, and its way to the sum over ranks.

use super::accumulation::Accumulation;
use super::exchange::Coming;
use super::flat::Flat;
use super::gradients::ShardedGradients;
use super::pass::{Gradients, Pass};
use super::primitive::Primitive;
use super::sharding::{Sharding, Unit};
use crate::comm::Ticket;
use crate::error::{Error, Result};
use crate::strategy::When;
use crate::world::World;
use burn::module::Module;
use burn::tensor::Tensor;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What one backward pass has collected so far.
#[derive(Debug, Default)]
pub(crate) struct Session {
    /// Whether this is the only backward of its step, so that everything can be reduced at once.
    only: bool,
    pub(super) passes: Vec<Arc<Pass>>,
    /// Gradients of parameters that were read outside of any pass, by unit.
    pub(super) alone: BTreeMap<usize, Gradients>,
    pub(super) reduced: Vec<Reduced>,
}

/// The gradients of one unit from one pass.
#[derive(Debug)]
pub(super) struct Reduced {
    pub(super) unit: usize,
    pub(super) present: Vec<bool>,
    pub(super) stage: Stage,
}

/// How far a unit's gradients are on their way to the sum over all ranks.
#[allow(clippy::large_enum_variant)]
#[derive(Debug)]
pub(super) enum Stage {
    /// This rank's own, whole.
    Own(Flat),
    /// On their way to the sum over the cut's ranks, and over replicas if `only`.
    Coming(Ticket<Coming>),
}

impl Session {
    /// A session; `only` if it is the one backward of its step.
    pub(super) fn new(only: bool) -> Self {
        Self {
            only,
            ..Self::default()
        }
    }

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
        let stored = sharding.unit(unit).layout.dtype;
        let pack = |dtype| gradients.pack(sharding, unit, dtype);
        let stage = match self.only || sharding.strategy.when == When::Backward {
            true => {
                let own = pack(sharding.strategy.precision.reduced(stored));
                Stage::Coming(sharding.reduce(unit, &present, own, Steps::both(self.only)))
            }
            // What is added up over micro-batches is added up in the stored type.
            false => Stage::Own(pack(stored)),
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
pub(super) struct Steps {
    pub(super) over_cut: bool,
    pub(super) over_replicas: bool,
    /// How many backward passes are in what is summed; the same on all ranks.
    pub(super) passes: usize,
}

impl Steps {
    fn both(replicas: bool) -> Self {
        Self {
            over_cut: true,
            over_replicas: replicas,
            passes: 1,
        }
    }
}

impl Sharding {
    /// Takes a gradient of a parameter that was read outside of any pass.
    pub(crate) fn collect_alone(
        &self,
        unit: usize,
        slot: usize,
        gradient: Primitive,
    ) -> Result<()> {
        match self.session().as_mut() {
            Some(session) => session.alone.entry(unit).or_default().add(slot, gradient),
            None => self
                .world
                .expect_backward(&self.unit(unit).layout.slots[slot].path)?,
        }
        Ok(())
    }

    /// Sums a unit's gradients over ranks, behind what was submitted before, and returns them in
    /// the stored type.
    ///
    /// The set of parameters that have one is part of the fingerprint: adding one rank's gradient
    /// to another's absence would be wrong without anybody noticing.
    pub(super) fn reduce(
        self: &Arc<Self>,
        unit: usize,
        present: &[bool],
        own: Flat,
        steps: Steps,
    ) -> Ticket<Coming> {
        let bits: String = present.iter().map(|p| if *p { '1' } else { '0' }).collect();
        let this = self.clone();
        self.world.submit(move || {
            let unit = this.unit(unit);
            let label = unit
                .label
                .with_detail(format!("gradients {bits}, passes {}", steps.passes));
            let stored = unit.layout.dtype;
            let own = own.cast(this.strategy.precision.reduced(stored));
            let cut = steps.over_cut && this.cut.size() > 1;
            let mut sum = match cut {
                true if unit.layout.is_whole() => own.all_reduce(&this.cut, &label)?,
                true => own.reduce_scatter(&this.cut, &label, unit.layout.cut)?,
                false => own.into(),
            };
            if steps.over_replicas && this.replicas.size() > 1 {
                sum = sum.arrive()?.all_reduce(&this.replicas, &label)?;
            }
            sum.cast(stored)
        })
    }

    /// Turns a disagreement about which parameters have a gradient into one that names them.
    ///
    /// Whatever this rank waited for then fails with it, so the unit is read from the error.
    pub(super) fn name_missing(&self, error: Error) -> Error {
        let Error::Mismatch {
            rank,
            ours,
            peer,
            theirs,
        } = &error
        else {
            return error;
        };
        let bits = |call: &str| {
            let (_, bits) = call.split_once("[gradients ")?;
            Some(bits.split_once(',')?.0.to_string())
        };
        let named = || {
            let (a, b) = (bits(ours)?, bits(theirs)?);
            let is_about = |unit: &&Unit| ours.contains(&format!(" of {} #", unit.layout.name));
            let unit = self.units().iter().find(is_about)?;
            // Parts of one model that were sharded apart may have units of one name.
            if unit.layout.slots.len() != a.len() {
                return None;
            }
            let slot = a.chars().zip(b.chars()).position(|(a, b)| a != b)?;
            let has = a.chars().nth(slot)? == '1';
            Some(Error::GradientSet {
                parameter: unit.layout.slots.get(slot)?.path.clone(),
                with: if has { *rank } else { *peer },
                without: if has { *peer } else { *rank },
            })
        };
        named().unwrap_or(error)
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
    /// [`Error::Model`] if `model` is not sharded, has a trainable parameter that no sharding holds, or
    /// `loss` does not depend on it; [`Error::GradientSet`] if the ranks' losses reach different parameters; what collectives
    /// return.
    pub fn backward<M: Module>(&self, loss: Tensor<1>, model: &M) -> Result<ShardedGradients> {
        let mut accumulation = Accumulation::new(self, model, true)?;
        accumulation.add(loss)?;
        accumulation.finish()
    }

    /// Runs the backward pass of a loss that is the sum over `count` samples of this rank.
    ///
    /// The gradients are divided by the samples of all ranks, so uneven batches are exact: the
    /// same as one device with all samples. A rank without samples computes its loss from a padding sample of weight 0,
    /// with a count of 0. Collective; one all-reduce of 8 bytes more than [`backward`](Self::backward).
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
