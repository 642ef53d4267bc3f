//! The gradients of a step, cut as the parameters are, and their global norm.

use super::flat::Flat;
use super::primitive::Primitive;
use super::sharding::Sharding;
use crate::comm::{Reduce, SpanMut};
use crate::error::{Error, Result};
use crate::layout::Slot;
use burn::module::{Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use std::ops::Range;
use std::sync::Arc;

/// The gradients of one unit: this rank's cut, or all of it where nothing is cut.
#[derive(Debug)]
pub(crate) struct UnitGradients {
    /// Which parameters have one.
    pub(crate) present: Vec<bool>,
    pub(crate) flat: Flat,
}

/// One parameter of the model whose gradients these are.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    id: ParamId,
    rank: usize,
    unit: usize,
    slot: usize,
    register: fn(&mut GradientsParams, ParamId, Primitive),
}

impl Entry {
    pub(crate) fn new<const D: usize>(param: &Param<Tensor<D>>) -> Self {
        Self {
            id: param.id,
            rank: D,
            unit: 0,
            slot: 0,
            register: |gradients, id, piece| {
                gradients.register(id, piece.into_tensor::<D>());
            },
        }
    }

    pub(crate) fn at(self, unit: usize, slot: usize) -> Self {
        Self { unit, slot, ..self }
    }
}

/// Gradients of a step, averaged over ranks; each rank has those of the pieces it stores.
///
/// [`into_params`](Self::into_params) makes of them what Burn's optimizers take.
#[derive(Debug)]
pub struct ShardedGradients {
    sharding: Arc<Sharding>,
    entries: Vec<Entry>,
    units: Vec<Option<UnitGradients>>,
}

/// Gradients whose global norm is at most what was asked for.
#[derive(Debug)]
pub struct Clipped {
    /// What Burn's optimizers take.
    pub grads: GradientsParams,
    /// The global norm before clipping, the same on every rank.
    pub norm: f64,
}

impl ShardedGradients {
    pub(crate) fn new(
        sharding: Arc<Sharding>,
        entries: Vec<Entry>,
        units: Vec<Option<UnitGradients>>,
    ) -> Self {
        Self {
            sharding,
            entries,
            units,
        }
    }

    /// The L2 norm of all gradients of the model, each element counted once.
    ///
    /// # Numerics
    /// Squares are summed in f64, whatever the gradients' type; on a GPU in f32, unit by unit.
    ///
    /// # Cost
    /// One all-reduce of 8 bytes among the ranks that share a copy of the state; none where
    /// nothing is cut. On GPUs one broadcast of 8 bytes more, among replicas. Collective.
    ///
    /// # Errors
    /// [`Error::NotFinite`] on every rank if any gradient is infinite or NaN; what collectives
    /// return.
    pub fn norm(&self) -> Result<f64> {
        let mut squares = [0.0];
        for (unit, gradients) in self.units.iter().enumerate() {
            let Some(UnitGradients { present, flat }) = gradients else {
                continue;
            };
            let layout = &self.sharding.unit(unit).layout;
            // Every rank has all of a whole unit, and its elements count once.
            if layout.is_whole() && self.sharding.cut.rank() != 0 {
                continue;
            }
            squares[0] += flat.squares(&self.ranges(unit, present))?;
        }
        let label = "gradient norm".into();
        self.sharding
            .cut
            .all_reduce(&label, Reduce::Sum, SpanMut::of(&mut squares))?;
        // Two GPUs may have chosen two kernels for the same sum, and replicas must not drift apart.
        if self.sharding.place.is_device() {
            let replicas = &self.sharding.replicas;
            replicas.broadcast(&"gradient norm".into(), 0, SpanMut::of(&mut squares))?;
        }
        let norm = f64::sqrt(squares[0]);
        match norm.is_finite() {
            true => Ok(norm),
            false => Err(Error::NotFinite { norm }),
        }
    }

