//! Weights with their adapters merged into them, one gathered unit at a time.

use super::super::writer::Writer;
use crate::error::Result;
use crate::layout::{Slot, UnitLayout};
use crate::lora::{factor, factor_path};
use crate::shard::{Shard, SharedFlat, StoredShards};
use burn::tensor::quantization::QuantScheme;
use burn::tensor::{DType, Device, Tensor, TensorData};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// The factors of a model's adapters, by their paths.
#[derive(Debug, Default)]
pub(in super::super) struct Merge {
    factors: BTreeMap<String, Factor>,
}

#[derive(Debug)]
struct Factor {
    shape: Vec<usize>,
    scale: f64,
    /// Its elements, once they are gathered.
    bytes: Vec<u8>,
}

impl Merge {
    /// Of the adapters of a model: without their elements.
    pub(in super::super) fn of(stored: &StoredShards) -> Self {
        let mut merge = Self::default();
        for unit in &stored.units {
            let Some(lora) = &unit.sharding.strategy.lora else {
                continue;
            };
            let layout = unit.layout();
            let slots = layout
                .slots
                .into_iter()
                .filter(|slot| factor(&slot.path).is_some());
            merge.factors.extend(slots.map(|slot| {
                let (scale, bytes) = (lora.scale(), Vec::new());
                let shape = slot.shape;
                (
                    slot.path,
                    Factor {
                        shape,
                        scale,
                        bytes,
                    },
                )
            }));
        }
        merge
    }

    /// Whether that is a factor, which the merged model has not.
    pub(in super::super) fn is_factor(&self, path: &str) -> bool {
        self.factors.contains_key(path)
    }

    /// Gathers the factors, for the rank that `keeps` them. Collective.
    pub(in super::super) fn gather(&mut self, stored: &StoredShards, keeps: bool) -> Result<()> {
        for unit in &stored.units {
            let layout = unit.layout();
            if !layout.slots.iter().any(|slot| self.is_factor(&slot.path)) {
                continue;
            }
            let flat = unit.gather()?;
            if !keeps {
                continue;
            }
            let all = flat.read()?;
            for slot in &layout.slots {
                if let Some(factor) = self.factors.get_mut(&slot.path) {
                    factor.bytes = elements(&all, slot, layout.dtype).to_vec();
                }
            }
        }
        Ok(())
    }

    /// Writes the parameters of a gathered unit, with their adapters merged.
    pub(in super::super) fn put(
        &self,
        writer: &mut Writer,
        layout: &UnitLayout,
        flat: &SharedFlat,
    ) -> Result<()> {
        let all = flat.read()?;
        let slots = layout
            .slots
            .iter()
            .filter(|slot| !self.is_factor(&slot.path));
        for slot in slots {
            let weight = match &slot.quantized {
                None => elements(&all, slot, layout.dtype).into(),
                Some(scheme) => dequantized(flat, slot, scheme)?,
            };
            let factors = ["a", "b"].map(|name| self.factors.get(&factor_path(&slot.path, name)));
            match factors {
                [Some(a), Some(b)] => {
                    let merged = merged(&weight, &slot.shape, [a, b], slot.dtype);
                    writer.put(merged.as_bytes(), merged.dtype())?;
                }
                _ => writer.put(&weight, slot.dtype)?,
            }
        }
        Ok(())
    }
}

/// The elements of a quantized parameter in a gathered unit, as bytes of its own type.
fn dequantized<'a>(flat: &SharedFlat, slot: &Slot, scheme: &QuantScheme) -> Result<Cow<'a, [u8]>> {
    let full = flat.dequantize(slot.offset, scheme, &slot.shape, slot.dtype)?;
    Ok(Shard::of_primitive(full).read()?.into_owned().into())
}

/// The bytes of a parameter in a gathered unit.
fn elements<'a>(all: &'a [u8], slot: &Slot, dtype: DType) -> &'a [u8] {
    let size = dtype.size();
    &all[slot.offset * size..(slot.offset + slot.len) * size]
}

/// `weight + scale * a * b`, as Burn computes it.
fn merged(weight: &[u8], shape: &[usize], [a, b]: [&Factor; 2], dtype: DType) -> TensorData {
    let device = Device::flex();
    let tensor = |bytes: &[u8], shape: &[usize]| {
        let data = TensorData::from_bytes_vec(bytes.to_vec(), shape.to_vec(), dtype);
        Tensor::<2>::from_data(data, (&device, dtype))
    };
    let product = tensor(&a.bytes, &a.shape).matmul(tensor(&b.bytes, &b.shape));
    (tensor(weight, shape) + product.mul_scalar(a.scale)).into_data()
}
