//! A backward pass that is going on: the passes that it has reached, and the gradients it has collected.

use crate::comm::Ticket;
use crate::error::Result;
use crate::layout::UnitLayout;
use crate::shard::memory::{Flat, PendingFlat, Primitive, Residence};
use burn::tensor::DType;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

/// A pass of a unit, as a backward sees it.
pub(crate) trait PostBackward: Debug + Send + Sync {
    /// Its place in the program.
    fn number(&self) -> u64;

    /// Backward has gone through it: hands over its gradients, unless that was done.
    fn post_backward(&self) -> Result<()>;
}

/// The full gradients of a unit's parameters from one pass, as far as they have come.
#[derive(Debug, Default)]
pub(crate) struct FullGradients(Vec<Option<Primitive>>);

impl FullGradients {
    /// Whether none has come yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a contribution to one parameter's gradient.
    pub(crate) fn add(&mut self, slot: usize, gradient: Primitive) {
        if self.0.len() <= slot {
            self.0.resize(slot + 1, None);
        }
        self.0[slot] = Some(match self.0[slot].take() {
            Some(sum) => sum.add(gradient),
            None => gradient,
        });
    }

    /// Which parameters have one, in a unit of `slots` parameters.
    pub(super) fn present(&self, slots: usize) -> Vec<bool> {
        (0..slots)
            .map(|s| self.0.get(s).is_some_and(Option::is_some))
            .collect()
    }

    /// Moves them into a flat buffer laid out as the unit is, letting each go once it is copied.
    pub(super) fn pack(self, layout: &UnitLayout, dtype: DType, residence: &Residence) -> Flat {
        let mut flat = Flat::zeros(layout.len(), dtype, residence);
        for (slot, gradient) in layout.slots.iter().zip(self.0) {
            if let Some(gradient) = gradient {
                flat.put(slot.offset, &gradient);
            }
        }
        flat
    }
}

/// The gradients of one unit: this rank's shard, or all of it.
#[derive(Debug)]
pub(crate) struct UnitGradients {
    /// Which parameters have one.
    pub(crate) present: Vec<bool>,
    pub(crate) flat: Flat,
}

impl UnitGradients {
    /// Adds others of the same unit to a sum that may not have begun.
    pub(super) fn add_to(self, sum: &mut Option<Self>) {
        match sum {
            None => *sum = Some(self),
            Some(sum) => {
                sum.flat.add(&self.flat);
                mark(&mut sum.present, &self.present);
            }
        }
    }
}

/// Marks what is marked in `others` too.
pub(super) fn mark(present: &mut [bool], others: &[bool]) {
    let both = present.iter_mut().zip(others);
    both.for_each(|(a, b)| *a |= b);
}

/// What the backward passes of a step came to so far, by unit.
#[derive(Debug)]
pub(crate) struct GradientSums {
    pub(super) units: Vec<UnitSum>,
}

#[derive(Debug, Default)]
pub(super) struct UnitSum {
    /// Not summed over all ranks yet: whole under DDP and ZeRO-1, this rank's shard under hybrid.
    pub(super) local: Option<UnitGradients>,
    /// Summed over all ranks.
    pub(super) reduced: Option<UnitGradients>,
}

impl GradientSums {
    pub(crate) fn new(units: usize) -> Self {
        Self {
            units: (0..units).map(|_| UnitSum::default()).collect(),
        }
    }

    /// Whether no parameter has a gradient.
    pub(crate) fn is_empty(&self) -> bool {
        let mut units = self.units.iter();
        units.all(|unit| unit.local.is_none() && unit.reduced.is_none())
    }

    /// The sums over all ranks.
    pub(crate) fn into_reduced(self) -> Vec<Option<UnitGradients>> {
        self.units.into_iter().map(|unit| unit.reduced).collect()
    }
}

/// A backward pass that is going on, over one sharding.
#[derive(Debug)]
pub(crate) struct BackwardSession {
    /// Whether no other backward of its step comes after it.
    pub(super) is_last: bool,
    /// The number of this backward in its step, from 1; the same on all ranks.
    pub(super) number: usize,
    pub(super) sums: GradientSums,
    pub(super) passes: Vec<Arc<dyn PostBackward>>,
    /// Gradients of parameters that were read outside of any pass, by unit.
    pub(super) alone: BTreeMap<usize, FullGradients>,
    /// Gradients that are reduced when the backward has ended, by unit.
    pub(super) deferred: BTreeMap<usize, UnitGradients>,
    pub(super) reducing: Vec<Reducing>,
}

/// The gradients of one unit on their way to a sum over ranks.
#[derive(Debug)]
pub(super) struct Reducing {
    pub(super) unit: usize,
    pub(super) present: Vec<bool>,
    pub(super) ticket: Ticket<PendingFlat>,
    /// Whether that is the sum over all ranks, or only over those of the shard group.
    pub(super) over_all: bool,
}

impl BackwardSession {
    /// The `number`-th backward of a step, which adds to `sums`.
    pub(super) fn new(sums: GradientSums, number: usize, is_last: bool) -> Self {
        Self {
            is_last,
            number,
            sums,
            passes: Vec::new(),
            alone: BTreeMap::new(),
            deferred: BTreeMap::new(),
            reducing: Vec::new(),
        }
    }

    /// Notes that backward has come to a pass.
    pub(crate) fn reached(&mut self, pass: Arc<dyn PostBackward>) {
        self.passes.push(pass);
    }

    /// The passes that backward came to, latest first; the tape may not have gone through all of them.
    pub(super) fn take_passes(&mut self) -> Vec<Arc<dyn PostBackward>> {
        let mut passes = std::mem::take(&mut self.passes);
        passes.sort_by_key(|pass| std::cmp::Reverse(pass.number()));
        passes
    }
}
