//! From the gradients that a backward pass collects to their sum over ranks.
//!
//! A pass of a unit hands over its gradients when backward has gone through it. What happens then is the
//! strategy's: FSDP, ZeRO-2 and hybrid reduce-scatter at once, to hold no full gradients; DDP and ZeRO-1
//! add them up on the rank and reduce once a step, during the last backward if the program has said which
//! one that is. Hybrid's sum over replicas is made once a step too. What is not reduced during backward whatever the
//! strategy is in `deferred`.

use super::session::{BackwardSession, FullGradients, GradientSums, Reducing, UnitGradients, mark};
use super::sharding::Sharding;
use crate::comm::{Label, Ticket};
use crate::error::{Error, Result};
use crate::shard::memory::{Flat, PendingFlat, Primitive};
use crate::strategy::{ReduceAt, Reshard};
use burn::tensor::DType;
use std::sync::Arc;

/// Reductions that may be under way in a backward which reduces in each, so that no more units have whole gradients.
const IN_FLIGHT: usize = 2;

impl Sharding {
    /// Begins the `number`-th backward of a step, which adds to `sums`.
    pub(crate) fn begin_backward(&self, sums: GradientSums, number: usize, is_last: bool) {
        *self.session() = Some(BackwardSession::new(sums, number, is_last));
    }

    /// Takes the gradients of one pass of a unit.
    pub(crate) fn take_gradients(
        self: &Arc<Self>,
        unit: usize,
        gradients: FullGradients,
    ) -> Result<()> {
        self.backward_passed(unit);
        if let Some(session) = self.session().as_mut() {
            self.reduce_gradients(session, unit, gradients)?;
        }
        Ok(())
    }

    /// Backward has gone through a unit: reshards it, where the strategy does that now.
    pub(crate) fn backward_passed(&self, unit: usize) {
        let is_last = || self.session().as_ref().is_some_and(|s| s.is_last);
        let reshards = match self.strategy.reshard() {
            // Not all ranks may come here with it.
            _ if self.unit(unit).is_absent => false,
            Reshard::AfterForward | Reshard::AfterBackward => true,
            Reshard::AfterLastBackward => is_last() && !self.has_open_passes(unit),
            Reshard::AtStep => false,
        };
        if reshards {
            self.reshard_unit(unit);
        }
    }

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

    /// Reduces what the tape could not: passes whose inputs take no gradients, and parameters that were
    /// read outside of any pass.
    pub(crate) fn reduce_rest(self: &Arc<Self>) -> Result<()> {
        let passes = self.session().as_mut().map(BackwardSession::take_passes);
        let mut passes = passes.into_iter().flatten();
        passes.try_for_each(|pass| pass.post_backward())?;
        let alone = self
            .session()
            .as_mut()
            .map(|s| std::mem::take(&mut s.alone));
        let mut alone = alone.into_iter().flatten().rev();
        alone.try_for_each(|(unit, gradients)| self.take_gradients(unit, gradients))?;
        self.reduce_deferred()
    }

    /// Ends a backward: waits for what it has started, and returns the sums of the step so far.
    pub(crate) fn finish_backward(&self) -> Result<GradientSums> {
        let session = self.session().take();
        match session {
            Some(session) => self.settle(session),
            None => Ok(GradientSums::new(self.units().len())),
        }
    }

    /// Ends a backward that failed.
    pub(crate) fn abandon_backward(&self) {
        *self.session() = None;
    }

    /// Ends a step of so many backward passes: reduces what none of them has.
    pub(crate) fn finish_step(
        self: &Arc<Self>,
        sums: GradientSums,
        backwards: usize,
    ) -> Result<GradientSums> {
        let mut session = BackwardSession::new(sums, backwards, true);
        self.finish_deferred(&mut session)?;
        for unit in (0..self.units().len()).rev() {
            if let Some(sum) = session.sums.units[unit].local.take() {
                self.reduce_sum(&mut session, unit, sum);
            }
        }
        let sums = self.settle(session)?;
        self.reshard_all();
        self.end_step();
        Ok(sums)
    }

