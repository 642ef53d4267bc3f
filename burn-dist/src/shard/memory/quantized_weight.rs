//! Weights as the bytes of quantized ones, and back.

use super::flat::{Shard, SharedFlat};
use super::host::HostFlat;
use super::primitive::{Primitive, Residence};
#[cfg(feature = "cube")]
use super::quantized::only_on_host;
use crate::error::{Error, Result};
use crate::layout::shard_shape;
use crate::quantization::{MULTIPLE, bytes, code_bytes, scale_bytes};
use burn::tensor::quantization::{
    BlockLayout, Calibration, QuantScheme, QuantStore, QuantizedBytes, compute_q_params,
    compute_range,
};
use burn::tensor::{Bytes, DType, Shape, Tensor};

/// The bytes of a tensor, which is quantized first if it is not; with the same codes and scales as Burn's `Quantizer`
/// gives, calibrated by the largest elements.
///
/// # Errors
/// [`Error::Model`] for a tensor that is quantized by another scheme.
pub(crate) fn encode<const D: usize>(
    path: &str,
    full: Tensor<D>,
    scheme: &QuantScheme,
) -> Result<Vec<u8>> {
    let full = full.without_autodiff();
    let shape = full.dims();
    let quantized = if let DType::QFloat(_) = full.dtype() {
        full
    } else {
        let range = compute_range(scheme, &full, &Calibration::MinMax);
        full.quantize(scheme, compute_q_params(scheme, range))
    };
    let data = quantized.into_data();
    let found = match data.dtype() {
        DType::QFloat(found) => found.with_store(scheme.store),
        _ => *scheme,
    };
    if found != *scheme {
        let expected = format!("is quantized as {found:?}, and not as {scheme:?}");
        return Err(Error::model(
            path,
            expected,
            "quantize it once, with one scheme",
        ));
    }
    // The CPU backend gives a byte for each element, whatever the scheme.
    let elements: usize = shape.iter().product();
    let (codes, scales) = data.as_bytes().split_at(elements);
    let mut packed = vec![0u8; code_bytes(scheme, elements)];
    let bits = scheme.size_bits_value();
    for (at, code) in codes.iter().enumerate() {
        packed[at * bits / 8] |= (code & mask(bits)) << (at * bits % 8);
    }
    packed.extend_from_slice(scales);
    packed.resize(bytes(scheme, &shape), 0);
    Ok(packed)
}

/// The tensor of type `dtype` that such bytes stand for, with the elements that Burn's `dequantize` gives.
pub(super) fn decode(
    from: &[u8],
    scheme: &QuantScheme,
    shape: &[usize],
    dtype: DType,
) -> Primitive {
    let elements = shape.iter().product();
    let (codes, scales) = from.split_at(code_bytes(scheme, elements));
    let scales = &scales[..scale_bytes(scheme, shape)];
    let of_shape = Shape::from(shape.to_vec());
    // Without codes only the scales are decoded.
    let (_, scales) = QuantizedBytes {
        bytes: Bytes::from_bytes_vec(scales.to_vec()),
        scheme: scheme.with_store(QuantStore::Native),
        shape: of_shape.clone(),
    }
    .into_vec_i8();
    let bits = scheme.size_bits_value();
    let code = |at: usize| {
        let code = codes[at * bits / 8] >> (at * bits % 8);
        // The sign is the highest bit of the code.
        f32::from(((code << (8 - bits)) as i8) >> (8 - bits))
    };
    let mut flat = HostFlat::zeros(elements, DType::F32);
    let numbers: &mut [f32] = bytemuck::cast_slice_mut(flat.bytes_mut());
    let fill = |start: usize, numbers: &mut [f32], scale: f32| {
        let numbers = numbers.iter_mut().enumerate();
        numbers.for_each(|(at, x)| *x = scale * code(start + at));
    };
    match scheme.block_size() {
        None => fill(0, numbers, scales.block[0]),
        Some(block) => {
            let blocks = BlockLayout::new(&of_shape, &block);
            let global = scales.global.unwrap_or(1.0);
            let row = shape.last().copied().unwrap_or(1).max(1);
            let width = block.last().copied().map_or(1, usize::from).max(1);
            for (number, row_of) in numbers.chunks_mut(row).enumerate() {
                let start = number * row;
                let first = blocks.block_of(start);
                for (at, numbers) in row_of.chunks_mut(width).enumerate() {
                    fill(
                        start + at * width,
                        numbers,
                        global * scales.block[first + at],
                    );
                }
            }
        }
    }
    Primitive::Host(flat.cast(dtype).share().view(0, shape))
}

