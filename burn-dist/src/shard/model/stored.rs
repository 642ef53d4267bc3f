//! What this rank stores of a module: shards of parameters, unit by unit, and tensors that are not sharded.

use super::sharded::{ShardedParam, Visit, walk};
use super::sharding::Sharding;
use crate::error::{Error, Result};
use crate::layout::UnitLayout;
use crate::shard::memory::{Shard, Shards, SharedFlat};
use burn::module::{Module, Param};
use burn::tensor::{DType, Tensor};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What this rank stores of a module now.
///
/// A module may be a part of what one call of `Strategy::shard` was given, and it may consist of several
/// modules that were sharded one by one.
#[derive(Debug, Default)]
pub(crate) struct StoredShards {
    /// In the order of the calls' first parameters in the module, then of units.
    pub(crate) units: Vec<StoredUnit>,
    /// Running state, which every rank has, and parameters that no sharding holds.
    pub(crate) plain: Vec<PlainTensor>,
    /// Whether the module is in training mode: a tape may keep what is gathered for it.
    pub(crate) has_tape: bool,
}

/// A unit, and this rank's shards of its parameters.
#[derive(Debug)]
pub(crate) struct StoredUnit {
    pub(crate) sharding: Arc<Sharding>,
    /// Its number in its sharding.
    pub(crate) number: usize,
    pub(crate) shards: Shards,
    /// The paths that its parameters have in the module, by slot.
    paths: Vec<String>,
}

/// A tensor that is not sharded, with its path.
#[derive(Debug)]
pub(crate) struct PlainTensor {
    pub(crate) path: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) dtype: DType,
    pub(crate) stored: Shard,
    /// Whether it is a parameter that a strategy was told to ignore.
    pub(crate) is_ignored: bool,
}

/// The error for a model that has no sharded parameter.
pub(crate) fn not_sharded() -> Error {
    Error::model(
        "this model",
        "has no sharded parameter",
        "pass the model that Strategy::shard returned",
    )
}

impl StoredUnit {
    /// Whether all its parameters lie in the module.
    pub(crate) fn is_complete(&self) -> bool {
        self.shards.iter().all(Option::is_some)
    }

    /// Its layout, with those parameters that lie in the module, under the paths they have there.
    pub(crate) fn layout(&self) -> UnitLayout {
        let mut layout = self.sharding.unit(self.number).layout.clone();
        let slots = layout.slots.into_iter().zip(&self.paths);
        let slots = slots.zip(self.shards.iter()).filter(|(_, s)| s.is_some());
        layout.slots = slots
            .map(|((mut slot, path), _)| {
                slot.path.clone_from(path);
                slot
            })
            .collect();
        layout
    }

    /// Gathers it in the type it is stored in. Collective.
    pub(crate) fn gather(&self) -> Result<SharedFlat> {
        let dtype = self.sharding.unit(self.number).layout.dtype;
        let ticket = self
            .sharding
            .all_gather(self.number, self.shards.clone(), dtype);
        self.sharding.wait_for_all_gather(ticket)
    }

    /// Its parameters that lie in the module: their paths there, and what is stored of them.
    pub(crate) fn parameters(&self) -> impl Iterator<Item = (&str, &Shard)> {
        let slots = self.paths.iter().zip(self.shards.iter());
        slots.filter_map(|(path, shard)| Some((path.as_str(), shard.as_ref()?)))
    }

    /// The path that the parameter in `slot` has in the module.
    pub(crate) fn path_of(&self, slot: usize) -> &str {
        &self.paths[slot]
    }

    fn path(&self) -> &str {
        &self.sharding.unit(self.number).layout.path
    }
}

impl StoredShards {
    /// What this rank stores of `module`.
    ///
    /// # Errors
    /// [`Error::Config`] for a tensor on a device that the engine does not support.
    pub(crate) fn of<M: Module>(module: &M) -> Result<Self> {
        let mut collect = Collect::default();
        walk(module, &mut collect);
        // A module of which nothing is sharded may have any tensors.
        match collect.error {
            Some(error) if !collect.parts.is_empty() => return Err(error),
            _ => {}
        }
        let units = collect.parts.into_iter().flat_map(|(sharding, units)| {
            units.into_iter().map(move |(number, slots)| {
                let (paths, shards): (Vec<_>, Vec<_>) = slots.into_iter().unzip();
                StoredUnit {
                    sharding: sharding.clone(),
                    number,
                    shards: shards.into(),
                    paths,
                }
            })
        });
        Ok(Self {
            units: units.collect(),
            plain: collect.plain,
            has_tape: collect.has_tape,
        })
    }

    /// The same, of a module that is sharded.
    ///
    /// # Errors
    /// [`Error::Model`] if `module` has no sharded parameter.
    pub(crate) fn of_sharded<M: Module>(module: &M) -> Result<Self> {
        let stored = Self::of(module)?;
        if stored.units.is_empty() {
            Err(not_sharded())
        } else {
            Ok(stored)
        }
    }

