//! Casts between half precision and f32, for operations that need more than half precision.

use burn::tensor::{DType, FloatDType, Tensor};

/// f16 and bf16 in f32, anything else as it is: a sum of squares needs the bits.
pub(super) fn widened<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    match x.dtype() {
        DType::F16 | DType::BF16 => x.cast(FloatDType::F32),
        _ => x,
    }
}

/// `x` cast back to `dtype`; without an operation on the tape if it has that type.
pub(super) fn narrowed<const D: usize>(x: Tensor<D>, dtype: DType) -> Tensor<D> {
    if x.dtype() == dtype {
        x
    } else {
        x.cast(FloatDType::from(dtype))
    }
}