/// What a parameter stores of so many bytes, which `fill` writes: a tensor of `rank` dimensions whose bits they are.
pub(crate) fn stored(len: usize, rank: usize, fill: impl FnOnce(&mut [u8])) -> Primitive {
    let shape = shard_shape(len / MULTIPLE, rank);
    Primitive::filled(DType::F32, &shape, &Residence::Host, fill)
}

fn mask(bits: usize) -> u8 {
    u8::MAX >> (8 - bits)
}

impl Shard {
    /// The parameter of type `dtype` whose bytes these are.
    pub(crate) fn dequantize(
        &self,
        scheme: &QuantScheme,
        shape: &[usize],
        dtype: DType,
    ) -> Result<Primitive> {
        Ok(decode(&self.read()?, scheme, shape, dtype))
    }
}

impl SharedFlat {
    /// The parameter of type `dtype` whose bytes begin at `start`.
    ///
    /// # Errors
    /// [`Error::Config`] on a GPU.
    pub(crate) fn dequantize(
        &self,
        start: usize,
        scheme: &QuantScheme,
        shape: &[usize],
        dtype: DType,
    ) -> Result<Primitive> {
        match self {
            Self::Host(flat) => {
                let from = &flat.all()[start..start + bytes(scheme, shape)];
                Ok(decode(from, scheme, shape, dtype))
            }
            #[cfg(feature = "cube")]
            Self::Device(_) => Err(only_on_host("LoraConfig::quantize_base")),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use burn::tensor::quantization::{QuantValue, ScaleDtype};
    use proptest::prelude::*;

    fn schemes() -> impl Strategy<Value = QuantScheme> {
        use QuantValue::{Q2F, Q2S, Q4F, Q4S, Q8F, Q8S};
        let value = prop::sample::select(vec![Q8F, Q8S, Q4F, Q4S, Q2F, Q2S]);
        let scale = prop::sample::select(vec![
            ScaleDtype::F32,
            ScaleDtype::F16,
            ScaleDtype::BF16,
            ScaleDtype::UE8M0,
        ]);
        let block = prop::sample::select(vec![None, Some([1, 3]), Some([2, 3]), Some([4, 1])]);
        (value, scale, block, any::<bool>()).prop_map(|(value, scale, block, two_levels)| {
            let scheme = QuantScheme::default().with_value(value);
            match block {
                None => scheme.per_tensor(scale),
                Some(block) if two_levels => scheme
                    .per_block(block, ScaleDtype::UE4M3)
                    .per_tensor(ScaleDtype::F32),
                Some(block) => scheme.per_block(block, scale),
            }
        })
    }

    proptest! {
        #[test]
        fn the_numbers_are_those_of_burn(
            scheme in schemes(),
            numbers in prop::collection::vec(-3f32..3.0, 24..=24),
            is_wide in any::<bool>(),
        ) {
            let shape = if is_wide { [4, 6] } else { [8, 3] };
            let full = Tensor::<2>::from_data(burn::tensor::TensorData::new(numbers, shape), &Device::flex());
            let range = compute_range(&scheme, &full, &Calibration::MinMax);
            let quantized = full.clone().quantize(&scheme, compute_q_params(&scheme, range));
            let encoded = encode("w", full, &scheme).unwrap();
            prop_assert_eq!(encoded.len(), bytes(&scheme, &shape));
            prop_assert_eq!(&encoded, &encode("w", quantized.clone(), &scheme).unwrap());
            let found = decode(&encoded, &scheme, &shape, DType::F32).into_tensor::<2>();
            let expected = quantized.dequantize().into_data();
            prop_assert_eq!(found.into_data().try_to_vec::<f32>(), expected.try_to_vec::<f32>());
        }
    }
}
