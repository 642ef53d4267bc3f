//! From a Burn module to a sharded one.

use super::applied::{self, Applied};
use super::cut::{Cut, ShardInit};
use super::survey::{Surveyed, survey};
use super::sync::{self, InitialValues, SyncedTensor, SyncedValues};
use super::values::ValueSource;
use super::{adapt, agreement};
use crate::error::{Error, Result};
use crate::plan::Plan;
use crate::shard::model::{ShardedParam, Sharding};
use crate::strategy::Strategy;
use crate::warning::warn;
use crate::world::World;
use burn::module::Module;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Burn's random numbers are global to the process: one rank initialises at a time.
static INITIALISING: Mutex<()> = Mutex::new(());

impl Strategy {
    /// Spreads a model over the ranks of `world`; the same type comes back.
    ///
    /// Each parameter is initialised, cut, and dropped before the next, in module order, so that
    /// no rank ever holds the whole model, and all together hold what one device would have held:
    /// the `k`-th model sharded in a world has the parameters that plain Burn gives after
    /// `device.seed(world.seed() + k)`.
    ///
    /// A parameter or buffer that has a value on any rank already (`Param::from_tensor`, a look at
    /// `weight.val()`, a checkpoint that rank 0 has loaded) takes rank 0's value on every rank, and is
    /// drawn there if it is still lazy there. A plain `Tensor` in a field is not a parameter to Burn:
    /// it stays each rank's own.
    ///
    /// Random numbers that Burn draws afterwards on this rank's device follow from the seed and the
    /// rank where ranks are processes. Ranks that are threads share one generator: which of them draws
    /// first is not defined, so draw from [`World::noise`] instead.
    ///
    /// Collective. The model trains afterwards, whatever mode it was in.
    ///
    /// # Cost
    /// A comparison of hashes. Parameters that are lazy on every rank cause no traffic; each of the others is
    /// broadcast whole from rank 0, in blocks of 16 MiB of which a rank keeps its shard.
    ///
    /// # Errors
    /// [`Error::Model`] for models that cannot be sharded (sharded before, one parameter in two
    /// fields), naming the paths, and if the ranks have different models, strategies or seeds, naming
    /// the first difference; [`Error::Config`] if the strategy does not fit the number of ranks.
    ///
    /// ```
    /// use burn::nn::LinearConfig;
    /// use burn_dist::{Strategy, launch::Threads};
    ///
    /// let stored = Threads::new(2).run(|world| {
    ///     let model = LinearConfig::new(8, 4).init(&world.device());
    ///     let model = Strategy::fsdp().shard(model, &world)?;
    ///     Ok((model.weight.base().dims(), model.weight.val().dims()))
    /// })?;
    /// assert_eq!(stored[0].1, [8, 4]);
    /// assert_eq!(stored[0].0[0] + stored[1].0[0], 32);
    /// # Ok::<(), burn_dist::Error>(())
    /// ```
    ///
    /// # Source
    /// PyTorch: `fully_shard`; DeepSpeed: `zero.Init`.
    pub fn shard<M: Module>(self, model: M, world: &World) -> Result<M> {
        self.shard_with(model, world, None)
    }

    /// The same, with the values of some parameters given; no rank draws those.
    pub(crate) fn shard_with<M: Module>(
        self,
        model: M,
        world: &World,
        values: Option<&dyn ValueSource>,
    ) -> Result<M> {
        self.precision.check()?;
        let variable = std::env::var(CHECK_UNITS).ok();
        let check = checks_units(self.check_units, variable.as_deref())?;
        let strategy = self.check_units(check);
        let is_sharded = strategy.shard_group_size(world.size())? > 1;
        let surveyed = survey(&model, &strategy, is_sharded)?;
        let applied = applied::take(&model, &surveyed)?;
        let (strategy, bare) = strategy.with_applied(applied)?;
        let is_given = |path: &str| values.is_some_and(|values| values.has(path));
        agreement::agree(world, &strategy, &surveyed)?;
        let mut valued = agreement::valued(world, &surveyed, is_given)?;
        // Those cannot be read where they are, also on a single rank.
        let of_adapters = surveyed.of_adapters();
        valued.extend(of_adapters.filter(|path| !is_given(path)));
        if world.is_chief() && surveyed.whole.is_avoidable() {
            warn(format_args!("{}", surveyed.whole));
        }
        let plan = Plan::new(&strategy, &surveyed.parameters, world.size())?;
        let buffers = surveyed.buffers.iter().map(|buffer| buffer.path.clone());
        let sharding = Arc::new(Sharding::new(world, strategy, &plan, buffers.collect())?);
        let slots = slots_by_path(&plan);
        let number = world.next_model();
        if world.is_chief() && !valued.is_empty() {
            let _one_at_a_time = one_at_a_time();
            sync::draw(&model, &valued, world, number);
        }
        let wanted = wanted(&surveyed, &valued, &slots, &sharding);
        let is_full = sharding.strategy.precision.is_full();
        let received = SyncedValues::from_rank_0(world, &model, wanted, is_full)?;
        let model = bare.unwrap_or(model);
        let init = ShardInit {
            slots,
            sharding,
            given: InitialValues {
                files: values,
                received: &received,
            },
            ignored: surveyed.ignored,
            ids: surveyed.ids,
        };
        let model = {
            let _one_at_a_time = one_at_a_time();
            world.device().seed(world.seed().wrapping_add(number));
            let mut result = Ok(());
            let model = model.apply_reparameterization(Cut {
                init: &init,
                prefix: String::new(),
                result: &mut result,
            });
            let model = result.map(|()| received.fill(model))?;
            let model = match &init.sharding.strategy.lora {
                Some(lora) => adapt::attach(model, &init, lora)?,
                None => model,
            };
            world.device().seed(world.stream(number));
            model
        };
        // The random numbers are the process's: a rank that is done must not draw while another
        // one initialises.
        world.comm().barrier(&"initialised".into())?;
        // New leaves and running state of its own: a clone on another rank shares neither.
        Ok(model.valid().train())
    }