    /// The shardings of the module, in its order.
    pub(crate) fn shardings(&self) -> Vec<Arc<Sharding>> {
        let mut all: Vec<Arc<Sharding>> = Vec::new();
        for unit in &self.units {
            if !all.last().is_some_and(|s| Arc::ptr_eq(s, &unit.sharding)) {
                all.push(unit.sharding.clone());
            }
        }
        all
    }

    /// The paths at which the modules that were sharded had running state.
    pub(crate) fn running_state(&self) -> impl Iterator<Item = String> {
        let shardings = self.shardings().into_iter();
        shardings.flat_map(|sharding| {
            let mut units = self.units.iter();
            let unit = units.find(|unit| Arc::ptr_eq(&unit.sharding, &sharding));
            // Any parameter tells under which path the sharded module lies in this one.
            let paths = unit.and_then(|unit| {
                let slot = unit.shards.iter().position(Option::is_some)?;
                let paths = sharding.buffers_beside(&unit.paths[slot], unit.number, slot);
                Some(paths.collect::<Vec<_>>())
            });
            paths.unwrap_or_default()
        })
    }

    /// The units that the module itself is, in all its shardings; not the units inside it.
    pub(crate) fn own_units(&self) -> impl Iterator<Item = &StoredUnit> {
        let shardings = self.shardings();
        let own = shardings.into_iter().flat_map(|sharding| {
            let units = self.units.iter();
            own(units.filter(|unit| Arc::ptr_eq(&unit.sharding, &sharding)))
        });
        own.collect::<Vec<_>>().into_iter()
    }

    /// Gathers one unit after the other, each of which is gone before the next comes. Collective.
    pub(crate) fn gather_each(&self, mut each: impl FnMut(&UnitLayout, &SharedFlat)) -> Result<()> {
        for unit in &self.units {
            let flat = unit.gather()?;
            each(&unit.layout(), &flat);
        }
        Ok(())
    }
}

/// Of the units of one sharding in a module, those that the module itself is.
fn own<'a>(units: impl Iterator<Item = &'a StoredUnit> + Clone) -> Vec<&'a StoredUnit> {
    let depth = |unit: &StoredUnit| {
        let names = unit.path().split('.');
        names.filter(|name| !name.is_empty()).count()
    };
    let Some(shallowest) = units.clone().map(depth).min() else {
        return Vec::new();
    };
    let complete = units.filter(|unit| unit.is_complete());
    let own: Vec<_> = complete.filter(|unit| depth(unit) == shallowest).collect();
    // Several side by side are the units of inner calls; this module only contains them.
    if own.windows(2).all(|pair| pair[0].path() == pair[1].path()) {
        own
    } else {
        Vec::new()
    }
}

/// The parameters of one unit that were found, by slot.
type Slots = Vec<(String, Option<Shard>)>;

#[derive(Default)]
struct Collect {
    parts: Vec<(Arc<Sharding>, BTreeMap<usize, Slots>)>,
    plain: Vec<PlainTensor>,
    has_tape: bool,
    error: Option<Error>,
}

impl Collect {
    fn plain(&mut self, path: &str, (shape, dtype, held): Held, is_ignored: bool) {
        match held {
            Ok(stored) => self.plain.push(PlainTensor {
                path: path.into(),
                shape,
                dtype,
                stored,
                is_ignored,
            }),
            Err(_) if matches!(dtype, DType::QFloat(_)) => {
                self.error = Some(Error::model(
                    path,
                    "is quantized, and lies beside what was sharded",
                    "shard it with the rest, in one call of Strategy::shard",
                ));
            }
            Err(error) => self.error = Some(error),
        }
    }
}

/// Shape, type and storage of a tensor.
type Held = (Vec<usize>, DType, Result<Shard>);

impl Visit for Collect {
    type Held = Held;

    fn hold<const D: usize>(&mut self, param: &Param<Tensor<D>>) -> Held {
        let stored = param.base();
        self.has_tape |= stored.is_autodiff();
        (stored.dims().to_vec(), stored.dtype(), Shard::of(stored))
    }

    fn sharded(&mut self, path: &str, (.., held): Held, param: ShardedParam) {
        let ShardedParam {
            sharding,
            unit,
            slot,
        } = param;
        let shard = match held {
            Ok(shard) => shard,
            Err(error) => {
                self.error = Some(error);
                return;
            }
        };
        let known = self.parts.iter().position(|p| Arc::ptr_eq(&p.0, &sharding));
        let part = known.unwrap_or_else(|| {
            self.parts.push((sharding.clone(), BTreeMap::new()));
            self.parts.len() - 1
        });
        let slots = sharding.unit(unit).layout.slots.len();
        let slots = self.parts[part]
            .1
            .entry(unit)
            .or_insert_with(|| vec![(String::new(), None); slots]);
        slots[slot] = (path.into(), Some(shard));
    }

    fn plain(&mut self, path: &str, held: Held) {
        Self::plain(self, path, held, false);
    }

    fn ignored(&mut self, path: &str, held: Held) {
        Self::plain(self, path, held, true);
    }
}
