//! Reductions behind a backward: of units in which ranks may lack gradients that others have, and of what every rank
//! stores whole because it is small.

use super::reduce::{Over, detail};
use super::session::{BackwardSession, Reducing, UnitGradients};
use super::sharding::{Sharding, Unit};
use crate::comm::{Label, Reduce, SpanMut};
use crate::error::Result;
use crate::layout::Slot;
use crate::shard::memory::Flat;
use crate::strategy::{ReduceAt, Reshard};
use burn::tensor::DType;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Deferred gradients by unit.
type Deferred = BTreeMap<usize, UnitGradients>;

impl Sharding {
    /// Reduces what waited for the end of a backward, where the strategy reduces in each.
    pub(super) fn reduce_deferred(self: &Arc<Self>) -> Result<()> {
        let mut session = self.session();
        let Some(session) = session.as_mut() else {
            return Ok(());
        };
        if self.strategy.reduce_at() == ReduceAt::Backward {
            let deferred = std::mem::take(&mut session.deferred);
            self.reduce_all(session, deferred)?;
        }
        let reshards = match self.strategy.reshard() {
            Reshard::AfterForward | Reshard::AfterBackward => true,
            Reshard::AfterLastBackward => session.is_last,
            Reshard::AtStep => false,
        };
        if reshards {
            // On every rank, whether a gradient came to it there or not.
            let units = self.units().iter().enumerate();
            let absent = units.filter(|(_, unit)| unit.is_absent);
            absent.for_each(|(unit, _)| self.reshard_unit(unit));
        }
        Ok(())
    }

    /// Reduces what waited for the end of a step.
    pub(super) fn finish_deferred(self: &Arc<Self>, session: &mut BackwardSession) -> Result<()> {
        let at_step = self.strategy.reduce_at() == ReduceAt::Step;
        let mut deferred = Deferred::new();
        for (number, unit) in self.units().iter().enumerate() {
            let waits = if at_step {
                unit.is_deferred()
            } else {
                unit.is_joined
            };
            if waits && let Some(sum) = session.sums.units[number].local.take() {
                deferred.insert(number, sum);
            }
        }
        if at_step {
            self.reduce_all(session, deferred)
        } else {
            // Summed in each backward over the ranks that share the state; what is left is the sum over replicas.
            self.reduce_joined(session, deferred, Over::replicas)
        }
    }

    fn reduce_all(
        self: &Arc<Self>,
        session: &mut BackwardSession,
        mut deferred: Deferred,
    ) -> Result<()> {
        self.agree_on_absent(&mut deferred)?;
        let at_step = self.strategy.reduce_at() == ReduceAt::Step;
        let over = if at_step { Over::all } else { Over::shards };
        let is_joined = |unit: &usize, _: &mut UnitGradients| self.unit(*unit).is_joined;
        let joined = deferred.extract_if(.., is_joined).collect();
        for (unit, UnitGradients { present, flat }) in deferred.into_iter().rev() {
            let label = self.gradient_label(unit, &present, self.backwards(session));
            session.reducing.push(Reducing {
                unit,
                present,
                ticket: self.submit_reduction(unit, flat, over(label)),
                over_all: at_step || !self.has_replicas(),
            });
        }
        self.reduce_joined(session, joined, over)
    }

    /// The number of backward passes whose gradients are reduced now.
    fn backwards(&self, session: &BackwardSession) -> usize {
        match self.strategy.reduce_at() {
            ReduceAt::Step => session.number,
            ReduceAt::Backward => 1,
        }
    }