    /// What sharding `model` over `size` ranks would imply, without running anything.
    ///
    /// # Errors
    /// As [`shard`](Self::shard), without what needs other ranks.
    pub fn plan<M: Module>(&self, model: &M, size: usize) -> Result<Plan> {
        let is_sharded = self.shard_group_size(size)? > 1;
        let surveyed = survey(model, self, is_sharded)?;
        let applied = applied::take(model, &surveyed)?;
        let (strategy, _) = self.clone().with_applied(applied)?;
        Plan::new(&strategy, &surveyed.parameters, size)
    }
}

impl Strategy {
    /// With the adapters that a model had before, and the model without them.
    fn with_applied<M>(self, applied: Option<Applied<M>>) -> Result<(Self, Option<M>)> {
        match applied {
            None => Ok((self, None)),
            Some(Applied { model, lora }) if self.lora.is_none() => {
                Ok((self.lora(lora), Some(model)))
            }
            Some(_) => Err(Error::config(
                "Strategy::lora",
                "a model without adapters (leave it out for one that has those of apply_lora)",
                "a model that apply_lora has given some",
            )),
        }
    }
}

/// Decides whether units are compared with plain Burn, where the program does not.
const CHECK_UNITS: &str = "BURN_DIST_CHECK_UNITS";

/// Whether units are compared with plain Burn: as the program says, the variable, or the build.
fn checks_units(chosen: Option<bool>, variable: Option<&str>) -> Result<bool> {
    match (chosen, variable) {
        (Some(chosen), _) => Ok(chosen),
        (None, None) => Ok(cfg!(debug_assertions)),
        (None, Some("1")) => Ok(true),
        (None, Some("0")) => Ok(false),
        (None, Some(other)) => Err(Error::config(CHECK_UNITS, "1 or 0", other)),
    }
}

/// One rank of this process at a time.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    INITIALISING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What this rank stores of the tensors at the paths `valued`, in the order of the model.
fn wanted(
    surveyed: &Surveyed,
    valued: &BTreeSet<String>,
    slots: &HashMap<String, (usize, usize)>,
    sharding: &Arc<Sharding>,
) -> Vec<SyncedTensor> {
    let shard = |path: &String| {
        let (unit, slot) = *slots.get(path)?;
        let sharding = sharding.clone();
        Some(SyncedTensor::shard(&ShardedParam {
            sharding,
            unit,
            slot,
        }))
    };
    let parameters = surveyed.parameters.iter().map(|p| &p.path);
    let parameters = parameters.filter(|path| valued.contains(*path));
    let buffers = surveyed.buffers.iter();
    let buffers = buffers.filter(|buffer| valued.contains(&buffer.path));
    parameters
        .filter_map(shard)
        .chain(buffers.map(SyncedTensor::buffer))
        .collect()
}

/// Unit and slot of every parameter, by path.
fn slots_by_path(plan: &Plan) -> HashMap<String, (usize, usize)> {
    let units = plan.units().iter().enumerate();
    units
        .flat_map(|(u, unit)| {
            unit.slots
                .iter()
                .enumerate()
                .map(move |(s, slot)| (slot.path.clone(), (u, s)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::checks_units;

    #[test]
    fn the_program_decides_before_the_variable_and_the_build() {
        assert_eq!(checks_units(Some(false), Some("1")), Ok(false));
        assert_eq!(checks_units(None, Some("1")), Ok(true));
        assert_eq!(checks_units(None, Some("0")), Ok(false));
        assert_eq!(checks_units(None, None), Ok(cfg!(debug_assertions)));
        let error = checks_units(None, Some("yes")).map_err(|e| e.to_string());
        assert!(error.is_err_and(|e| e.contains("BURN_DIST_CHECK_UNITS") && e.contains("yes")));
    }
}
