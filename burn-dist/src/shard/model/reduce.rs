//! From the gradients that a backward pass collects to their sum over ranks.
//!
//! A pass of a unit hands over its gradients when backward has gone through it. What happens then is the
//! strategy's: FSDP, ZeRO-2 and hybrid reduce-scatter at once, to hold no full gradients; DDP and ZeRO-1
//! add them up on the rank and reduce once a step, during the last backward if the program has said which
//! one that is. Hybrid's sum over replicas is made once a step too.

use super::sharding::{Sharding, Unit};
use crate::comm::{Label, Ticket};
use crate::error::{Error, Result};
use crate::shard::memory::{Flat, PendingFlat, Primitive};
use crate::strategy::{ReduceAt, Reshard};
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
    fn present(&self, slots: usize) -> Vec<bool> {
        (0..slots)
            .map(|s| self.0.get(s).is_some_and(Option::is_some))
            .collect()
    }

    /// Moves them into a flat buffer laid out as the unit is, letting each go once it is copied.
    fn pack(self, sharding: &Sharding, unit: usize, dtype: DType) -> Flat {
        let layout = &sharding.unit(unit).layout;
        let mut flat = Flat::zeros(layout.len(), dtype, &sharding.residence);
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
    fn add_to(self, sum: &mut Option<Self>) {
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
fn mark(present: &mut [bool], others: &[bool]) {
    let both = present.iter_mut().zip(others);
    both.for_each(|(a, b)| *a |= b);
}

/// What the backward passes of a step came to so far, by unit.
#[derive(Debug)]
pub(crate) struct GradientSums {
    units: Vec<UnitSum>,
}

#[derive(Debug, Default)]
struct UnitSum {
    /// Not summed over all ranks yet: whole under DDP and ZeRO-1, this rank's shard under hybrid.
    local: Option<UnitGradients>,
    /// Summed over all ranks.
    reduced: Option<UnitGradients>,
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
    is_last: bool,
    /// The number of this backward in its step, from 1; the same on all ranks.
    number: usize,
    sums: GradientSums,
    passes: Vec<Arc<dyn PostBackward>>,
    /// Gradients of parameters that were read outside of any pass, by unit.
    alone: BTreeMap<usize, FullGradients>,
    reducing: Vec<Reducing>,
}

/// The gradients of one unit on their way to a sum over ranks.
#[derive(Debug)]
struct Reducing {
    unit: usize,
    present: Vec<bool>,
    ticket: Ticket<PendingFlat>,
    /// Whether that is the sum over all ranks, or only over those of the shard group.
    over_all: bool,
}

impl BackwardSession {
    /// The `number`-th backward of a step, which adds to `sums`.
    pub(crate) fn new(sums: GradientSums, number: usize, is_last: bool) -> Self {
        Self {
            is_last,
            number,
            sums,
            passes: Vec::new(),
            alone: BTreeMap::new(),
            reducing: Vec::new(),
        }
    }

    /// Notes that backward has come to a pass.
    pub(crate) fn reached(&mut self, pass: Arc<dyn PostBackward>) {
        self.passes.push(pass);
    }

    /// Takes the gradients of one pass of a unit, or of its parameters that were read outside of any.
    pub(crate) fn take(
        &mut self,
        sharding: &Arc<Sharding>,
        unit: usize,
        gradients: FullGradients,
    ) -> Result<()> {
        let layout = &sharding.unit(unit).layout;
        let present = gradients.present(layout.slots.len());
        let is_final = self.is_last && !sharding.has_open_passes(unit);
        let stored = layout.dtype;
        match sharding.strategy.reduce_at {
            // What is added up over micro-batches is added up in the stored type.
            ReduceAt::Step => {
                let flat = gradients.pack(sharding, unit, stored);
                let sum = &mut self.sums.units[unit].local;
                UnitGradients { present, flat }.add_to(sum);
                if is_final && let Some(sum) = sum.take() {
                    self.reduce_sum(sharding, unit, sum);
                }
            }
            ReduceAt::Backward => {
                let own = gradients.pack(sharding, unit, sharding.reduce_dtype(unit));
                if is_final && sharding.has_replicas() {
                    self.reduce_and_sum_replicas(sharding, unit, present, own);
                } else {
                    let label = sharding.gradient_label(unit, &present, 1);
                    self.reducing.push(Reducing {
                        unit,
                        present,
                        ticket: sharding.submit_reduction(unit, own, Over::shards(label)),
                        over_all: !sharding.has_replicas(),
                    });
                }
            }
        }
        Ok(())
    }

    /// Reduces what DDP or ZeRO-1 has added up of a unit.
    fn reduce_sum(&mut self, sharding: &Arc<Sharding>, unit: usize, sum: UnitGradients) {
        let UnitGradients { present, flat } = sum;
        let label = sharding.gradient_label(unit, &present, self.number);
        self.reducing.push(Reducing {
            unit,
            present,
            ticket: sharding.submit_reduction(unit, flat, Over::all(label)),
            over_all: true,
        });
    }

    /// Reduce-scatters the last gradients of a unit, and sums all of the step over replicas behind that.
    fn reduce_and_sum_replicas(
        &mut self,
        sharding: &Arc<Sharding>,
        unit: usize,
        present: Vec<bool>,
        own: Flat,
    ) {
        let shards = sharding.gradient_label(unit, &present, 1);
        let mut all = present;
        let earlier = self.sums.units[unit].local.take();
        if let Some(earlier) = &earlier {
            mark(&mut all, &earlier.present);
        }
        let is_of_unit = |reducing: &mut Reducing| reducing.unit == unit;
        let same_backward: Vec<_> = self.reducing.extract_if(.., is_of_unit).collect();
        for reducing in &same_backward {
            mark(&mut all, &reducing.present);
        }
        let replicas = sharding.gradient_label(unit, &all, self.number);
        let this = sharding.clone();
        let ticket = sharding.world.submit(move || {
            let mut sums: Vec<Flat> = earlier.into_iter().map(|sum| sum.flat).collect();
            // Submitted before this one, so they are done.
            for reducing in same_backward {
                sums.push(reducing.ticket.wait()?.wait()?);
            }
            let last = this.reduce(unit, own, &Over::shards(shards))?.wait()?;
            let sum = added(sums, last);
            this.reduce(unit, sum, &Over::replicas(replicas))
        });
        self.reducing.push(Reducing {
            unit,
            present: all,
            ticket,
            over_all: true,
        });
    }

    /// The passes that backward came to, latest first; the tape may not have gone through all of them.
    pub(crate) fn take_passes(&mut self) -> Vec<Arc<dyn PostBackward>> {
        let mut passes = std::mem::take(&mut self.passes);
        passes.sort_by_key(|pass| std::cmp::Reverse(pass.number()));
        passes
    }

    /// Takes the gradients of parameters that were read outside of any pass.
    pub(crate) fn take_alone(&mut self, sharding: &Arc<Sharding>) -> Result<()> {
        let alone = std::mem::take(&mut self.alone);
        alone.into_iter().rev().try_for_each(|(unit, gradients)| {
            if sharding.strategy.reshard == Reshard::AfterForward {
                sharding.reshard_unit(unit);
            }
            self.take(sharding, unit, gradients)
        })
    }

    /// Waits for what was started, and returns the sums of the step so far.
    pub(crate) fn finish(mut self, sharding: &Sharding) -> Result<GradientSums> {
        self.settle(sharding)?;
        Ok(self.sums)
    }

    /// The same, at the end of the step: reduces what was not reduced during a backward.
    pub(crate) fn finish_step(mut self, sharding: &Arc<Sharding>) -> Result<GradientSums> {
        for unit in (0..self.sums.units.len()).rev() {
            let Some(UnitGradients { present, flat }) = self.sums.units[unit].local.take() else {
                continue;
            };
            let label = sharding.gradient_label(unit, &present, self.number);
            let over = match sharding.strategy.reduce_at {
                ReduceAt::Step => Over::all(label),
                ReduceAt::Backward => Over::replicas(label),
            };
            self.reducing.push(Reducing {
                unit,
                present,
                ticket: sharding.submit_reduction(unit, flat, over),
                over_all: true,
            });
        }
        self.finish(sharding)
    }

    fn settle(&mut self, sharding: &Sharding) -> Result<()> {
        for reducing in std::mem::take(&mut self.reducing) {
            let flat = sharding.world.waiting(|| reducing.ticket.wait())?.wait()?;
            let present = reducing.present;
            let sum = &mut self.sums.units[reducing.unit];
            let sum = match reducing.over_all {
                true => &mut sum.reduced,
                false => &mut sum.local,
            };
            UnitGradients { present, flat }.add_to(sum);
        }
        Ok(())
    }
}

/// The sum of all, added in order.
fn added(earlier: Vec<Flat>, last: Flat) -> Flat {
    let mut earlier = earlier.into_iter();
    match earlier.next() {
        None => last,
        Some(mut sum) => {
            earlier.for_each(|flat| sum.add(&flat));
            sum.add(&last);
            sum
        }
    }
}

/// Over which ranks a reduction sums, and under which labels.
#[derive(Debug)]
struct Over {
    shards: Option<Label>,
    replicas: Option<Label>,
}

impl Over {
    fn shards(label: Label) -> Self {
        Self {
            shards: Some(label),
            replicas: None,
        }
    }

    fn replicas(label: Label) -> Self {
        Self {
            shards: None,
            replicas: Some(label),
        }
    }

    fn all(label: Label) -> Self {
        Self {
            shards: Some(label.clone()),
            replicas: Some(label),
        }
    }
}

impl Sharding {
    /// Takes a gradient of a parameter that was read outside of any pass.
    pub(crate) fn accumulate_alone(
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

    fn has_replicas(&self) -> bool {
        self.replica_group.size() > 1
    }

    fn reduce_dtype(&self, unit: usize) -> DType {
        let stored = self.unit(unit).layout.dtype;
        self.strategy.precision.reduced(stored)
    }

    /// What ranks agree on before they sum gradients of a unit.
    ///
    /// The set of parameters that have one is part of it: adding one rank's gradient to another's absence
    /// would be wrong without anybody noticing.
    fn gradient_label(&self, unit: usize, present: &[bool], backwards: usize) -> Label {
        let bits: String = present.iter().map(|p| if *p { '1' } else { '0' }).collect();
        let detail = format!("gradients {bits}, passes {backwards}");
        self.unit(unit).label.with_detail(detail)
    }

    fn submit_reduction(
        self: &Arc<Self>,
        unit: usize,
        own: Flat,
        over: Over,
    ) -> Ticket<PendingFlat> {
        let this = self.clone();
        self.world.submit(move || this.reduce(unit, own, &over))
    }

    /// Sums gradients of a unit over ranks, on the communication thread, and returns them in the stored
    /// type.
    fn reduce(&self, unit: usize, own: Flat, over: &Over) -> Result<PendingFlat> {
        let layout = &self.unit(unit).layout;
        let own = own.cast(self.reduce_dtype(unit));
        let mut sum = match &over.shards {
            Some(label) if self.shard_group.size() > 1 => match layout.is_replicated() {
                true => own.all_reduce(&self.shard_group, label)?,
                false => own.reduce_scatter(&self.shard_group, label, layout.shard_len)?,
            },
            _ => own.into(),
        };
        if let Some(label) = &over.replicas
            && self.has_replicas()
        {
            sum = sum.wait()?.all_reduce(&self.replica_group, label)?;
        }
        sum.cast(layout.dtype)
    }

    /// Turns a disagreement about which parameters have a gradient into one that names them.
    ///
    /// Whatever this rank waited for then fails with it, so the unit is read from the error.
    pub(crate) fn name_missing(&self, error: Error) -> Error {
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
