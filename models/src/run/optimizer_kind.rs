//! The optimizers that the examples' command line knows.

use burn::module::{ParamGroup, ParamId};
use burn_dist::Plan;
use burn_dist::optim::Groups;
use clap::ValueEnum;
use serde::Serialize;

/// An optimizer of both examples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
pub enum OptimizerKind {
    /// Two numbers a parameter.
    Adamw,
    /// The matrices of the blocks by Muon, whose steps are as large as AdamW's at the same rate; the rest by AdamW.
    Muon,
    /// AdamW whose step of each matrix is as large as the matrix, for large batches.
    Lamb,
    /// States of a row and a column for each matrix.
    Adafactor,
}

impl OptimizerKind {
    /// Its name on a command line.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Adamw => "adamw",
            Self::Muon => "muon",
            Self::Lamb => "lamb",
            Self::Adafactor => "adafactor",
        }
    }

    /// The plan with the bytes that this optimizer keeps: states, and each owner's copies of what it steps whole.
    ///
    /// `undecayed` are parameters that do not decay, `hidden` the matrices that Muon steps.
    pub(super) fn plan(
        self,
        plan: Plan,
        undecayed: Option<&ParamGroup>,
        hidden: &ParamGroup,
    ) -> Plan {
        let any = ParamId::from(0);
        let is_in = |group: &ParamGroup, path: &str| group.matches(&any, Some(path));
        match self {
            Self::Adamw => plan,
            Self::Muon => plan.for_optimizer("Muon and AdamW", |unit, slot| {
                let copy = usize::from(unit.ranks > 1);
                let each = if is_in(hidden, &slot.path) {
                    1 + copy
                } else {
                    2
                };
                each * slot.len
            }),
            Self::Lamb => plan.for_optimizer("LAMB", |unit, slot| {
                let is_whole = !undecayed.is_some_and(|group| is_in(group, &slot.path));
                (2 + usize::from(is_whole && unit.ranks > 1)) * slot.len
            }),
            Self::Adafactor => plan.for_optimizer("Adafactor", |unit, slot| {
                let states = match slot.shape.as_slice() {
                    [.., rows, columns] => slot.len / columns.max(&1) + slot.len / rows.max(&1),
                    _ => slot.len,
                };
                states + if unit.ranks > 1 { slot.len } else { 0 }
            }),
        }
    }
}

/// The matrices of the blocks at these paths, which Muon's recipes step by it; embeddings, positions, the head and all else by
/// AdamW.
///
/// # Source
/// Jordan et al., *Muon*, 2024: hidden weights alone; PyTorch: `torch.optim.Muon` takes matrices alone.
pub(super) fn hidden_matrices(groups: &Groups, blocks: &str) -> ParamGroup {
    groups.filter(|parameter| parameter.shape().len() == 2 && parameter.lies_in(blocks))
}
