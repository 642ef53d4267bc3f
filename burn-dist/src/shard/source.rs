//! Where a parameter's value comes from when a layer asks for it.

use super::flat::Piece;
use super::full;
use super::pass::Pass;
use super::primitive::{Primitive, untracked};
use super::scope;
use super::sharded::Identity;
use crate::error::Result;
use burn::tensor::{DType, Tensor};
use std::sync::Arc;

/// Where the full value of a parameter comes from.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// The pass of its unit.
    Pass(Arc<Pass>),
    /// No pass of its unit is open: itself alone.
    Alone {
        identity: Identity,
        dtype: DType,
        /// Whether there is a tape, which keeps the value anyway.
        is_kept: bool,
    },
    /// An export is going on, which gathers unit by unit.
    Export(Identity),
}

impl Source {
    pub(crate) fn view(&self, slot: usize, base: Primitive) -> Result<Primitive> {
        match self {
            Self::Pass(pass) => pass.view(slot, base),
            Self::Export(identity) => full::take(identity),
            Self::Alone {
                identity, dtype, ..
            } if identity.sharding.is_whole(identity.unit) => Ok(base.cast(*dtype)),
            Self::Alone {
                identity: Identity { sharding, unit, .. },
                dtype,
                is_kept,
            } => {
                let piece = Piece::of_primitive(base);
                let whole = match sharding.kept_alone(*unit, slot, &piece, *dtype) {
                    Some(whole) => whole,
                    None => {
                        let ticket = sharding.gather_one(*unit, slot, piece.clone(), *dtype);
                        let whole = sharding.gathered(ticket)?;
                        if *is_kept {
                            sharding.keep_alone(*unit, slot, piece, *dtype, whole.clone());
                        }
                        whole
                    }
                };
                Ok(whole.view(0, &sharding.unit(*unit).layout.slots[slot].shape))
            }
        }
    }

    pub(crate) fn view_again(&self, slot: usize, base: Primitive) -> Result<Primitive> {
        match self {
            Self::Pass(pass) => pass.view_again(slot, base),
            _ => self.view(slot, base),
        }
    }

    /// Whether the full value stays until backward anyway.
    pub(crate) fn keeps(&self) -> bool {
        match self {
            Self::Pass(pass) => pass.keeps() || pass.sharding.is_whole(pass.unit),
            _ => true,
        }
    }

    pub(crate) fn collect(&self, slot: usize, gradient: Primitive) -> Result<()> {
        match self {
            Self::Pass(pass) => pass.collect(slot, gradient),
            Self::Alone {
                identity: Identity { sharding, unit, .. },
                ..
            }
            | Self::Export(Identity { sharding, unit, .. }) => {
                sharding.collect_alone(*unit, slot, gradient)
            }
        }
    }
}

/// Where `param.val()` of the parameter that stores `base` finds its value now, and the token that
/// orders it.
pub(crate) fn source<const D: usize>(
    identity: &Identity,
    base: &Tensor<D>,
) -> Result<(Source, Tensor<1>)> {
    let piece = Piece::of(base.clone())?;
    if let Some((pass, token)) = scope::open_pass(identity, &piece) {
        return Ok((Source::Pass(pass), token));
    }
    let source = match full::is_exporting() {
        true => Source::Export(identity.clone()),
        false => {
            // Around it activations have the type of the policy if any unit of the model is open,
            // and the stored one if the model marks no units at all.
            let Identity { sharding, unit, .. } = identity;
            let dtype = match scope::is_inside(sharding) {
                true => sharding.computed(*unit),
                false => sharding.unit(*unit).layout.dtype,
            };
            Source::Alone {
                identity: identity.clone(),
                dtype,
                is_kept: base.device().is_autodiff(),
            }
        }
    };
    Ok((source, untracked(&base.device())))
}
