//! The whole model again, gathered unit by unit.

use super::sharded::ShardedParam;
use super::stored::{StoredShards, StoredUnit, not_sharded};
use crate::error::Result;
use crate::shard::memory::{Primitive, SharedFlat};
use crate::unwind::catch_raised;
use crate::world::World;
use burn::module::{LoraAdapter, Module, Param, Reparameterizer};
use burn::tensor::Tensor;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

/// Who receives the whole model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// Rank 0 alone; no other rank holds more than the root and one unit.
    Chief,
    /// Every rank.
    All,
}

thread_local! {
    static GATHERING: RefCell<Option<Gathering>> = const { RefCell::new(None) };
}

/// A whole model that is being gathered in this thread.
struct Gathering {
    destination: Destination,
    /// The adapters, by the paths of their parameters, unless they are merged.
    adapters: Option<BTreeMap<String, LoraAdapter>>,
    units: Vec<StoredUnit>,
    /// Gathered units, by their index in `units`, and how many of their parameters are still to be
    /// taken.
    gathered: BTreeMap<usize, (SharedFlat, usize)>,
}

impl World {
    /// Gathers a sharded model into a plain Burn module, which saves and loads as any other. Low-rank adapters are merged into
    /// the weights.
    ///
    /// Collective: every rank calls it. Returns `None` on the ranks that receive nothing.
    ///
    /// # Cost
    /// One all-gather per unit. A rank that receives nothing holds the root and one unit at a time.
    ///
    /// # Errors
    /// [`Error::Model`](crate::Error::Model) if `model` was not sharded; what collectives return.
    pub fn full<M: Module>(&self, model: &M, to: Destination) -> Result<Option<M>> {
        let (whole, _) = gathered(model, to, None)?;
        let receives = to == Destination::All || self.is_chief();
        Ok(receives.then_some(whole))
    }

    /// The same, with low-rank adapters as Burn's own, whose factors train beside frozen weights.
    ///
    /// # Cost and errors
    /// As [`full`](Self::full).
    ///
    /// ```
    /// use burn::nn::LinearConfig;
    /// use burn_dist::{Destination, LoraConfig, Strategy, launch::Threads};
    ///
    /// Threads::new(2).run(|world| {
    ///     let layer = LinearConfig::new(16, 8).init(&world.device());
    ///     let layer = Strategy::fsdp().lora(LoraConfig::new(2, 4.0)).shard(layer, &world)?;
    ///     let whole = world.full_with_adapters(&layer, Destination::Chief)?;
    ///     if let Some(adapter) = whole.as_ref().and_then(|layer| layer.weight.adapter()) {
    ///         assert_eq!((adapter.a.dims(), adapter.b.dims()), ([16, 2], [2, 8]));
    ///     }
    ///     Ok(())
    /// })?;
    /// # Ok::<(), burn_dist::Error>(())
    /// ```
    pub fn full_with_adapters<M: Module>(&self, model: &M, to: Destination) -> Result<Option<M>> {
        let (whole, adapters) = gathered(model, to, Some(BTreeMap::new()))?;
        let receives = to == Destination::All || self.is_chief();
        if !receives || adapters.is_empty() {
            return Ok(receives.then_some(whole));
        }
        Ok(Some(whole.apply_reparameterization(Reattach(adapters))))
    }
}

/// Gives the parameters of a plain model the adapters at their paths.
struct Reattach(BTreeMap<String, LoraAdapter>);

impl Reparameterizer for Reattach {
    type Reparam = LoraAdapter;

    fn reparameterize<const D: usize>(
        &mut self,
        path: &str,
        param: Param<Tensor<D>>,
    ) -> (Param<Tensor<D>>, Option<LoraAdapter>) {
        (param, self.0.remove(path))
    }
}

/// A plain copy of a sharded model, or of a part of one, on every rank. Collective.
pub(crate) fn on_every_rank<M: Module>(model: &M) -> Result<M> {
    gathered(model, Destination::All, None).map(|(whole, _)| whole)
}

/// The whole model, and what was put to `adapters`; without a place for them they are merged.
fn gathered<M: Module>(
    model: &M,
    destination: Destination,
    adapters: Option<BTreeMap<String, LoraAdapter>>,
) -> Result<(M, BTreeMap<String, LoraAdapter>)> {
    let gathering = Gathering {
        destination,
        adapters,
        units: StoredShards::of_sharded(model)?.units,
        gathered: BTreeMap::new(),
    };
    GATHERING.set(Some(gathering));
    let whole = catch_raised(|| model.clone().materialize());
    let adapters = GATHERING.take().and_then(|gathering| gathering.adapters);
    Ok((whole?, adapters.unwrap_or_default()))
}

/// Whether this thread is gathering a whole model whose adapters are not merged.
pub(crate) fn keeps_adapters() -> bool {
    GATHERING.with_borrow(|gathering| gathering.as_ref().is_some_and(|g| g.adapters.is_some()))
}

/// Keeps the adapter of a parameter of the model that is being gathered.
pub(crate) fn keep_adapter(param: &ShardedParam, adapter: LoraAdapter) -> Result<()> {
    GATHERING.with_borrow_mut(|gathering| {
        let gathering = gathering.as_mut().ok_or_else(not_sharded)?;
        let at = gathering.position(param)?;
        let path = gathering.units[at].path_of(param.slot).to_string();
        let adapters = gathering.adapters.as_mut().ok_or_else(not_sharded)?;
        adapters.insert(path, adapter);
        Ok(())
    })
}

impl Gathering {
    /// Where the unit of a parameter is among the units.
    fn position(&self, param: &ShardedParam) -> Result<usize> {
        let is_it =
            |u: &StoredUnit| u.number == param.unit && Arc::ptr_eq(&u.sharding, &param.sharding);
        self.units.iter().position(is_it).ok_or_else(not_sharded)
    }
}

/// Whether this thread is gathering a whole model.
pub(crate) fn is_gathering() -> bool {
    GATHERING.with_borrow(Option::is_some)
}

/// The next parameter of the model, with storage of its own.
pub(crate) fn take(param: &ShardedParam) -> Result<Primitive> {
    let ShardedParam {
        sharding,
        unit,
        slot,
    } = param;
    let layout = &sharding.unit(*unit).layout;
    GATHERING.with_borrow_mut(|gathering| {
        let gathering = gathering.as_mut().ok_or_else(not_sharded)?;
        let at = gathering.position(param)?;
        let (flat, left) = match gathering.gathered.entry(at) {
            Entry::Occupied(gathered) => gathered.into_mut(),
            Entry::Vacant(vacant) => {
                let unit = &gathering.units[at];
                let parameters = unit.shards.iter().flatten().count();
                vacant.insert((unit.gather()?, parameters))
            }
        };
        let slot = &layout.slots[*slot];
        let receives = gathering.destination == Destination::All || sharding.world.is_chief();
        let full = if let (true, Some(scheme)) = (receives, &slot.quantized) {
            flat.dequantize(slot.offset, scheme, &slot.shape, slot.dtype)?
        } else if receives {
            flat.copy(slot.offset, &slot.shape)
        } else if slot.quantized.is_some() {
            let none = vec![0; slot.shape.len()];
            Primitive::filled(slot.dtype, &none, &sharding.residence, |_| ())
        } else {
            // Burn needs a tensor of the same rank; nobody will see this one.
            flat.copy(0, &vec![0; slot.shape.len()])
        };
        *left -= 1;
        if *left == 0 {
            gathering.gathered.remove(&at);
        }
        Ok(full)
    })
}
