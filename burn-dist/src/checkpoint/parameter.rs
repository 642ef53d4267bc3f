//! A parameter as the manifest lists it: with all that decides which elements each rank's file holds.

use crate::layout::UnitLayout;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The shape, type, unit and sharding of a parameter; saves of equal lists have equal layouts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SavedParameter {
    pub(super) path: String,
    unit: String,
    shape: Vec<usize>,
    dtype: String,
    trainable: bool,
    replicated: bool,
    /// Ranks that share one copy of it.
    shard_group_size: usize,
}

impl SavedParameter {
    /// The parameter in `slot` of a unit, at `path` in the whole model, sharded over so many ranks.
    pub(super) fn new(
        path: &str,
        layout: &UnitLayout,
        slot: usize,
        shard_group_size: usize,
    ) -> Self {
        let slot = &layout.slots[slot];
        // The layout's paths begin at the module that was sharded, which may be a part of the model.
        let outer = path.strip_suffix(slot.path.as_str()).unwrap_or_default();
        let unit = format!("{outer}{}", layout.path);
        Self {
            path: path.into(),
            unit: unit.trim_end_matches('.').into(),
            shape: slot.shape.clone(),
            dtype: layout.dtype.name().to_string(),
            trainable: layout.trainable,
            replicated: layout.is_replicated(),
            shard_group_size,
        }
    }
}

impl fmt::Display for SavedParameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            path,
            unit,
            shape,
            dtype,
            trainable,
            replicated,
            shard_group_size,
        } = self;
        let kind = if *trainable { "trainable" } else { "frozen" };
        let stored = if *replicated { ", replicated" } else { "" };
        write!(
            f,
            "{path} {shape:?} {dtype}, {kind}{stored}, in unit \"{unit}\", sharded over \
             {shard_group_size} rank(s)"
        )
    }
}
