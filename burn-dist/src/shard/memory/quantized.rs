//! Shards as int8 codes with a scale for each block, to be gathered in a quarter of f32's bytes.

use super::dtype::element;
use super::flat::Flat;
use super::host::HostFlat;
use crate::comm::{Communicator, Label, SpanMut};
use crate::error::{Error, Result};
use burn::tensor::DType;

/// The largest code; -128 is not used, so that codes are symmetric.
const LARGEST: f32 = 127.0;

/// How shards of one length are quantized.
///
/// Each rank sends a message: its shard's codes, then the scales of its blocks as little-endian f32. Blocks count from
/// the shard's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Quantized {
    /// Elements of a shard.
    pub(crate) shard_len: usize,
    /// Elements that share a scale.
    pub(crate) block: usize,
}

impl Quantized {
    /// Bytes of the message of one rank.
    pub(crate) fn message_len(self) -> usize {
        self.shard_len + self.shard_len.div_ceil(self.block) * size_of::<f32>()
    }

    /// This rank's message: its shard, which is a buffer of f32 in the memory of the process.
    ///
    /// A block with an element that is not finite becomes NaN as a whole.
    pub(crate) fn encode(self, shard: &Flat) -> Result<Vec<u8>> {
        let elements: &[f32] = bytemuck::cast_slice(host(shard)?.bytes());
        let mut message = vec![0; self.message_len()];
        let (codes, scales) = message.split_at_mut(self.shard_len);
        let blocks = elements
            .chunks(self.block)
            .zip(codes.chunks_mut(self.block));
        for ((elements, codes), scale) in blocks.zip(scales.chunks_exact_mut(size_of::<f32>())) {
            // `f32::max` would pass over a NaN.
            let sum = elements.iter().fold(0.0, |sum, x| sum + x * 0.0);
            let largest = elements
                .iter()
                .fold(0.0f32, |largest, x| largest.max(x.abs()));
            let of_block = largest / LARGEST + sum;
            scale.copy_from_slice(&of_block.to_le_bytes());
            if of_block > 0.0 {
                let both = codes.iter_mut().zip(elements);
                both.for_each(|(code, x)| *code = (x / of_block).round_ties_even() as i8 as u8);
            }
        }
        Ok(message)
    }

    /// The messages of all ranks of a group, in rank order; this rank has `own`, which may be several.
    pub(crate) fn gather(comm: &Communicator, label: &Label, own: &[u8]) -> Result<Vec<u8>> {
        let mut all = vec![0; own.len() * comm.size()];
        let start = own.len() * comm.rank();
        all[start..start + own.len()].copy_from_slice(own);
        comm.all_gather_in_place(label, SpanMut::of(&mut all))?;
        Ok(all)
    }

    /// The shards of several messages, back to back, in a buffer of type `dtype`.
    pub(crate) fn decode(self, messages: &[u8], dtype: DType) -> Result<Flat> {
        element(dtype)?;
        let each = self.message_len();
        let shards = messages.len().checked_div(each).unwrap_or(0);
        let mut flat = HostFlat::zeros(shards * self.shard_len, DType::F32);
        let elements: &mut [f32] = bytemuck::cast_slice_mut(flat.bytes_mut());
        for (at, message) in messages.chunks_exact(each.max(1)).enumerate() {
            let elements = &mut elements[at * self.shard_len..][..self.shard_len];
            let (codes, scales) = message.split_at(self.shard_len);
            let blocks = elements
                .chunks_mut(self.block)
                .zip(codes.chunks(self.block));
            for ((elements, codes), scale) in blocks.zip(scales.chunks_exact(size_of::<f32>())) {
                let scale = f32::from_le_bytes([scale[0], scale[1], scale[2], scale[3]]);
                let both = elements.iter_mut().zip(codes);
                both.for_each(|(x, code)| *x = f32::from(*code as i8) * scale);
            }
        }
        Ok(Flat::Host(flat.cast(dtype)))
    }
}

/// The error for an option that a GPU cannot have.
pub(crate) fn only_on_host(option: &str) -> Error {
    Error::config(
        format!("option {option}"),
        "a world that computes on the CPU (leave the option out on GPUs)",
        "a GPU",
    )
}

fn host(flat: &Flat) -> Result<&HostFlat> {
    match flat {
        Flat::Host(flat) => Ok(flat),
        #[cfg(feature = "cube")]
        Flat::Device(_) => Err(only_on_host("quantized_gathers")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::shard::memory::{Residence, Shard};
    use proptest::prelude::*;

    fn flat(elements: &[f32]) -> Flat {
        let mut flat = Flat::zeros(elements.len(), DType::F32, &Residence::Host);
        let shard = Shard::of_bytes(bytemuck::cast_slice(elements).to_vec());
        flat.put_shard(0, &shard, DType::F32);
        flat
    }

    fn decoded(elements: &[f32], block: usize) -> Vec<f64> {
        let quantized = Quantized {
            shard_len: elements.len(),
            block,
        };
        let message = quantized.encode(&flat(elements)).unwrap();
        assert_eq!(message.len(), quantized.message_len());
        let flat = quantized.decode(&message, DType::F32).unwrap();
        flat.numbers().unwrap()
    }

    proptest! {
        /// Half a code, which is 1 / 254 of the block's largest element, and f32's rounding.
        #[test]
        fn an_element_is_off_by_half_a_code_at_most(
            elements in prop::collection::vec(-1e3f32..1e3, 0..300),
            block in 1usize..70,
        ) {
            let found = decoded(&elements, block);
            prop_assert_eq!(found.len(), elements.len());
            for (elements, found) in elements.chunks(block).zip(found.chunks(block)) {
                let largest = elements.iter().fold(0.0f32, |m, x| m.max(x.abs()));
                for (x, found) in elements.iter().zip(found) {
                    let off = (f64::from(*x) - found).abs();
                    // A quotient of up to 127 is rounded as f32, by some hundred-thousandths of a code.
                    prop_assert!(off <= f64::from(largest) / 254.0 * 1.0001, "{x}: {found}");
                }
            }
        }
    }

    #[test]
    fn zeros_stay_zeros_and_what_is_not_finite_shows() {
        assert_eq!(decoded(&[0.0; 5], 2), [0.0; 5]);
        for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let found = decoded(&[1.0, broken, 2.0, 2.0], 2);
            assert!(found[0].is_nan() && found[1].is_nan(), "{found:?}");
            assert_eq!(found[2..], [2.0, 2.0]);
        }
    }

    #[test]
    fn messages_follow_each_other() {
        let quantized = Quantized {
            shard_len: 3,
            block: 2,
        };
        let encode = |elements: &[f32]| quantized.encode(&flat(elements)).unwrap();
        let both = [encode(&[127.0, 1.0, -5.0]), encode(&[2.0, -2.0, 0.0])].concat();
        assert_eq!(both.len(), 2 * (3 + 2 * 4));
        let found = quantized.decode(&both, DType::F64).unwrap();
        assert_eq!(found.dtype(), DType::F64);
        let found = found.numbers().unwrap();
        let expected = [127.0, 1.0, -5.0, 2.0, -2.0, 0.0];
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
    }
}
