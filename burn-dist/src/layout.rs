//! Which rank owns which elements: a pure function of names, shapes, types and the number of
//! ranks.
//!
//! The parameters of a unit lie back to back, each at an aligned offset, in one flat buffer that
//! is sharded evenly over the ranks. Gathering the shards gives the buffer back, in which every
//! parameter is a view: nothing is copied out. A unit's shard takes no notice of parameters, so a rank's
//! shard of one may be empty or a few elements of the middle; only the unit's end is padded.
//!
//! Checkpoint ranges, the memory estimate and the traffic estimate all come from here.

use crate::quantization;
use burn::tensor::DType;
use burn::tensor::quantization::QuantScheme;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Every parameter starts at a multiple of this, so that vector instructions see aligned views.
const PARAMETER_ALIGN: usize = 64;
/// Every rank's shard starts at a multiple of this.
const SHARD_ALIGN: usize = 16;

/// What the blocks of [`units`] are multiples of: whole alignments of any type.
pub const BLOCK_MULTIPLE: usize = 64;

/// A parameter, as far as the layout cares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// Its path in the module, such as `blocks.2.fc1.weight`.
    pub path: String,
    /// The path of the unit it belongs to; empty for the root.
    pub unit: String,
    /// Its full shape.
    pub shape: Vec<usize>,
    /// Its element type.
    pub dtype: DType,
    /// How it is quantized, if it is: stored and gathered as bytes.
    pub quantized: Option<QuantScheme>,
    /// Whether it takes gradients.
    pub trainable: bool,
    /// Whether every rank stores all of it, such as one whose layer reads the shape of what is stored.
    pub replicated: bool,
}

impl Parameter {
    /// The type of what is stored.
    fn stored_dtype(&self) -> DType {
        self.quantized.map_or(self.dtype, |_| DType::U8)
    }
}

/// One parameter's place in its unit's flat buffer, in elements of the buffer: bytes, if it is quantized.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Its path in the module.
    pub path: String,
    /// Its full shape.
    pub shape: Vec<usize>,
    /// Its element type, which the buffer has too unless it is quantized.
    pub dtype: DType,
    /// How it is quantized, if it is.
    pub quantized: Option<QuantScheme>,
    /// Where it starts.
    pub offset: usize,
    /// Number of elements of the buffer that it takes.
    pub len: usize,
}

impl Slot {
    /// Number of elements of the parameter.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// The shape of what is stored of it by all ranks: that of the parameter, or so many bytes.
    pub fn stored_shape(&self) -> Vec<usize> {
        match self.quantized {
            None => self.shape.clone(),
            Some(_) => vec![self.len],
        }
    }
}

/// The flat buffer of one unit: parameters that are gathered together.
///
/// Parameters that take gradients and frozen ones of the same unit are laid out apart, so that a
/// reduction never moves what has no gradient; so are those of different types, quantized ones, and
/// those that every rank stores whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitLayout {
    /// Its name in tables, messages and fingerprints.
    pub name: Arc<str>,
    /// The path of the module that the unit is; empty for the root.
    pub path: String,
    /// The element type of the buffer: of all its parameters, or bytes of quantized ones.
    pub dtype: DType,
    /// Whether its parameters take gradients.
    pub trainable: bool,
    /// The parameters, in the order of the module.
    pub slots: Vec<Slot>,
    /// Number of ranks it is sharded over; 1 if it is replicated.
    pub ranks: usize,
    /// Elements that each rank owns, padding included.
    pub shard_len: usize,
}

impl UnitLayout {
    /// Elements of the flat buffer, padding included.
    pub fn len(&self) -> usize {
        self.shard_len * self.ranks
    }

    /// Whether the unit has no elements at all.
    pub fn is_empty(&self) -> bool {
        self.shard_len == 0
    }

    /// Elements of its parameters.
    pub fn elements(&self) -> usize {
        self.slots.iter().map(Slot::elements).sum()
    }

    /// Bytes that are parameters, without padding.
    pub fn parameter_bytes(&self) -> usize {
        self.slots.iter().map(|s| s.len).sum::<usize>() * self.dtype.size()
    }

