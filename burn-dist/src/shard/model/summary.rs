//! A table of a sharded model for people: what it consists of, and where that lies.

use super::stored::{StoredShards, StoredUnit};
use crate::error::Result;
use crate::plan::readable;
use crate::world::World;
use burn::module::Module;
use burn::tensor::DType;
use std::fmt;
use std::ops::RangeInclusive;

/// The tensors of a sharded model with their full shapes, as [`World::summary`] gives it.
#[derive(Debug, Clone)]
pub struct Summary {
    /// In the order of units.
    pub tensors: Vec<TensorSummary>,
    /// Ranks that share one copy of what is sharded.
    pub ranks: usize,
}

/// A parameter, or a tensor of running state.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorSummary {
    /// Where it is in the model.
    pub path: String,
    /// Its full shape.
    pub shape: Vec<usize>,
    /// The type it is stored in.
    pub dtype: DType,
    /// The unit it is gathered with; none if every rank has all of it.
    pub unit: Option<String>,
    /// Whether it is trained.
    pub trainable: bool,
    /// The ranks, of those that share a copy, that store a part of it.
    pub on: RangeInclusive<usize>,
    /// Bytes of all of it, and of what this rank stores.
    pub bytes: usize,
    /// Bytes that this rank stores.
    pub here: usize,
}

impl Summary {
    /// Numbers of all parameters and of running state.
    pub fn elements(&self) -> usize {
        self.tensors
            .iter()
            .map(|t| t.shape.iter().product::<usize>())
            .sum()
    }

    /// Bytes of the whole model, and of what this rank stores of it.
    pub fn bytes(&self) -> (usize, usize) {
        let sum = |of: fn(&TensorSummary) -> usize| self.tensors.iter().map(of).sum();
        (sum(|t| t.bytes), sum(|t| t.here))
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = |t: &TensorSummary| {
            let unit = t.unit.clone().unwrap_or_else(|| "-".into());
            let on = match t.on.clone().into_inner() {
                (0, last) if last + 1 == self.ranks => "all".into(),
                (first, last) if first == last => first.to_string(),
                (first, last) => format!("{first}-{last}"),
            };
            let kind = if t.trainable { "" } else { " (not trained)" };
            let dtype = format!("{}{kind}", t.dtype.name());
            let shape = format!("{:?}", t.shape);
            [
                t.path.clone(),
                shape,
                dtype,
                unit,
                on,
                readable(t.bytes),
                readable(t.here),
            ]
        };
        let head = [
            "parameter",
            "shape",
            "type",
            "unit",
            "on ranks",
            "bytes",
            "here",
        ];
        let rows: Vec<[String; 7]> = std::iter::once(head.map(String::from))
            .chain(self.tensors.iter().map(row))
            .collect();
        let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
        for row in &rows {
            let cells = row.iter().enumerate().map(|(column, cell)| {
                let width = width(column);
                if column < 4 {
                    format!("{cell:<width$}")
                } else {
                    format!("{cell:>width$}")
                }
            });
            writeln!(f, "{}", cells.collect::<Vec<_>>().join("  "))?;
        }
        let (all, here) = self.bytes();
        let share = 100.0 * here as f64 / all.max(1) as f64;
        write!(
            f,
            "{} numbers, {}; this rank stores {} ({share:.1} %)",
            self.elements(),
            readable(all),
            readable(here)
        )
    }
}

impl World {
    /// What a sharded model consists of: full shapes, units, and what this rank stores. Costs nothing but a
    /// walk over the module; nothing is sent.
    ///
    /// Burn's own `num_params()` and `{model}` show the shards of a sharded model.
    ///
    /// # Errors
    /// [`Error::Model`](crate::Error::Model) if `model` has no sharded parameter.
    ///
    /// ```
    /// use burn::nn::LinearConfig;
    /// use burn_dist::prelude::*;
    ///
    /// let tables = Threads::new(2).run(|world| {
    ///     let model = LinearConfig::new(6, 3).init(&world.device());
    ///     let model = Strategy::fsdp().shard(model, &world)?;
    ///     let summary = world.summary(&model)?;
    ///     assert_eq!((summary.elements(), summary.bytes().0), (21, 84));
    ///     Ok(summary.to_string())
    /// })?;
    /// assert!(tables[0].contains("weight") && tables[0].contains("[6, 3]"));
    /// # Ok::<(), burn_dist::Error>(())
    /// ```
    ///
    /// # Source
    /// Lightning: `ModelSummary`.
    pub fn summary<M: Module>(&self, model: &M) -> Result<Summary> {
        let stored = StoredShards::of_sharded(model)?;
        let layouts: Vec<_> = stored.units.iter().map(StoredUnit::layout).collect();
        let ranks = layouts.iter().map(|layout| layout.ranks).max().unwrap_or(1);
        let mut tensors = Vec::new();
        for (unit, layout) in stored.units.iter().zip(&layouts) {
            let size = layout.dtype.size();
            // A unit that is not sharded has one shard, which every rank stores.
            let rank = unit.sharding.shard_group.rank() % layout.ranks;
            for (number, slot) in layout.slots.iter().enumerate() {
                let holds = |rank: &usize| !layout.shard_range(number, *rank).is_empty();
                let mut holders = (0..layout.ranks).filter(holds);
                let first = holders.next().unwrap_or(0);
                let last = holders.next_back().unwrap_or(first);
                tensors.push(TensorSummary {
                    path: slot.path.clone(),
                    shape: slot.shape.clone(),
                    dtype: slot.quantized.map_or(slot.dtype, DType::QFloat),
                    unit: Some(layout.name.to_string()),
                    trainable: layout.trainable,
                    on: if layout.is_replicated() {
                        0..=ranks - 1
                    } else {
                        first..=last
                    },
                    bytes: slot.len * size,
                    here: layout.shard_range(number, rank).len() * size,
                });
            }
        }
        for plain in &stored.plain {
            let bytes = plain.shape.iter().product::<usize>() * plain.dtype.size();
            tensors.push(TensorSummary {
                path: plain.path.clone(),
                shape: plain.shape.clone(),
                dtype: plain.dtype,
                unit: None,
                trainable: false,
                on: 0..=ranks - 1,
                bytes,
                here: bytes,
            });
        }
        Ok(Summary { tensors, ranks })
    }
}
