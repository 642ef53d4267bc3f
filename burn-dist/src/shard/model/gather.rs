//! All-gathers of units and of single parameters.

use super::sharding::{Sharding, Unit};
use crate::comm::Ticket;
use crate::error::Result;
use crate::shard::memory::{Flat, PendingFlat, Primitive, Quantized, Shard, Shards, SharedFlat};
use crate::warning::warn;
use burn::tensor::DType;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A unit that is being gathered for a pass.
#[derive(Debug)]
pub(crate) struct GatheredUnit {
    flat: PendingFlat,
    /// This rank's part of the codes it was gathered as, where it is gathered again from them.
    part: Option<Part>,
}

/// What a rank keeps of a gathered unit, to gather it again over fewer ranks.
#[derive(Debug)]
pub(crate) enum Part {
    Elements(Box<Primitive>),
    Codes(Quantized, Vec<u8>),
}

impl GatheredUnit {
    fn exact(flat: PendingFlat) -> Self {
        Self { flat, part: None }
    }
}

impl Sharding {
    /// Starts to gather a unit from its shards, behind what was submitted before.
    pub(crate) fn all_gather(
        self: &Arc<Self>,
        unit: usize,
        shards: Shards,
        dtype: DType,
    ) -> Ticket<PendingFlat> {
        let this = self.clone();
        self.world.submit(move || this.gather(unit, &shards, dtype))
    }

    /// Gathers a unit from its shards, on the communication thread.
    fn gather(&self, unit: usize, shards: &Shards, dtype: DType) -> Result<PendingFlat> {
        let Unit { layout, label, .. } = self.unit(unit);
        let mut all = Flat::zeros(layout.len(), dtype, &self.residence);
        let rank = self.shard_rank(unit);
        for (slot, shard) in shards.iter().enumerate() {
            if let Some(shard) = shard {
                let start = rank * layout.shard_len + layout.slot_in_shard(slot, rank).start;
                all.put_shard(start, shard, layout.dtype);
            }
        }
        if layout.is_replicated() {
            Ok(all.into())
        } else {
            all.all_gather(&self.shard_group, label)
        }
    }

    /// Starts to gather a unit for a pass, which computes with what the strategy gathers: the shards, or what is left
    /// of them as codes.
    pub(crate) fn gather_for_pass(
        self: &Arc<Self>,
        unit: usize,
        shards: Shards,
    ) -> Ticket<GatheredUnit> {
        let dtype = self.param_dtype(unit);
        let this = self.clone();
        self.world.submit(move || {
            let Some(quantized) = this.quantized(unit) else {
                return Ok(GatheredUnit::exact(this.gather(unit, &shards, dtype)?));
            };
            let Unit { layout, label, .. } = this.unit(unit);
            let rank = this.shard_rank(unit);
            let mut own = Flat::zeros(layout.shard_len, DType::F32, &this.residence);
            for (slot, shard) in shards.iter().enumerate() {
                if let Some(shard) = shard {
                    own.put_shard(layout.slot_in_shard(slot, rank).start, shard, layout.dtype);
                }
            }
            let own = quantized.encode(&own)?;
            let all = Quantized::gather(&this.shard_group, label, &own)?;
            let flat = quantized.decode(&all, dtype)?;
            let part = this.regather_group.as_ref().map(|group| {
                let len = all.len() / group.size();
                Part::Codes(quantized, all[group.rank() * len..][..len].to_vec())
            });
            Ok(GatheredUnit {
                flat: flat.into(),
                part,
            })
        })
    }

    /// Waits for a gather, so that this thread can compute with what it brings; also this rank's part of its codes.
    pub(crate) fn wait_for_gather(
        &self,
        ticket: Ticket<GatheredUnit>,
    ) -> Result<(SharedFlat, Option<Part>)> {
        let GatheredUnit { flat, part } = self.world.waiting(|| ticket.wait())?;
        Ok((flat.wait()?.share(), part))
    }

    /// This rank's part of a gathered unit, from which [`gather_again`](Self::gather_again) makes all of it; none where
    /// it is gathered from the shards.
    pub(crate) fn part(&self, unit: usize, flat: &SharedFlat) -> Option<Part> {
        let group = self.regather_group.as_ref()?;
        let len = self.unit(unit).layout.len() / group.size();
        let part = flat.copy(group.rank() * len, &[len]);
        Some(Part::Elements(Box::new(part)))
    }