    /// Whether its parameters are quantized.
    pub fn is_quantized(&self) -> bool {
        self.slots.iter().any(|slot| slot.quantized.is_some())
    }

    /// Bytes of the flat buffer, padding included.
    pub fn bytes(&self) -> usize {
        self.len() * self.dtype.size()
    }

    /// The parameters, as they were given to [`units`].
    pub fn parameters(&self) -> impl Iterator<Item = Parameter> + '_ {
        self.slots.iter().map(|slot| Parameter {
            path: slot.path.clone(),
            unit: self.path.clone(),
            shape: slot.shape.clone(),
            dtype: slot.dtype,
            quantized: slot.quantized,
            trainable: self.trainable,
            replicated: self.is_replicated(),
        })
    }

    /// Whether every rank stores all of it.
    pub fn is_replicated(&self) -> bool {
        self.ranks == 1
    }

    /// The part of parameter `slot` that `rank` owns, counted from the parameter's start.
    pub fn shard_range(&self, slot: usize, rank: usize) -> Range<usize> {
        let Slot { offset, len, .. } = self.slots[slot];
        let inside = |at: usize| at.clamp(offset, offset + len) - offset;
        inside(rank * self.shard_len)..inside((rank + 1) * self.shard_len)
    }

    /// Where that shard lies in `rank`'s shard of the unit, counted from its start.
    pub fn slot_in_shard(&self, slot: usize, rank: usize) -> Range<usize> {
        let shard = self.shard_range(slot, rank);
        if shard.is_empty() {
            return 0..0;
        }
        let start = self.slots[slot].offset + shard.start - rank * self.shard_len;
        start..start + shard.len()
    }
}

/// Lays out the units of a model over `ranks`, in the order in which they first appear.
///
/// Where a unit is sharded, parameters and shards begin at multiples of `block` elements, so that no block of a parameter,
/// counted from its start, lies on two ranks. 1 asks for nothing; any other is a multiple of [`BLOCK_MULTIPLE`].
pub fn units(parameters: &[Parameter], ranks: usize, block: usize) -> Vec<UnitLayout> {
    let key = |p: &Parameter| {
        // Bytes of quantized parameters lie apart from a type that parameters may have.
        let name = p.stored_dtype().name().to_string();
        (p.trainable, p.replicated, p.quantized.is_some(), name)
    };
    let mut order: Vec<&Parameter> = Vec::new();
    let mut members: BTreeMap<_, Vec<&Parameter>> = BTreeMap::new();
    for p in parameters {
        let group = members.entry((&p.unit, key(p))).or_default();
        if group.is_empty() {
            order.push(p);
        }
        group.push(p);
    }
    let lay_out = |first: &&Parameter| {
        let group = &members[&(&first.unit, key(first))];
        let Parameter {
            unit: path,
            trainable,
            replicated,
            ..
        } = *first;
        let (dtype, ranks) = (first.stored_dtype(), if *replicated { 1 } else { ranks });
        let parts = order.iter().filter(|other| other.unit == *path).count();
        let mut name = if path.is_empty() { "root" } else { path }.to_string();
        if parts > 1 {
            let replicated = if *replicated { "replicated, " } else { "" };
            let kind = if *trainable { "trainable" } else { "frozen" };
            let dtype = match first.quantized {
                Some(_) => "quantized",
                None => dtype.name(),
            };
            name.push_str(&format!(" ({replicated}{kind} {dtype})"));
        }
        let block = if ranks == 1 { 1 } else { block };
        let multiple = |bytes: usize| (bytes / dtype.size()).max(block);
        let aligned = |offset: usize| offset.next_multiple_of(multiple(PARAMETER_ALIGN));
        let mut end = 0;
        let slots = group
            .iter()
            .map(|p| {
                let offset = aligned(end);
                let len = match &p.quantized {
                    Some(scheme) => quantization::bytes(scheme, &p.shape),
                    None => p.shape.iter().product(),
                };
                end = offset + len;
                Slot {
                    path: p.path.clone(),
                    shape: p.shape.clone(),
                    dtype: p.dtype,
                    quantized: p.quantized,
                    offset,
                    len,
                }
            })
            .collect();
        let shard_len = end.div_ceil(ranks);
        UnitLayout {
            name: name.into(),
            path: path.clone(),
            dtype,
            trainable: *trainable,
            slots,
            ranks,
            // A single rank shards nothing and pads nothing.
            shard_len: if ranks == 1 {
                end
            } else {
                shard_len.next_multiple_of(multiple(SHARD_ALIGN))
            },
        }
    };
    order.iter().map(lay_out).collect()
}

