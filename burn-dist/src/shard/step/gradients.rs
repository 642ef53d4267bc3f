//! The gradients of a step, sharded as the parameters are, and their global norm.

use crate::comm::{Reduce, Span, SpanMut};
use crate::error::{Error, Result};
use crate::layout::{Slot, shard_shape};
use crate::shard::memory::Primitive;
use crate::shard::model::{Sharding, UnitGradients, id_for_stepper};
use crate::world::World;
use burn::module::{Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::DType;
use burn::tensor::Tensor;
use std::ops::Range;
use std::sync::Arc;

/// One parameter of the model whose gradients these are.
#[derive(Debug, Clone)]
pub(crate) struct TrainedParam {
    id: ParamId,
    rank: usize,
    part: usize,
    unit: usize,
    slot: usize,
    register: fn(&mut GradientsParams, ParamId, Primitive),
}

impl TrainedParam {
    pub(crate) fn new<const D: usize>(param: &Param<Tensor<D>>) -> Self {
        Self {
            id: param.id,
            rank: D,
            part: 0,
            unit: 0,
            slot: 0,
            register: |gradients, id, shard| {
                gradients.register(id, shard.into_tensor::<D>());
            },
        }
    }

    pub(crate) fn at(self, part: usize, unit: usize, slot: usize) -> Self {
        Self {
            part,
            unit,
            slot,
            ..self
        }
    }
}

/// Gradients of a step, averaged over ranks; each rank has those of the shards it stores.
///
/// [`into_params`](Self::into_params) makes of them what Burn's optimizers take.
#[derive(Debug)]
pub struct ShardedGradients {
    world: World,
    parts: Vec<PartGradients>,
    params: Vec<TrainedParam>,
    losses: Vec<Tensor<1>>,
}

/// Those of what was sharded by one call.
#[derive(Debug)]
pub(crate) struct PartGradients {
    pub(crate) sharding: Arc<Sharding>,
    pub(crate) units: Vec<Option<UnitGradients>>,
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
        world: World,
        parts: Vec<PartGradients>,
        params: Vec<TrainedParam>,
        losses: Vec<Tensor<1>>,
    ) -> Self {
        Self {
            world,
            parts,
            params,
            losses,
        }
    }

    /// Gives the gradients of each unit to `each`, with the unit's name: those that this rank stores and no rank before it does, as
    /// [`World::visit_elements`] does with parameters. Units without a gradient in this step are left out. Not collective.
    ///
    /// # Errors
    /// What reading a device fails with.
    pub fn visit_elements(&self, mut each: impl FnMut(&str, &[f64])) -> Result<()> {
        for part in &self.parts {
            for (unit, gradients) in part.units.iter().enumerate() {
                let Some(UnitGradients { present, flat }) = gradients else {
                    continue;
                };
                let name = &part.sharding.unit(unit).layout.name;
                if !part.sharding.is_counted_here(unit) {
                    each(name, &[]);
                    continue;
                }
                let numbers = flat.numbers()?;
                let ranges = part.ranges(unit, present);
                let of_range = |range: Range<usize>| numbers[range].iter().copied();
                each(
                    name,
                    &ranges.into_iter().flat_map(of_range).collect::<Vec<_>>(),
                );
            }
        }
        Ok(())
    }

    /// The L2 norm of all gradients of the model, each element counted once.
    ///
    /// # Numerics
    /// Squares are summed in f64, whatever the gradients' type; on a GPU in f32, unit by unit.
    ///
    /// # Cost
    /// One all-reduce of 8 bytes among the ranks that share a copy of the state, for each part that
    /// the model was sharded in; none where nothing is sharded. On GPUs one broadcast of 8 bytes more, among replicas. Collective.
    ///
    /// # Errors
    /// [`Error::NotFinite`] on every rank if any gradient is infinite or NaN, naming the first
    /// parameter; what collectives return.
    pub fn norm(&self) -> Result<f64> {
        let squares = self.parts.iter().map(PartGradients::squares);
        let norm = squares.sum::<Result<f64>>()?.sqrt();
        if norm.is_finite() {
            Ok(norm)
        } else {
            let (place, loss) = self.not_finite()?;
            Err(Error::NotFinite { norm, place, loss })
        }
    }

    /// Where the first gradient is that is not finite, and whether the losses were, in words that are
    /// the same on every rank. Collective.
    pub(crate) fn not_finite(&self) -> Result<(String, String)> {
        let losses = self.losses.iter().cloned();
        let mut losses = losses.map(|loss| loss.into_data().iter::<f64>().all(f64::is_finite));
        let is_loss_finite = losses.all(|finite| finite);
        let mine = [self.first_not_finite()?, u64::from(!is_loss_finite)];
        let mut all = vec![0; 2 * self.world.size()];
        let label = "gradients that are not finite".into();
        let (send, recv) = (Span::of(&mine), SpanMut::of(&mut all));
        self.world.comm().all_gather(&label, send, recv)?;
        let ranks = || all.chunks_exact(2).enumerate();
        let first = ranks().min_by_key(|(rank, found)| (found[0], *rank));
        let slots = self.parts.iter().flat_map(|part| {
            let units = part.sharding.units().iter();
            units.flat_map(|unit| unit.layout.slots.iter().map(move |slot| (unit, slot)))
        });
        let place = first.and_then(|(rank, found)| {
            let (unit, slot) = slots.enumerate().find(|(at, _)| *at as u64 == found[0])?.1;
            Some(format!(
                "first in parameter {} of unit {}, in the part of it that rank {rank} stores",
                slot.path, unit.layout.name
            ))
        });
        let lost = ranks().find(|(_, found)| found[1] != 0);
        let place =
            place.unwrap_or("each gradient is finite, the sum of their squares is not".into());
        let loss = match lost {
            Some((rank, _)) => format!("the loss of rank {rank} was not finite already"),
            None => "the losses of all ranks were finite".into(),
        };
        Ok((place, loss))
    }

    /// The number, counted over all parts and units, of the first parameter of which this rank has a
    /// gradient that is not finite; the largest number if there is none.
    fn first_not_finite(&self) -> Result<u64> {
        let mut number = 0;
        for PartGradients { sharding, units } in &self.parts {
            for (unit, gradients) in units.iter().enumerate() {
                for slot in 0..sharding.unit(unit).layout.slots.len() {
                    if let Some(UnitGradients { present, flat }) = gradients
                        && present[slot]
                        && !flat.is_finite(&[sharding.slot_in_shard(unit, slot)])?
                    {
                        return Ok(number);
                    }
                    number += 1;
                }
            }
        }
        Ok(u64::MAX)
    }

    /// Scales the gradients down so that their global norm is at most `max_norm`.
    ///
    /// Burn's own norm clipping is per tensor, which is something else, and wrong on shards.
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
        for part in &self.parts {
            for (unit, gradients) in part.units.iter().enumerate() {
                if let Some(UnitGradients { present, flat }) = gradients {
                    is_finite = is_finite && flat.is_finite(&part.ranges(unit, present))?;
                }
            }
        }
        let mut found = [u8::from(!is_finite)];
        let label = "gradients finite".into();
        let all = SpanMut::of(&mut found);
        self.world.comm().all_reduce(&label, Reduce::Max, all)?;
        Ok(found[0] == 0)
    }

    /// Shows what this rank has of every gradient: the unit's name, the slot, the range of the
    /// parameter's elements, and their values.
    pub(crate) fn each(
        &self,
        mut show: impl FnMut(&Arc<str>, &Slot, Range<usize>, &[f64]),
    ) -> Result<()> {
        for PartGradients { sharding, units } in &self.parts {
            for (unit, gradients) in units.iter().enumerate() {
                let Some(UnitGradients { present, flat }) = gradients else {
                    continue;
                };
                let (layout, owned) = (&sharding.unit(unit).layout, sharding.shard_rank(unit));
                let all = flat.numbers()?;
                for slot in (0..present.len()).filter(|slot| present[*slot]) {
                    let values = &all[layout.slot_in_shard(slot, owned)];
                    let range = layout.shard_range(slot, owned);
                    show(&layout.name, &layout.slots[slot], range, values);
                }
            }
        }
        Ok(())
    }

    /// The same gradients, each multiplied by `factor`.
    pub fn scaled(mut self, factor: f64) -> Self {
        let units = self.parts.iter_mut().flat_map(|part| &mut part.units);
        let all = units.flatten();
        all.for_each(|gradients| gradients.flat.scale(factor));
        self
    }

    /// The gradients as Burn's optimizers take them.
    ///
    /// A parameter that no rank gave a gradient has none. One of which this rank stores nothing
    /// has none either: there is nothing to step. Those of parameters that a
    /// [stepper](World::stepper) of this model steps whole lie where only that finds them; where those are all, the smallest
    /// has one that is not a number for an optimizer's own step, which is so found to be one too many.
    pub fn into_params(self) -> GradientsParams {
        let mut grads = GradientsParams::new();
        let shared = |part: PartGradients| {
            let units = part.units.into_iter();
            let units: Vec<_> = units
                .map(|u| u.map(|u| (u.present, u.flat.share())))
                .collect();
            (part.sharding, units)
        };
        let parts: Vec<_> = self.parts.into_iter().map(shared).collect();
        for (sharding, _) in &parts {
            sharding.owners.hand_out();
        }
        for param in self.params {
            let (sharding, units) = &parts[param.part];
            let Some((present, flat)) = &units[param.unit] else {
                continue;
            };
            let layout = &sharding.unit(param.unit).layout;
            let range = sharding.slot_in_shard(param.unit, param.slot);
            if !present[param.slot] {
                continue;
            }
            let slot = &layout.slots[param.slot];
            let is_owned = sharding.owners.of(param.unit, param.slot).is_some();
            if is_owned && range.is_empty() {
                // An element that says that there is a gradient: all ranks have to know.
                let there = Primitive::filled(
                    DType::F32,
                    &vec![1; param.rank],
                    &sharding.residence,
                    |_| (),
                );
                (param.register)(&mut grads, id_for_stepper(param.id), there);
                continue;
            }
            let (start, shape) = if layout.is_replicated() {
                (slot.offset, slot.shape.clone())
            } else if range.is_empty() {
                continue;
            } else {
                (range.start, shard_shape(range.len(), param.rank))
            };
            if is_owned && sharding.owners.is_decoy(param.unit, param.slot) {
                // All bits set are no number in any type of floats.
                let decoy = Primitive::filled(layout.dtype, &shape, &sharding.residence, |bytes| {
                    bytes.fill(0xff)
                });
                (param.register)(&mut grads, param.id, decoy);
            }
            let id = if is_owned {
                id_for_stepper(param.id)
            } else {
                param.id
            };
            (param.register)(&mut grads, id, flat.view(start, &shape));
        }
        grads
    }
}

