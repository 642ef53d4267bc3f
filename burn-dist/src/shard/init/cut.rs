//! The shards of a model's parameters: each is initialised, cut, and dropped before the next.

use super::sync::{InitialValues, as_stored, quantized};
use super::values::ValueSource;
use crate::error::{Error, Result};
use crate::layout::shard_shape;
use crate::lora::factor_path;
use crate::shard::memory::{Primitive, Residence, Shard, encode, stored};
use crate::shard::model::{Sharded, ShardedParam, Sharding, record};
use crate::unwind::raise;
use burn::module::{Param, ParamId, ParamMapper, Reparameterizer};
use burn::tensor::Tensor;
use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

/// Where each parameter of a model goes, and where its values come from.
pub(super) struct ShardInit<'a> {
    pub(super) slots: HashMap<String, (usize, usize)>,
    pub(super) sharding: Arc<Sharding>,
    pub(super) given: InitialValues<'a>,
    pub(super) ignored: BTreeSet<String>,
    /// What identifies factors that the model had before.
    pub(super) ids: HashMap<String, ParamId>,
}

impl ShardInit<'_> {
    /// The unit and slot of the parameter at `path`; none for running state.
    pub(super) fn place(&self, path: &str) -> Option<ShardedParam> {
        let (unit, slot) = self.slots.get(path).copied()?;
        let sharding = self.sharding.clone();
        Some(ShardedParam {
            sharding,
            unit,
            slot,
        })
    }

    /// Whether the parameter at `path` has adapters.
    pub(super) fn is_adapted(&self, path: &str) -> bool {
        self.slots.contains_key(&factor_path(path, "a"))
    }
}

/// Initialises each parameter and keeps this rank's shard of it.
///
/// Burn consumes a reparameterizer, so what it found out is left outside of it.
pub(super) struct Cut<'a> {
    pub(super) init: &'a ShardInit<'a>,
    /// What stands before the paths of the module that is cut.
    pub(super) prefix: String,
    pub(super) result: &'a mut Result<()>,
}

impl Reparameterizer for Cut<'_> {
    type Reparam = Sharded;

    fn reparameterize<const D: usize>(
        &mut self,
        path: &str,
        param: Param<Tensor<D>>,
    ) -> (Param<Tensor<D>>, Option<Sharded>) {
        let path = &format!("{}{path}", self.prefix);
        let init = self.init;
        if init.ignored.contains(path) {
            return (param, Some(Sharded::Ignored));
        }
        let values = init.given.of(path);
        let Some(target) = init.place(path) else {
            // Running state: every rank has all of it.
            return (
                values.map_or(param.clone(), |v| {
                    running(path, param, v, &init.sharding.residence)
                }),
                None,
            );
        };
        match shard_parameter(path, param.clone(), &target, values) {
            // What it carries says of its adapters too, and is attached with them.
            Ok(shard) if init.is_adapted(path) => (shard, None),
            Ok(shard) => (shard, Some(Sharded::Shard(target))),
            Err(error) => {
                *self.result = Err(error);
                (param, None)
            }
        }
    }
}

/// Running state with the values it is given.
fn running<const D: usize>(
    path: &str,
    param: Param<Tensor<D>>,
    values: &dyn ValueSource,
    residence: &Residence,
) -> Param<Tensor<D>> {
    param.map(|old| {
        let (shape, dtype) = (old.dims(), old.dtype());
        let range = 0..shape.iter().product();
        let read = |into: &mut [u8]| values.read(path, range, dtype, into);
        let new = Primitive::filled(dtype, &shape, residence, read).into_tensor::<D>();
        if old.device().is_autodiff() {
            Tensor::from_inner(new)
        } else {
            new
        }
    })
}