    /// Scales the gradients down so that their global norm is at most `max_norm`.
    ///
    /// Burn's own norm clipping is per tensor, which is something else, and on pieces wrong.
    ///
    /// # Numerics
    /// The factor is `max_norm / (norm + 1e-6)` where that is below 1.
    ///
    /// # Cost
    /// That of [`norm`](Self::norm).
    ///
    /// # Errors
    /// As [`norm`](Self::norm): the gradients are lost then, model and optimizer untouched.
    /// [`Error::Config`] if `max_norm` is not a positive number.
    ///
    /// # Source
    /// PyTorch: `torch.nn.utils.clip_grad_norm_`.
    pub fn clip_norm(mut self, max_norm: f64) -> Result<Clipped> {
        if max_norm.is_nan() || max_norm <= 0.0 {
            return Err(Error::config("clip norm", "a positive number", max_norm));
        }
        let norm = self.norm()?;
        let factor = max_norm / (norm + 1e-6);
        if factor < 1.0 {
            self = self.scaled(factor);
        }
        let grads = self.into_params();
        Ok(Clipped { grads, norm })
    }

    /// Whether every gradient of every rank is a finite number; the same answer on every rank.
    ///
    /// # Cost
    /// One all-reduce of a byte. Collective.
    ///
    /// # Errors
    /// What a collective returns.
    pub fn all_finite(&self) -> Result<bool> {
        let mut is_finite = true;
        for (unit, gradients) in self.units.iter().enumerate() {
            if let Some(UnitGradients { present, flat }) = gradients {
                is_finite = is_finite && flat.is_finite(&self.ranges(unit, present))?;
            }
        }
        let mut found = [u8::from(!is_finite)];
        let comm = self.sharding.world.comm();
        let label = "gradients finite".into();
        comm.all_reduce(&label, Reduce::Max, SpanMut::of(&mut found))?;
        Ok(found[0] == 0)
    }

    /// Where the gradients that a unit has lie in its buffer.
    fn ranges(&self, unit: usize, present: &[bool]) -> Vec<Range<usize>> {
        let (layout, owned) = (&self.sharding.unit(unit).layout, self.sharding.owned(unit));
        let slots = (0..present.len()).filter(|slot| present[*slot]);
        slots.map(|slot| layout.piece_in_cut(slot, owned)).collect()
    }

    /// Shows what this rank has of every gradient: unit, slot, the range of the parameter's
    /// elements, and their values.
    pub(super) fn each(
        &self,
        mut show: impl FnMut(usize, &Slot, Range<usize>, &[f64]),
    ) -> Result<()> {
        for (unit, gradients) in self.units.iter().enumerate() {
            let Some(UnitGradients { present, flat }) = gradients else {
                continue;
            };
            let (layout, owned) = (&self.sharding.unit(unit).layout, self.sharding.owned(unit));
            let all = flat.numbers()?;
            for slot in (0..present.len()).filter(|slot| present[*slot]) {
                let values = &all[layout.piece_in_cut(slot, owned)];
                show(unit, &layout.slots[slot], layout.piece(slot, owned), values);
            }
        }
        Ok(())
    }

    /// The name of a unit.
    pub(super) fn unit_name(&self, unit: usize) -> &str {
        &self.sharding.unit(unit).layout.name
    }

    /// The same gradients, each multiplied by `factor`.
    pub fn scaled(mut self, factor: f64) -> Self {
        let all = self.units.iter_mut().flatten();
        all.for_each(|gradients| gradients.flat.scale(factor));
        self
    }

    /// The gradients as Burn's optimizers take them.
    ///
    /// A parameter that no rank gave a gradient has none. One of which this rank stores nothing
    /// has none either: there is nothing to step.
    pub fn into_params(self) -> GradientsParams {
        let mut grads = GradientsParams::new();
        let units: Vec<_> = self
            .units
            .into_iter()
            .map(|u| u.map(|u| (u.present, u.flat.share())))
            .collect();
        for entry in self.entries {
            let Some((present, flat)) = &units[entry.unit] else {
                continue;
            };
            let layout = &self.sharding.unit(entry.unit).layout;
            let place = layout.piece_in_cut(entry.slot, self.sharding.owned(entry.unit));
            let whole = layout.is_whole();
            if !present[entry.slot] || (place.is_empty() && !whole) {
                continue;
            }
            let shape = match whole {
                true => layout.slots[entry.slot].shape.clone(),
                false => piece_shape(place.len(), entry.rank),
            };
            let start = if whole {
                layout.slots[entry.slot].offset
            } else {
                place.start
            };
            (entry.register)(&mut grads, entry.id, flat.view(start, &shape));
        }
        grads
    }
}

/// The shape in which a piece of `len` elements of a rank-`rank` parameter is stored.
pub(crate) fn piece_shape(len: usize, rank: usize) -> Vec<usize> {
    let mut shape = vec![1; rank];
    if let Some(first) = shape.first_mut() {
        *first = len;
    }
    shape
}
