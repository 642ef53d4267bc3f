//! Copies of a range of a tensor's elements, with transposition and conversion.

use crate::file_type::{burn_type, file_type};
use burn::tensor::DType;
use bytemuck::Pod;
use half::{bf16, f16};
use safetensors::Dtype;
use std::ops::Range;

/// The float type of this name in Burn; `None` for what is no float, or too narrow a one.
pub(super) fn burn_float(dtype: Dtype) -> Option<DType> {
    burn_type(dtype).filter(DType::is_float)
}

/// The files' name of a float type.
pub(super) fn file_float(dtype: DType) -> Option<Dtype> {
    file_type(dtype).filter(|_| dtype.is_float())
}

/// The elements of a tensor as they lie in memory, at any address.
#[derive(Debug, Clone, Copy)]
pub(super) struct Elements<'a> {
    pub(super) bytes: &'a [u8],
    /// A float type that has a [`file_float`].
    pub(super) dtype: DType,
    /// Rows and columns as they lie, where the reader wants the transpose.
    pub(super) transposed: Option<[usize; 2]>,
}

impl Elements<'_> {
    /// Copies the elements `range`, counted as the reader sees them, to `out` as `dtype`.
    ///
    /// Conversion rounds once, to the nearest value.
    pub(super) fn copy(self, range: Range<usize>, dtype: DType, out: &mut [u8]) {
        if self.dtype == dtype {
            let size = dtype.size();
            return match (self.transposed, size) {
                (None, _) => {
                    out.copy_from_slice(&self.bytes[range.start * size..range.end * size]);
                }
                (_, 8) => self.each(range, out, |x: u64| x),
                (_, 4) => self.each(range, out, |x: u32| x),
                _ => self.each(range, out, |x: u16| x),
            };
        }
        // Every float is exact as an f64, so that there is one rounding only.
        match self.dtype {
            DType::F64 => self.convert(range, dtype, out, |x: f64| x),
            DType::F32 => self.convert(range, dtype, out, |x: f32| f64::from(x)),
            DType::F16 => self.convert(range, dtype, out, f16::to_f64),
            _ => self.convert(range, dtype, out, bf16::to_f64),
        }
    }

    fn convert<S: Pod>(
        self,
        range: Range<usize>,
        dtype: DType,
        out: &mut [u8],
        wide: impl Fn(S) -> f64,
    ) {
        match dtype {
            DType::F64 => self.each(range, out, wide),
            DType::F32 => self.each(range, out, |x| wide(x) as f32),
            DType::F16 => self.each(range, out, |x| f16::from_f64(wide(x))),
            _ => self.each(range, out, |x| bf16::from_f64(wide(x))),
        }
    }

    fn each<S: Pod, T: Pod>(self, range: Range<usize>, out: &mut [u8], f: impl Fn(S) -> T) {
        let (from, to) = (size_of::<S>(), size_of::<T>());
        let value = |at: usize| {
            f(bytemuck::pod_read_unaligned(
                &self.bytes[at * from..][..from],
            ))
        };
        let mut put = |at: usize, value: T| {
            out[at * to..][..to].copy_from_slice(bytemuck::bytes_of(&value));
        };
        let Some([rows, columns]) = self.transposed else {
            return range
                .clone()
                .for_each(|at| put(at - range.start, value(at)));
        };
        if range.is_empty() {
            return;
        }
        // The reader's row is a column here. A few columns at a time, so that a line of the cache
        // serves all of them; the first and the last may be wanted in part.
        let wanted = range.start / rows..range.end.div_ceil(rows);
        for block in wanted.clone().step_by(BLOCK) {
            let block = block..wanted.end.min(block + BLOCK);
            for row in 0..rows {
                for column in block.clone() {
                    let at = column * rows + row;
                    if range.contains(&at) {
                        put(at - range.start, value(row * columns + column));
                    }
                }
            }
        }
    }
}

/// 16 floats fill a line of the cache.
const BLOCK: usize = 16;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::layout::{Parameter, units};
    use proptest::prelude::*;

    const TYPES: [DType; 4] = [DType::F64, DType::F32, DType::F16, DType::BF16];

    fn stored(values: &[f64], dtype: DType) -> Vec<u8> {
        let bytes = values.iter().map(|x| match dtype {
            DType::F64 => x.to_le_bytes().to_vec(),
            DType::F32 => (*x as f32).to_le_bytes().to_vec(),
            DType::F16 => f16::from_f64(*x).to_le_bytes().to_vec(),
            _ => bf16::from_f64(*x).to_le_bytes().to_vec(),
        });
        bytes.flatten().collect()
    }

    proptest! {
        /// Whatever the ranks, types and layout: the shards in a row are the converted whole.
        #[test]
        fn pieces_in_a_row_are_the_whole(
            rows in 1usize..40,
            columns in 1usize..40,
            ranks in 1usize..6,
            before in 0usize..50,
            from in 0usize..4,
            to in 0usize..4,
            transposed in any::<bool>(),
            odd in 0usize..8,
        ) {
            let (from, to) = (TYPES[from], TYPES[to]);
            let at = |i: usize| ((i * 7919 % 4001) as f64 - 2000.0) / 37.0;
            let values: Vec<f64> = (0..rows * columns).map(at).collect();
            // Maps promise no alignment.
            let mut file = vec![0; odd];
            file.extend(stored(&values, from));
            let elements = Elements {
                bytes: &file[odd..],
                dtype: from,
                transposed: transposed.then_some([rows, columns]),
            };
            // What the reader should see, by the definition of a transpose.
            let seen: Vec<f64> = if transposed {
                (0..rows * columns)
                    .map(|i| values[i % rows * columns + i / rows])
                    .collect()
            } else {
                values
            };
            let rounded = stored(&seen, from);
            let narrow: Vec<f64> = (0..seen.len())
                .map(|i| {
                    let size = from.size();
                    let bytes = &rounded[i * size..][..size];
                    match from {
                        DType::F64 => f64::from_le_bytes(bytes.try_into().unwrap()),
                        DType::F32 => f32::from_le_bytes(bytes.try_into().unwrap()).into(),
                        DType::F16 => f16::from_le_bytes(bytes.try_into().unwrap()).to_f64(),
                        _ => bf16::from_le_bytes(bytes.try_into().unwrap()).to_f64(),
                    }
                })
                .collect();
            let expected = stored(&narrow, to);

            let parameter = |path: &str, len: usize| Parameter {
                path: path.into(),
                unit: String::new(),
                shape: vec![len],
                dtype: to,
                quantized: None,
                trainable: true,
                replicated: false,
            };
            let both = [parameter("before", before), parameter("this", rows * columns)];
            let layout = &units(&both, ranks, 1)[0];
            let mut found = Vec::new();
            for rank in 0..ranks {
                let range = layout.shard_range(1, rank);
                let mut piece = vec![0; range.len() * to.size()];
                elements.copy(range, to, &mut piece);
                found.extend(piece);
            }
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn the_same_type_is_copied_bit_for_bit() {
        // A signalling NaN does not survive arithmetic.
        let odd = f32::from_bits(0x7f80_0001);
        let bytes: Vec<u8> = [1.0, odd, 3.0, 4.0]
            .iter()
            .flat_map(|x: &f32| x.to_le_bytes())
            .collect();
        for transposed in [None, Some([2, 2])] {
            let elements = Elements {
                bytes: &bytes,
                dtype: DType::F32,
                transposed,
            };
            let mut out = vec![0; 16];
            elements.copy(0..4, DType::F32, &mut out);
            assert_eq!(out.chunks(4).filter(|x| *x == odd.to_le_bytes()).count(), 1);
        }
    }
}