    /// Does with the gradients of a unit what the strategy does during backward.
    fn reduce_gradients(
        self: &Arc<Self>,
        session: &mut BackwardSession,
        unit: usize,
        gradients: FullGradients,
    ) -> Result<()> {
        let layout = &self.unit(unit).layout;
        let present = gradients.present(layout.slots.len());
        let is_deferred = self.unit(unit).is_deferred();
        let is_final = session.is_last && !is_deferred && !self.has_open_passes(unit);
        match self.strategy.reduce_at() {
            // What is added up over micro-batches is added up in the stored type.
            ReduceAt::Step => {
                let flat = gradients.pack(layout, layout.dtype, &self.residence);
                let sum = &mut session.sums.units[unit].local;
                UnitGradients { present, flat }.add_to(sum);
                if is_final && let Some(sum) = sum.take() {
                    self.reduce_sum(session, unit, sum);
                }
            }
            ReduceAt::Backward if is_deferred => {
                let flat = gradients.pack(layout, layout.dtype, &self.residence);
                let mut sum = session.deferred.remove(&unit);
                UnitGradients { present, flat }.add_to(&mut sum);
                session.deferred.extend(sum.map(|sum| (unit, sum)));
            }
            ReduceAt::Backward => {
                while session.reducing.len() >= IN_FLIGHT {
                    let oldest = session.reducing.remove(0);
                    self.add_reduced(&mut session.sums, oldest)?;
                }
                let own = gradients.pack(layout, self.reduce_dtype(unit), &self.residence);
                if is_final && self.has_replicas() {
                    self.reduce_and_sum_replicas(session, unit, present, own);
                } else {
                    let label = self.gradient_label(unit, &present, 1);
                    session.reducing.push(Reducing {
                        unit,
                        present,
                        ticket: self.submit_reduction(unit, own, Over::shards(label)),
                        over_all: !self.has_replicas(),
                    });
                }
            }
        }
        Ok(())
    }

    /// Reduces the sum of a unit's gradients that was kept on this rank: whole under DDP and ZeRO-1, a
    /// shard under hybrid.
    fn reduce_sum(
        self: &Arc<Self>,
        session: &mut BackwardSession,
        unit: usize,
        sum: UnitGradients,
    ) {
        let UnitGradients { present, flat } = sum;
        let label = self.gradient_label(unit, &present, session.number);
        let over = match self.strategy.reduce_at() {
            ReduceAt::Step => Over::all(label),
            ReduceAt::Backward => Over::replicas(label),
        };
        session.reducing.push(Reducing {
            unit,
            present,
            ticket: self.submit_reduction(unit, flat, over),
            over_all: true,
        });
    }

    /// Reduce-scatters the last gradients of a unit, and sums all of the step over replicas behind that.
    fn reduce_and_sum_replicas(
        self: &Arc<Self>,
        session: &mut BackwardSession,
        unit: usize,
        present: Vec<bool>,
        own: Flat,
    ) {
        let shards = self.gradient_label(unit, &present, 1);
        let mut all = present;
        let earlier = session.sums.units[unit].local.take();
        if let Some(earlier) = &earlier {
            mark(&mut all, &earlier.present);
        }
        let is_of_unit = |reducing: &mut Reducing| reducing.unit == unit;
        let same_backward: Vec<_> = session.reducing.extract_if(.., is_of_unit).collect();
        for reducing in &same_backward {
            mark(&mut all, &reducing.present);
        }
        let replicas = self.gradient_label(unit, &all, session.number);
        let this = self.clone();
        let ticket = self.world.submit(move || {
            let mut sums: Vec<Flat> = earlier.into_iter().map(|sum| sum.flat).collect();
            // Submitted before this one, so they are done.
            for reducing in same_backward {
                sums.push(reducing.ticket.wait()?.wait()?);
            }
            let last = this.reduce(unit, own, &Over::shards(shards))?.wait()?;
            this.reduce(unit, added(sums, last), &Over::replicas(replicas))
        });
        session.reducing.push(Reducing {
            unit,
            present: all,
            ticket,
            over_all: true,
        });
    }

