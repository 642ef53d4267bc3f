//! From a Burn module to a sharded one.

use super::agreement;
use super::flat::Piece;
use super::gradients::piece_shape;
use super::primitive::{Place, Primitive};
use super::sharded::{Identity, Sharded};
use super::sharding::Sharding;
use super::survey::parameters;
use super::values::Values;
use crate::error::{Error, Result};
use crate::plan::Plan;
use crate::strategy::{Over, Strategy};
use crate::unwind::raise;
use crate::world::World;
use burn::module::{Module, Param, ParamId, ParamMapper, Reparameterizer};
use burn::tensor::{FloatDType, Tensor};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// Burn's random numbers are global to the process: one rank initialises at a time.
static INITIALISING: Mutex<()> = Mutex::new(());

impl Strategy {
    /// Spreads a model over the ranks of `world`; the same type comes back.
    ///
    /// Each parameter is initialised, cut, and dropped before the next, in module order, so that
    /// no rank ever holds the whole model, and all together hold what one device would have held:
    /// the `k`-th model sharded in a world has the parameters that plain Burn gives after
    /// `device.seed(world.seed() + k)`. Parameters that have values already keep them.
    ///
    /// Collective. The model trains afterwards, whatever mode it was in.
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
        let parameters = parameters(&model, &self, is_cut)?;
        agreement::agree(world, &self, &parameters)?;
        let plan = Plan::new(&self, &parameters, world.size())?;
        let sharding = Arc::new(Sharding::new(world, self, &plan)?);
        let cutter = Cutter {
            places: places(&plan),
            sharding,
            values,
        };
        let model = {
            let _one_at_a_time = INITIALISING.lock().unwrap_or_else(PoisonError::into_inner);
            world
                .device()
                .seed(world.seed().wrapping_add(world.next_model()));
            let mut result = Ok(());
            let model = model.apply_reparameterization(Reporting(&cutter, &mut result));
            result.map(|()| model)?
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
        Plan::new(self, &parameters(model, self, is_cut)?, size)
    }
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
    values: Option<&'a dyn Values>,
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
        let values = self.0.values.filter(|values| values.has(path));
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
            Ok(piece) => (piece, Some(Sharded(identity))),
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
    let layout = &identity.sharding.unit(identity.unit).layout;
    let (id, full, mapper) = param.consume();
    // Under a precision policy the piece is f32, whatever the model came in.
    let full = match identity.sharding.strategy.precision.is_full() {
        true => full,
        false => full.cast(FloatDType::F32),
    };
    if full.dtype() != layout.dtype {
        return Err(Error::model(
            path,
            format!(
                "was initialised as {} on a device whose floats are {}",
                full.dtype().name(),
                layout.dtype.name()
            ),
            "initialise it before sharding, or set the device's float type",
        ));
    }
    let piece = Piece::of(full)?.cut(range, layout.dtype, shape);
    if piece.place() != identity.sharding.place {
        return Err(Error::model(
            path,
            "lies on another device than the one this rank computes on",
            "initialise the model with init(&world.device()), or move it there with fork",
        ));
    }
    Ok((id, mapper, piece))
}