/// The shape in which a shard of `len` elements of a rank-`rank` parameter is stored.
pub(crate) fn shard_shape(len: usize, rank: usize) -> Vec<usize> {
    let mut shape = vec![1; rank];
    if let Some(first) = shape.first_mut() {
        *first = len;
    }
    shape
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parameter(path: usize, unit: usize, shape: &[usize], trainable: bool) -> Parameter {
        Parameter {
            path: format!("p{path}"),
            unit: if unit == 0 {
                String::new()
            } else {
                format!("u{unit}")
            },
            shape: shape.to_vec(),
            dtype: DType::F32,
            quantized: None,
            trainable,
            replicated: false,
        }
    }

    fn model() -> impl Strategy<Value = Vec<Parameter>> {
        let shape = prop::collection::vec(1usize..20, 0..4);
        prop::collection::vec((0usize..4, shape, any::<bool>()), 1..30).prop_map(|ps| {
            let number = |(i, (unit, shape, trainable)): (usize, (usize, Vec<usize>, bool))| {
                parameter(i, unit, &shape, trainable)
            };
            ps.into_iter().enumerate().map(number).collect()
        })
    }

    proptest! {
        #[test]
        fn every_element_has_one_owner(parameters in model(), ranks in 1usize..9, blocks in 0usize..5) {
            let block = (64 * blocks).max(1);
            let units = units(&parameters, ranks, block);
            let total: usize = units.iter().map(|u| u.slots.len()).sum();
            prop_assert_eq!(total, parameters.len());
            for unit in &units {
                for slot in 0..unit.slots.len() {
                    let mut next = 0;
                    for rank in 0..ranks {
                        let shard = unit.shard_range(slot, rank);
                        let range = unit.slot_in_shard(slot, rank);
                        prop_assert_eq!(shard.len(), range.len());
                        prop_assert!(range.end <= unit.shard_len);
                        if !shard.is_empty() {
                            prop_assert_eq!(shard.start % if unit.ranks == 1 { 1 } else { block }, 0);
                            prop_assert_eq!(shard.start, next);
                            next = shard.end;
                        }
                    }
                    prop_assert_eq!(next, unit.slots[slot].len);
                }
            }
        }

        #[test]
        fn slots_are_aligned_and_apart(parameters in model(), ranks in 1usize..9) {
            for unit in units(&parameters, ranks, 1) {
                for pair in unit.slots.windows(2) {
                    prop_assert!(pair[0].offset + pair[0].len <= pair[1].offset);
                }
                for slot in &unit.slots {
                    prop_assert_eq!(slot.offset * 4 % PARAMETER_ALIGN, 0);
                    prop_assert!(slot.offset + slot.len <= unit.len());
                }
                if ranks > 1 {
                    prop_assert_eq!(unit.shard_len * 4 % SHARD_ALIGN, 0);
                }
            }
        }
    }

    #[test]
    fn frozen_parameters_are_laid_out_apart() {
        let units = units(
            &[parameter(0, 1, &[3], true), parameter(1, 1, &[5], false)],
            2,
            1,
        );
        let names: Vec<_> = units.iter().map(|u| &*u.name).collect();
        assert_eq!(names, ["u1 (trainable f32)", "u1 (frozen f32)"]);
    }

    #[test]
    fn more_ranks_than_elements_leave_empty_shards() {
        let unit = &units(&[parameter(0, 1, &[1], true)], 4, 1)[0];
        let shards: Vec<_> = (0..4).map(|r| unit.shard_range(0, r).len()).collect();
        assert_eq!(shards, [1, 0, 0, 0]);
    }
}
