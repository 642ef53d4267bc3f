//! From a Burn module to a sharded one.

use super::agreement;
use super::flat::Piece;
use super::gradients::piece_shape;
use super::primitive::{Place, Primitive};
use super::received::{self, Given, Received, Wanted};
use super::sharded::{Identity, Sharded};
use super::sharding::Sharding;
use super::survey::{Surveyed, survey};
use super::values::Values;
use crate::error::{Error, Result};
use crate::plan::Plan;
use crate::strategy::{Over, Strategy};
use crate::unwind::raise;
use crate::world::World;
use burn::module::{Module, Param, ParamId, ParamMapper, Reparameterizer};
use burn::tensor::{DType, FloatDType, Tensor};
use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
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
    /// [`Error::Model`] for models that cannot be sharded (a LoRA adapter, one parameter in two
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
        values: Option<&dyn Values>,
    ) -> Result<M> {
        self.precision.check()?;
        let is_cut = self.cut_over(world.size())? > 1;
        let surveyed = survey(&model, &self, is_cut)?;
        let is_given = |path: &str| values.is_some_and(|values| values.has(path));
        agreement::agree(world, &self, &surveyed)?;
        let valued = agreement::valued(world, &surveyed, is_given)?;
        let plan = Plan::new(&self, &surveyed.parameters, world.size())?;
        let buffers = surveyed.buffers.iter().map(|buffer| buffer.path.clone());
        let sharding = Arc::new(Sharding::new(world, self, &plan, buffers.collect())?);
        let places = places(&plan);
        let number = world.next_model();
        if world.is_chief() && !valued.is_empty() {
            let _one_at_a_time = one_at_a_time();
            received::draw(&model, &valued, world, number);
        }
        let wanted = wanted(&surveyed, &valued, &places, &sharding);
        let is_full = sharding.strategy.precision.is_full();
        let received = Received::from_chief(world, &model, wanted, is_full)?;
        let cutter = Cutter {
            places,
            sharding,
            given: Given {
                files: values,
                received: &received,
            },
            ignored: surveyed.ignored,
        };
        let model = {
            let _one_at_a_time = one_at_a_time();
            world.device().seed(world.seed().wrapping_add(number));
            let mut result = Ok(());
            let model = model.apply_reparameterization(Reporting(&cutter, &mut result));
            let model = result.map(|()| received.fill(model))?;
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
        let is_cut = self.over != Over::Nobody && self.cut_over(size)? > 1;
        Plan::new(self, &survey(model, self, is_cut)?.parameters, size)
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
    places: &HashMap<String, (usize, usize)>,
    sharding: &Arc<Sharding>,
) -> Vec<Wanted> {
    let shard = |path: &String| {
        let (unit, slot) = *places.get(path)?;
        let sharding = sharding.clone();
        Some(Wanted::shard(&Identity {
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
        .chain(buffers.map(Wanted::buffer))
        .collect()
}

/// Unit and slot of every parameter, by path.
fn places(plan: &Plan) -> HashMap<String, (usize, usize)> {
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

struct Cutter<'a> {
    places: HashMap<String, (usize, usize)>,
    sharding: Arc<Sharding>,
    given: Given<'a>,
    ignored: BTreeSet<String>,
}

/// Burn consumes a reparameterizer, so what it found out is left outside of it.
struct Reporting<'a>(&'a Cutter<'a>, &'a mut Result<()>);

impl Reparameterizer for Reporting<'_> {
    type Reparam = Sharded;

    fn reparameterize<const D: usize>(
        &mut self,
        path: &str,
        param: Param<Tensor<D>>,
    ) -> (Param<Tensor<D>>, Option<Sharded>) {
        if self.0.ignored.contains(path) {
            return (param, Some(Sharded::Ignored));
        }
        let values = self.0.given.of(path);
        let Some((unit, slot)) = self.0.places.get(path).copied() else {
            // Running state: every rank has all of it.
            return (
                values.map_or(param.clone(), |v| {
                    running(path, param, v, &self.0.sharding.place)
                }),
                None,
            );
        };
        let identity = Identity {
            sharding: self.0.sharding.clone(),
            unit,
            slot,
        };
        match cut(path, param.clone(), &identity, values) {
            Ok(piece) => (piece, Some(Sharded::Piece(identity))),
            Err(error) => {
                *self.1 = Err(error);
                (param, None)
            }
        }
    }
}

/// Running state with the values it is given.
fn running<const D: usize>(
    path: &str,
    param: Param<Tensor<D>>,
    values: &dyn Values,
    place: &Place,
) -> Param<Tensor<D>> {
    param.map(|old| {
        let (shape, dtype) = (old.dims(), old.dtype());
        let range = 0..shape.iter().product();
        let read = |into: &mut [u8]| values.read(path, range, dtype, into);
        let new = Primitive::filled(dtype, &shape, place, read).into_tensor::<D>();
        match old.device().is_autodiff() {
            true => Tensor::from_inner(new),
            false => new,
        }
    })
}

/// Initialises a parameter and keeps this rank's piece of it; one whose values are given is never
/// initialised, and only the piece is read.
fn cut<const D: usize>(
    path: &str,
    param: Param<Tensor<D>>,
    identity: &Identity,
    values: Option<&dyn Values>,
) -> Result<Param<Tensor<D>>> {
    let layout = &identity.sharding.unit(identity.unit).layout;
    let full_shape = layout.slots[identity.slot].shape.clone();
    let takes_gradients = layout.trainable;
    let rank = identity.sharding.owned(identity.unit);
    let range = layout.piece(identity.slot, rank);
    let shape = match layout.is_whole() {
        true => full_shape.clone(),
        false => piece_shape(range.len(), D),
    };
    let (id, mapper, piece) = match values {
        Some(values) => {
            let place = &identity.sharding.place;
            let read = |into: &mut [u8]| values.read(path, range, layout.dtype, into);
            let piece = Primitive::filled(layout.dtype, &shape, place, read);
            // Loading something tiny shows the mapper without initialising.
            let (id, tiny) = (param.id, Tensor::zeros([1; D], &param.lazy_device()));
            let (id, _, mapper) = param.transform_for_load(tiny, id).consume();
            (id, mapper, piece)
        }
        None => drawn(path, param, identity, range, &shape)?,
    };
    let piece = Tensor::from_inner(piece.into_tensor::<D>()).set_require_grad(takes_gradients);
    let (on_save, path) = (mapper.clone(), path.to_string());
    let param = Param::from_mapped_value(id, piece, mapper);
    // Cuts of equal shape would overwrite each other in a record without anybody noticing.
    Ok(param.save_mapper(
        move |stored| match stored.dims().as_slice() == full_shape.as_slice() {
            true => on_save.on_save(stored),
            false => raise(Error::model(
                path.clone(),
                "is stored as a piece, and Burn's record would hold only this rank's",
                "save with world.save, or gather a plain model with world.full first",
            )),
        },
    ))
}

/// Initialises a parameter and copies a range of it.
fn drawn<const D: usize>(
    path: &str,
    param: Param<Tensor<D>>,
    identity: &Identity,
    range: Range<usize>,
    shape: &[usize],
) -> Result<(ParamId, ParamMapper<Tensor<D>>, Primitive)> {
    let dtype = identity.sharding.unit(identity.unit).layout.dtype;
    let (id, full, mapper) = param.consume();
    let is_full = identity.sharding.strategy.precision.is_full();
    let full = as_stored(path, full, is_full, dtype)?;
    let piece = Piece::of(full)?.cut(range, dtype, shape);
    if piece.place() != identity.sharding.place {
        return Err(Error::model(
            path,
            "lies on another device than the one this rank computes on",
            "initialise the model with init(&world.device()), or move it there with fork",
        ));
    }
    Ok((id, mapper, piece))
}

/// A whole tensor in the type `dtype` in which it is to be stored: under a precision policy that is
/// f32, whatever the model came in.
pub(super) fn as_stored<const D: usize>(
    path: &str,
    full: Tensor<D>,
    is_full_precision: bool,
    dtype: DType,
) -> Result<Tensor<D>> {
    let full = match is_full_precision {
        true => full,
        false => full.cast(FloatDType::F32),
    };
    match full.dtype() == dtype {
        true => Ok(full),
        false => Err(Error::model(
            path,
            format!(
                "was initialised as {} on a device whose floats are {}",
                full.dtype().name(),
                dtype.name()
            ),
            "initialise it before sharding, or set the device's float type",
        )),
    }
}