impl PartGradients {
    /// Where the gradients that a unit has lie in its buffer.
    fn ranges(&self, unit: usize, present: &[bool]) -> Vec<Range<usize>> {
        let slots = (0..present.len()).filter(|slot| present[*slot]);
        slots
            .map(|slot| self.sharding.slot_in_shard(unit, slot))
            .collect()
    }

    /// The sum of the squares of this part's gradients, each element counted once. Collective.
    fn squares(&self) -> Result<f64> {
        let Self { sharding, units } = self;
        let mut squares = [0.0];
        for (unit, gradients) in units.iter().enumerate() {
            let Some(UnitGradients { present, flat }) = gradients else {
                continue;
            };
            // Every rank has all of a whole unit, and its elements count once.
            if sharding.is_replicated(unit) && sharding.shard_group.rank() != 0 {
                continue;
            }
            squares[0] += flat.squares(&self.ranges(unit, present))?;
        }
        let label = "gradient norm".into();
        sharding
            .shard_group
            .all_reduce(&label, Reduce::Sum, SpanMut::of(&mut squares))?;
        // Two GPUs may have chosen two kernels for the same sum, and replicas must not drift apart.
        if sharding.residence.is_device() {
            let replicas = &sharding.replica_group;
            replicas.broadcast(&label, 0, SpanMut::of(&mut squares))?;
        }
        Ok(squares[0])
    }
}