    /// Waits for what a session has started, and adds it to the sums.
    fn settle(&self, session: BackwardSession) -> Result<GradientSums> {
        let mut sums = session.sums;
        for reducing in session.reducing {
            self.add_reduced(&mut sums, reducing)?;
        }
        Ok(sums)
    }

    /// Waits for a reduction, and adds it to the sums.
    fn add_reduced(&self, sums: &mut GradientSums, reducing: Reducing) -> Result<()> {
        let flat = self.world.waiting(|| reducing.ticket.wait())?.wait()?;
        let present = reducing.present;
        let sum = &mut sums.units[reducing.unit];
        let sum = if reducing.over_all {
            &mut sum.reduced
        } else {
            &mut sum.local
        };
        UnitGradients { present, flat }.add_to(sum);
        Ok(())
    }

    pub(super) fn has_replicas(&self) -> bool {
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
    pub(super) fn gradient_label(&self, unit: usize, present: &[bool], backwards: usize) -> Label {
        self.unit(unit)
            .label
            .with_detail(detail(present, backwards))
    }

    pub(super) fn submit_reduction(
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
            Some(label) if self.shard_group.size() > 1 => {
                if layout.is_replicated() {
                    own.all_reduce(&self.shard_group, label)?
                } else {
                    own.reduce_scatter(&self.shard_group, label, layout.shard_len)?
                }
            }
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
            rank, peer, labels, ..
        } = &error
        else {
            return error;
        };
        let named = || {
            let [ours, theirs] = labels.as_deref()?;
            let slots = self.slots_of(&ours.unit);
            let has = present(&ours.detail)?;
            // Parts of one model that were sharded apart may have units of one name.
            if ours.unit != theirs.unit || has.len() != slots.len() {
                return None;
            }
            let both = has.iter().zip(present(&theirs.detail)?);
            let (slot, has) = both
                .enumerate()
                .find_map(|(slot, (a, b))| (*a != b).then_some((slot, *a)))?;
            let (with, without) = if has { (*rank, *peer) } else { (*peer, *rank) };
            Some(Error::GradientSet {
                parameter: slots[slot].path.clone(),
                with,
                without,
            })
        };
        named().unwrap_or(error)
    }
}

/// What a label says of gradients: which parameters have one, and of how many backward passes.
pub(super) fn detail(present: &[bool], backwards: usize) -> String {
    let bits: String = present.iter().map(|p| if *p { '1' } else { '0' }).collect();
    format!("{GRADIENTS}{bits}, passes {backwards}")
}

const GRADIENTS: &str = "gradients ";

/// Which parameters have a gradient, as [`detail`] says it.
fn present(detail: &str) -> Option<Vec<bool>> {
    let (bits, _) = detail.strip_prefix(GRADIENTS)?.split_once(',')?;
    Some(bits.chars().map(|bit| bit == '1').collect())
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
pub(super) struct Over {
    shards: Option<Label>,
    replicas: Option<Label>,
}

impl Over {
    pub(super) fn shards(label: Label) -> Self {
        Self {
            shards: Some(label),
            replicas: None,
        }
    }

    pub(super) fn replicas(label: Label) -> Self {
        Self {
            shards: None,
            replicas: Some(label),
        }
    }

    /// Whether it sums over replicas too.
    pub(super) fn is_over_replicas(&self) -> bool {
        self.replicas.is_some()
    }

    pub(super) fn all(label: Label) -> Self {
        Self {
            shards: Some(label.clone()),
            replicas: Some(label),
        }
    }
}