    /// Starts to gather a unit from the parts that a smaller group of ranks has kept.
    pub(crate) fn gather_again(self: &Arc<Self>, unit: usize, part: Part) -> Ticket<GatheredUnit> {
        let this = self.clone();
        self.world.submit(move || {
            let Unit { layout, label, .. } = this.unit(unit);
            let group = this.regather_group.as_ref().unwrap_or(&this.shard_group);
            let flat = match part {
                Part::Codes(quantized, own) => {
                    let all = Quantized::gather(group, label, &own)?;
                    quantized.decode(&all, this.param_dtype(unit))?.into()
                }
                Part::Elements(part) => {
                    let mut all = Flat::zeros(layout.len(), part.dtype(), &this.residence);
                    all.put(group.rank() * layout.len() / group.size(), &part);
                    all.all_gather(group, label)?
                }
            };
            Ok(GatheredUnit::exact(flat))
        })
    }

    /// How a unit is coded to be gathered for a pass, if it is.
    fn quantized(&self, unit: usize) -> Option<Quantized> {
        let block = self.strategy.quantized_gathers?;
        let layout = &self.unit(unit).layout;
        let shard_len = layout.shard_len;
        // Bytes of quantized weights are few as they are.
        let is_sharded = !self.is_replicated(unit) && !layout.is_quantized();
        is_sharded.then_some(Quantized { shard_len, block })
    }

    /// Starts to gather one parameter alone, for a `val()` outside of any pass of its unit.
    pub(crate) fn all_gather_parameter(
        self: &Arc<Self>,
        unit: usize,
        slot: usize,
        shard: Shard,
        dtype: DType,
    ) -> Ticket<PendingFlat> {
        if !self.warned.swap(true, Ordering::Relaxed) && self.world.is_chief() {
            warn(format_args!(
                "{} is read outside of a `unit` call, so it is gathered alone and kept until \
                 backward: correct, but slower; wrap the forward of its module in burn_dist::unit. \
                 Outside of one, layers are not checked for shapes of what is stored \
                 (`weight.dims()`) either: compare a step by World::shadow",
                self.unit(unit).layout.slots[slot].path
            ));
        }
        let this = self.clone();
        self.world.submit(move || {
            let Unit { layout, label, .. } = this.unit(unit);
            let (ranks, rank) = (this.shard_group.size(), this.shard_group.rank());
            // Ranks send equal amounts: as much as the largest shard.
            let most = (0..ranks)
                .map(|r| layout.shard_range(slot, r).len())
                .max()
                .unwrap_or(0);
            let mut padded = Flat::zeros(most * ranks, dtype, &this.residence);
            padded.put_shard(rank * most, &shard, layout.dtype);
            let label = label.with_detail(layout.slots[slot].path.as_str());
            let padded = padded.all_gather(&this.shard_group, &label)?.wait()?;
            let mut full = Flat::zeros(layout.slots[slot].len, dtype, &this.residence);
            for rank in 0..ranks {
                let to = layout.shard_range(slot, rank);
                let from = rank * most;
                full.put_part(to.start, &padded, from..from + to.len());
            }
            Ok(full.into())
        })
    }

    /// Waits for a gather, so that this thread can compute with what it brings.
    pub(crate) fn wait_for_all_gather(&self, ticket: Ticket<PendingFlat>) -> Result<SharedFlat> {
        let flat = self.world.waiting(|| ticket.wait())?.wait()?;
        Ok(flat.share())
    }

    /// The kept buffer of a unit, if it was gathered from these shards.
    pub(crate) fn kept_unit(&self, unit: usize, shards: &Shards) -> Option<SharedFlat> {
        self.unsharded().unit(unit, shards)
    }

    /// Keeps a gathered unit until [`reshard_unit`](Self::reshard_unit) or
    /// [`reshard_all`](Self::reshard_all).
    pub(crate) fn keep_unit(&self, unit: usize, shards: Shards, flat: SharedFlat) {
        self.unsharded().keep_unit(unit, shards, flat);
    }

    /// The kept buffer of a parameter that was gathered alone, if it was from this shard and in this
    /// type.
    pub(crate) fn kept_parameter(
        &self,
        unit: usize,
        slot: usize,
        shard: &Shard,
        dtype: DType,
    ) -> Option<SharedFlat> {
        self.unsharded()
            .parameter((unit, slot, dtype.name()), shard)
    }

    /// Keeps a parameter that was gathered alone, as [`keep_unit`](Self::keep_unit) does a unit.
    pub(crate) fn keep_parameter(
        &self,
        unit: usize,
        slot: usize,
        shard: Shard,
        dtype: DType,
        flat: SharedFlat,
    ) {
        let key = (unit, slot, dtype.name());
        self.unsharded().keep_parameter(key, shard, flat);
    }

    /// Drops what is kept of a unit: its gradients are being reduced.
    pub(crate) fn reshard_unit(&self, unit: usize) {
        self.unsharded().reshard_unit(unit);
    }

    /// Drops all that is kept: the step is about to replace what it was gathered from.
    pub(crate) fn reshard_all(&self) {
        self.unsharded().reshard_all();
    }
}