/// Initialises a parameter and keeps this rank's shard of it; one whose values are given is never
/// initialised, and only the shard is read.
fn shard_parameter<const D: usize>(
    path: &str,
    param: Param<Tensor<D>>,
    target: &ShardedParam,
    values: Option<&dyn ValueSource>,
) -> Result<Param<Tensor<D>>> {
    let layout = &target.sharding.unit(target.unit).layout;
    let slot = &layout.slots[target.slot];
    let full_shape = slot.shape.clone();
    let takes_gradients = layout.trainable;
    let rank = target.sharding.shard_rank(target.unit);
    let range = layout.shard_range(target.slot, rank);
    let shape = if layout.is_replicated() {
        full_shape.clone()
    } else {
        shard_shape(range.len(), D)
    };
    let (id, mapper, shard) = match values {
        Some(values) => {
            let residence = &target.sharding.residence;
            let shard = match &slot.quantized {
                // Blocks and the largest elements are those of the whole parameter.
                Some(scheme) if !values.is_quantized(path) => {
                    let all = 0..slot.elements();
                    let read = |into: &mut [u8]| values.read(path, all, slot.dtype, into);
                    let full = Primitive::filled(slot.dtype, &full_shape, residence, read);
                    let bytes = encode(path, full.into_tensor::<D>(), scheme)?;
                    stored(range.len(), D, |into| into.copy_from_slice(&bytes[range]))
                }
                Some(_) => stored(range.len(), D, |into| {
                    values.read(path, range, layout.dtype, into);
                }),
                None => {
                    let read = |into: &mut [u8]| values.read(path, range, layout.dtype, into);
                    Primitive::filled(layout.dtype, &shape, residence, read)
                }
            };
            // Loading something tiny shows the mapper without initialising.
            let (id, tiny) = (param.id, Tensor::zeros([1; D], &param.lazy_device()));
            let (id, _, mapper) = param.transform_for_load(tiny, id).consume();
            (id, mapper, shard)
        }
        None => drawn(path, param, target, range, &shape)?,
    };
    let shard = Tensor::from_inner(shard.into_tensor::<D>()).set_require_grad(takes_gradients);
    let (on_save, on_load, path) = (mapper.clone(), mapper.clone(), path.to_string());
    // What adapters freeze stays so when the model is put into training mode.
    let param = Param::from_mapped_value(id, shard, mapper).set_require_grad(takes_gradients);
    // A layer's own mapping, such as a transposition, is of whole parameters.
    let param = param.load_mapper(move |recorded| {
        if record::holds_shards() {
            recorded
        } else {
            on_load.on_load(recorded)
        }
    });
    // Cuts of equal shape would overwrite each other in a record without anybody noticing.
    Ok(param.save_mapper(move |stored| {
        if record::holds_shards() {
            stored
        } else if stored.dims().as_slice() == full_shape.as_slice() {
            on_save.on_save(stored)
        } else {
            raise(Error::model(
                path.clone(),
                "is stored as a shard, and Burn's record would hold only this rank's",
                "save with world.save, or gather a plain model with world.full first",
            ))
        }
    }))
}

/// Initialises a parameter and copies a range of it.
fn drawn<const D: usize>(
    path: &str,
    param: Param<Tensor<D>>,
    target: &ShardedParam,
    range: Range<usize>,
    shape: &[usize],
) -> Result<(ParamId, ParamMapper<Tensor<D>>, Primitive)> {
    let layout = &target.sharding.unit(target.unit).layout;
    let (slot, dtype) = (&layout.slots[target.slot], layout.dtype);
    let (id, full, mapper) = param.consume();
    let is_full = target.sharding.strategy.precision.is_full();
    if let Some(scheme) = &slot.quantized {
        let bytes = quantized(path, full, is_full, slot.dtype, scheme)?;
        let shard = stored(range.len(), D, |into| into.copy_from_slice(&bytes[range]));
        return Ok((id, mapper, shard));
    }
    let full = as_stored(path, full, is_full, dtype)?;
    let shard = Shard::of(full)?.slice(range, dtype, shape);
    if shard.residence() != target.sharding.residence {
        return Err(Error::model(
            path,
            "lies on another device than the one this rank computes on",
            "initialise the model with init(&world.device()), or move it there with fork",
        ));
    }
    Ok((id, mapper, shard))
}
