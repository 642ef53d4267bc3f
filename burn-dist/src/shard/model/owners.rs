//! Which rank steps which parameter whole, for optimizers that need a whole one.

use crate::layout::UnitLayout;
use crate::shard::memory::Shard;
use burn::module::ParamId;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Owners of the parameters of one sharding that are stepped whole; all others are stepped on their shards.
#[derive(Debug, Default)]
pub(crate) struct Owners(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// By unit and slot: the number of the owner among the ranks that share the unit.
    owners: BTreeMap<(usize, usize), usize>,
    /// Whether gradients were handed out that no stepper has taken.
    untaken: bool,
    witness: Option<Witness>,
}

/// A parameter, by unit and slot, as it was stored when gradients were handed out.
pub(crate) type Before = ((usize, usize), Shard);

/// By what a plain step is told, which no stepper has a part in.
#[derive(Debug, Clone)]
pub(crate) enum Witness {
    /// A small parameter that is stepped whole, and one that is not: a plain step changes the second alone.
    Pair {
        owned: Box<Before>,
        other: Box<Before>,
    },
    /// Where all are stepped whole, the smallest of them: its gradient for a plain step is not a number.
    Decoy(Box<Before>),
}

impl Owners {
    /// From here on these parameters, and no others, are stepped whole.
    pub(crate) fn set(&self, owners: BTreeMap<(usize, usize), usize>) {
        *self.lock() = Inner {
            owners,
            ..Inner::default()
        };
    }

    /// Who steps a parameter whole; none if it is stepped on its shards.
    pub(crate) fn of(&self, unit: usize, slot: usize) -> Option<usize> {
        self.lock().owners.get(&(unit, slot)).copied()
    }

    /// Whether every parameter is stepped on its shards.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().owners.is_empty()
    }

    /// Notes that gradients were handed out.
    pub(crate) fn hand_out(&self) {
        self.lock().untaken = true;
    }

    /// Notes that a stepper has taken them; whether they were there to take.
    pub(crate) fn take(&self) -> bool {
        std::mem::take(&mut self.lock().untaken)
    }

    /// What was stored when gradients were handed out last.
    pub(crate) fn witness(&self) -> Option<Witness> {
        self.lock().witness.clone()
    }

    /// Whether a plain step is to find a gradient of this parameter that is not a number.
    pub(crate) fn is_decoy(&self, unit: usize, slot: usize) -> bool {
        matches!(&self.lock().witness, Some(Witness::Decoy(decoy)) if decoy.0 == (unit, slot))
    }

    /// Notes what is stored.
    pub(crate) fn set_witness(&self, witness: Option<Witness>) {
        self.lock().witness = witness;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The id under which the gradient of a parameter is handed out that a stepper has to step.
///
/// Burn's own step finds no gradient under the parameter's id, so it leaves the parameter as it is, but for a
/// [decoy](Witness::Decoy).
pub(crate) fn id_for_stepper(id: ParamId) -> ParamId {
    const MARK: u64 = 0x6f77_6e65_645f_6279;
    ParamId::from(id.val() ^ MARK)
}

/// How much work a step of a whole parameter is: for a matrix of m rows and n columns, m the smaller, the
/// products of Muon's five iterations, otherwise the number of elements.
pub(crate) fn cost(shape: &[usize]) -> u128 {
    let elements = shape.iter().map(|n| *n as u128).product();
    match shape {
        [rows, columns] => {
            let (m, n) = (*rows.min(columns) as u128, *rows.max(columns) as u128);
            5 * (4 * m * m * n + 2 * m * m * m)
        }
        _ => elements,
    }
}

/// Gives each job, with its cost, to one of `ranks`: the longest first, each to the rank that has least to do.
pub(crate) fn assign(costs: &[u128], ranks: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..costs.len()).collect();
    order.sort_by_key(|job| (std::cmp::Reverse(costs[*job]), *job));
    let (mut load, mut owners) = (vec![0u128; ranks], vec![0; costs.len()]);
    for job in order {
        let least = (0..ranks).min_by_key(|rank| (load[*rank], *rank));
        owners[job] = least.unwrap_or(0);
        load[owners[job]] += costs[job];
    }
    owners
}

/// How many elements of a parameter go from each rank that stores some to its owner, or back.
pub(crate) fn pieces(layout: &UnitLayout, slot: usize) -> impl Iterator<Item = usize> + '_ {
    (0..layout.ranks).map(move |rank| layout.shard_range(slot, rank).len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_job_comes_first_and_goes_where_least_is_to_do() {
        assert_eq!(assign(&[3, 5, 2, 2], 2), [1, 0, 1, 0]);
        assert_eq!(assign(&[1, 1, 1], 3), [0, 1, 2]);
        assert!(assign(&[], 3).is_empty());
        assert_eq!(assign(&[7, 7], 1), [0, 0]);
    }

    #[test]
    fn a_matrix_costs_its_products() {
        assert_eq!(cost(&[3, 2]), 5 * (4 * 4 * 3 + 2 * 8));
        assert_eq!(cost(&[2, 3]), cost(&[3, 2]));
        assert_eq!((cost(&[7]), cost(&[2, 3, 4]), cost(&[])), (7, 24, 1));
    }
}
