//! Quantized parameters: which schemes there are, and how many bytes a parameter takes.
//!
//! A quantized parameter is stored and gathered as bytes: the codes of its elements in their order, packed from the low
//! bits of each byte on, behind them the scales as Burn writes them, and zeros up to a multiple of [`MULTIPLE`].
//!
//! Burn's float tensors hold no bytes, so that a rank's shard of these is stored in a tensor of f32: as its bits, with
//! which nothing computes. bitsandbytes stores 4-bit weights in a type of floats for the same reason (`quant_storage`).

use crate::error::{Error, Result};
use burn::tensor::Shape;
use burn::tensor::quantization::{
    BlockLayout, QuantScheme, QuantValue, global_scale_size, params_shape, quantizable, scale_size,
};

/// Bytes of an element of the type that shards are stored in.
pub(crate) const MULTIPLE: usize = 4;

/// Returns if a parameter of this shape can be quantized so.
///
/// # Errors
/// [`Error::Config`] for a scheme whose codes are no whole numbers, or whose scales Burn cannot compute; [`Error::Model`],
/// naming the path, for a parameter that is not a whole number of blocks.
pub(crate) fn check(scheme: &QuantScheme, path: &str, shape: &[usize]) -> Result<()> {
    let is_whole = matches!(
        scheme.value,
        QuantValue::Q8F
            | QuantValue::Q8S
            | QuantValue::Q4F
            | QuantValue::Q4S
            | QuantValue::Q2F
            | QuantValue::Q2S
    );
    if !is_whole {
        return Err(Error::config(
            "values of the quantization scheme",
            "whole numbers: Q8S, Q4S or Q2S (or Q8F, Q4F, Q2F)",
            format!("{:?}", scheme.value),
        ));
    }
    if !quantizable(scheme) {
        return Err(Error::config(
            "scales of the quantization scheme",
            "f32 per tensor, above scales per block of a narrower type",
            format!("{scheme:?}"),
        ));
    }
    let Some(block) = scheme.block_size() else {
        return Ok(());
    };
    let of_rank = block.as_slice().len() <= shape.len() && !block.contains(&0);
    if of_rank && BlockLayout::new(&Shape::from(shape.to_vec()), &block).divides() {
        return Ok(());
    }
    Err(Error::model(
        path,
        format!(
            "has the shape {shape:?}, which is no whole number of blocks of {:?}",
            block.as_slice()
        ),
        "choose a block that divides it, or train the parameter whole with LoraConfig::modules_to_save",
    ))
}

/// Bytes of the codes of so many elements.
pub(crate) fn code_bytes(scheme: &QuantScheme, elements: usize) -> usize {
    (elements * scheme.size_bits_value()).div_ceil(8)
}

/// Bytes of the scales of a parameter of this shape.
pub(crate) fn scale_bytes(scheme: &QuantScheme, shape: &[usize]) -> usize {
    let scales = params_shape(&Shape::from(shape.to_vec()), scheme).num_elements();
    scales * scale_size(scheme.scale_dtype()) + global_scale_size(scheme)
}

/// Bytes of a parameter of this shape: a multiple of [`MULTIPLE`].
pub(crate) fn bytes(scheme: &QuantScheme, shape: &[usize]) -> usize {
    let bytes = code_bytes(scheme, shape.iter().product()) + scale_bytes(scheme, shape);
    bytes.next_multiple_of(MULTIPLE)
}

/// A scheme as messages and tables name it.
pub(crate) fn name(scheme: &QuantScheme) -> String {
    let (value, scale) = (scheme.value, scheme.scale_dtype());
    match (scheme.block_size(), global_scale_size(scheme)) {
        (None, _) => format!("{value:?}, one {scale:?} scale"),
        (Some(block), 0) => format!("{value:?} in blocks of {:?}, {scale:?} scales", &*block),
        (Some(block), _) => {
            format!(
                "{value:?} in blocks of {:?}, {scale:?} scales below one of f32",
                &*block
            )
        }
    }
}
