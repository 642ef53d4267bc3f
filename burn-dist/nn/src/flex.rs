//! Tensors of Burn's Flex backend as slices, and which tensors those are.

use burn::backend::Flex;
use burn::tensor::{Bytes, DType, Device, Shape, Tensor};
use burn_flex::{FlexTensor, Layout};

/// Whether the operations of this crate compute `x`: f32 in the memory of the process. All else is left to
/// Burn's own operations.
pub(crate) fn is_fused<const D: usize>(x: &Tensor<D>) -> bool {
    x.dtype() == DType::F32 && x.device().inner() == Device::flex()
}

/// Whether `x` is such a tensor, and without a tape.
pub(crate) fn is_plain<const D: usize>(x: &Tensor<D>) -> bool {
    is_fused(x) && !x.device().is_autodiff()
}

/// Panics unless these have the sizes of a parameter, as an operation on tensors would.
pub(crate) fn same_shape<const D: usize>(
    parameter: &Tensor<D>,
    others: [(&str, Option<&Tensor<D>>); 3],
) {
    for (what, other) in others {
        let found = other.map_or(parameter.dims(), |other| other.dims());
        assert_eq!(
            found,
            parameter.dims(),
            "sizes of the {what} and of its parameter"
        );
    }
}

/// The storage of a tensor that [`is_plain`].
pub(crate) fn into_flex<const D: usize>(tensor: Tensor<D>) -> FlexTensor {
    let found = tensor.try_into_primitive::<Flex>();
    found.unwrap_or_else(|error| unreachable!("a tensor of Flex without a tape: {error:?}"))
}

/// The tensor over a storage.
pub(crate) fn from_flex<const D: usize>(storage: FlexTensor) -> Tensor<D> {
    Tensor::from_primitive::<Flex>(storage)
}

/// The tensor, its elements back to back; copied only if they do not lie so.
pub(crate) fn contiguous(tensor: FlexTensor) -> FlexTensor {
    if tensor.layout().contiguous_offsets().is_some() {
        tensor
    } else {
        tensor.to_contiguous()
    }
}

/// The elements of a tensor that is [`contiguous`].
pub(crate) fn slice(tensor: &FlexTensor) -> &[f32] {
    let slice = tensor.as_slice::<f32>();
    // The gate lets no other type in, and every tensor went through `contiguous`.
    slice.unwrap_or_else(|| unreachable!("f32 back to back: {tensor:?}"))
}

/// The sizes of a tensor.
pub(crate) fn dims<const D: usize>(tensor: &FlexTensor) -> [usize; D] {
    let shape = tensor.layout().shape();
    assert_eq!(shape.num_dims(), D, "dimensions of {shape:?}");
    std::array::from_fn(|i| shape[i])
}

/// A tensor of these elements.
pub(crate) fn tensor(elements: Vec<f32>, shape: impl Into<Shape>) -> FlexTensor {
    let layout = Layout::contiguous(shape.into());
    FlexTensor::new(Bytes::from_elems(elements), layout, DType::F32)
}

/// The elements of a tensor for writing: its own storage if nobody else holds it and there is nothing else in
/// it, otherwise a copy.
pub(crate) fn owned(tensor: FlexTensor) -> FlexTensor {
    let tensor = contiguous(tensor);
    let bytes = std::mem::size_of_val(slice(&tensor));
    if tensor.is_unique() && tensor.bytes().len() == bytes {
        return tensor;
    }
    let shape = tensor.layout().shape().clone();
    self::tensor(slice(&tensor).to_vec(), shape)
}

/// Whole numbers of any width, such as labels.
pub(crate) fn integers(tensor: FlexTensor) -> Vec<i64> {
    let tensor = contiguous(tensor);
    macro_rules! read {
        ($($integer:ty),*) => {
            $(if let Some(found) = tensor.as_slice::<$integer>() {
                return found.iter().map(|&x| x as i64).collect();
            })*
        };
    }
    read!(i64, i32, i16, i8, u64, u32, u16, u8);
    unreachable!("whole numbers: {tensor:?}")
}

/// Truths, as bytes that are 0 or not.
pub(crate) fn truths(tensor: FlexTensor) -> Vec<bool> {
    let tensor = contiguous(tensor);
    let (start, end) = tensor
        .layout()
        .contiguous_offsets()
        .unwrap_or_else(|| unreachable!("made contiguous: {tensor:?}"));
    tensor.bytes()[start..end].iter().map(|&x| x != 0).collect()
}