    /// Marks the gradients that any rank has, and adds zeros where this one has none.
    fn agree_on_absent(&self, deferred: &mut Deferred) -> Result<()> {
        let units = self.units().iter().enumerate();
        let units: Vec<(usize, &Unit)> = units
            .filter(|(_, unit)| unit.is_absent && unit.layout.trainable)
            .collect();
        if units.is_empty() {
            return Ok(());
        }
        let mut present = Vec::new();
        for (number, unit) in &units {
            match deferred.get(number) {
                Some(here) => present.extend(here.present.iter().map(|has| u8::from(*has))),
                None => present.resize(present.len() + unit.layout.slots.len(), 0),
            }
        }
        let comm = self.world.comm().clone();
        let label = units[0].1.label.with_detail("which gradients there are");
        let ticket = self.world.submit(move || {
            comm.all_reduce(&label, Reduce::Max, SpanMut::of(&mut present))?;
            Ok(present)
        });
        let mut present = &self.world.waiting(|| ticket.wait())?[..];
        for (number, Unit { layout, .. }) in units {
            let (mine, rest) = present.split_at(layout.slots.len());
            present = rest;
            if mine.contains(&1) {
                let nothing = || UnitGradients {
                    present: Vec::new(),
                    flat: Flat::zeros(layout.len(), layout.dtype, &self.residence),
                };
                let here = deferred.entry(number).or_insert_with(nothing);
                here.present = mine.iter().map(|has| *has == 1).collect();
            }
        }
        Ok(())
    }

    /// Reduces units that are stored whole, all of one type by one collective, and adds them to the sums.
    fn reduce_joined(
        self: &Arc<Self>,
        session: &mut BackwardSession,
        mut deferred: Deferred,
        over: impl Fn(Label) -> Over,
    ) -> Result<()> {
        for (dtype, units) in self.joined() {
            if !units.iter().any(|unit| deferred.contains_key(unit)) {
                continue;
            }
            let len = |unit: &usize| self.unit(*unit).layout.len();
            let total = units.iter().map(len).sum();
            let mut all = Flat::zeros(total, dtype, &self.residence);
            let (mut start, mut present) = (0, Vec::new());
            for unit in &units {
                match deferred.remove(unit) {
                    Some(here) => {
                        all.put_part(start, &here.flat, 0..len(unit));
                        present.push(here.present);
                    }
                    None => present.push(vec![false; self.unit(*unit).layout.slots.len()]),
                }
                start += len(unit);
            }
            let backwards = self.backwards(session);
            // Under the name of the first, so that what is counted by unit has it.
            let label = &self.unit(units[0]).label;
            let label = label.with_detail(detail(&present.concat(), backwards));
            let over = over(label);
            let over_all = over.is_over_replicas() || !self.has_replicas();
            // They are all-reduced alike, so any of the units stands for all.
            let ticket = self.submit_reduction(units[0], all, over);
            let sum = self.world.waiting(|| ticket.wait())?.wait()?;
            let mut start = 0;
            for (unit, present) in units.iter().zip(present) {
                let end = start + len(unit);
                if present.contains(&true) {
                    let mut flat = Flat::zeros(len(unit), dtype, &self.residence);
                    flat.put_part(0, &sum, start..end);
                    let sums = &mut session.sums.units[*unit];
                    let sums = if over_all {
                        &mut sums.reduced
                    } else {
                        &mut sums.local
                    };
                    UnitGradients { present, flat }.add_to(sums);
                }
                start = end;
            }
        }
        Ok(())
    }

    /// The units that are reduced together, by type.
    fn joined(&self) -> Vec<(DType, Vec<usize>)> {
        let mut all: Vec<(DType, Vec<usize>)> = Vec::new();
        let units = self.units().iter().enumerate();
        for (number, unit) in units.filter(|(_, unit)| unit.is_joined) {
            let dtype = unit.layout.dtype;
            match all.iter_mut().find(|(known, _)| *known == dtype) {
                Some((_, units)) => units.push(number),
                None => all.push((dtype, vec![number])),
            }
        }
        all
    }

    /// The parameters of the unit that a label names, or of all units that are reduced together with it.
    pub(super) fn slots_of(&self, name: &str) -> Vec<&Slot> {
        let mut units = self.units().iter();
        let Some(unit) = units.find(|unit| *unit.layout.name == *name) else {
            return Vec::new();
        };
        if !unit.is_joined {
            return unit.layout.slots.iter().collect();
        }
        let joined = self.units().iter();
        let joined = joined.filter(|u| u.is_joined && u.layout.dtype == unit.layout.dtype);
        joined.flat_map(|u| &u.layout.slots).collect()
    }
}
