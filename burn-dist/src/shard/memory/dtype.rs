//! The types that the engine stores and communicates: floats, and bytes of quantized weights.

use crate::comm::Dtype;
use crate::error::{Error, Result};
use burn::tensor::DType;

/// The collectives' name of a type.
///
/// # Errors
/// [`Error::Config`] for a type that is not communicated.
pub(super) fn element(dtype: DType) -> Result<Dtype> {
    match dtype {
        DType::F64 => Ok(Dtype::F64),
        DType::F32 => Ok(Dtype::F32),
        DType::F16 => Ok(Dtype::F16),
        DType::BF16 => Ok(Dtype::Bf16),
        DType::U8 => Ok(Dtype::U8),
        other => Err(Error::config(
            "parameter type",
            "f64, f32, f16 or bf16",
            other.name(),
        )),
    }
}
