//! Between our models and Hugging Face checkpoints: names, layouts, loading.
//!
//! What the models are called there, each model knows itself (`vit::hf_name`, `bert::hf_name`); how names
//! are looked up and tensors put in place is the same for all.

mod load;
mod names;

pub use load::LoadError;
pub(crate) use load::load;
pub use names::HfName;
pub(crate) use names::Names;

use burn::tensor::{Shape, TensorData};

/// A matrix with its rows and columns exchanged, laid out anew; data of another rank is returned as it is.
///
/// # Example
///
/// ```
/// use burn::tensor::TensorData;
/// use models::hf::transposed;
///
/// let matrix = TensorData::from([[1.0f32, 2.0, 3.0], [4.0, 5.0, 6.0]]);
/// let expected = TensorData::from([[1.0f32, 4.0], [2.0, 5.0], [3.0, 6.0]]);
/// assert_eq!(transposed(matrix), expected);
/// ```
pub fn transposed(data: TensorData) -> TensorData {
    let [rows, columns] = data.shape().as_slice() else {
        return data;
    };
    let (rows, columns) = (*rows, *columns);
    let (mut bytes, _, dtype) = data.into_parts();
    let size = dtype.size();
    let source = bytes.to_vec();
    // Written over the original, whose allocation is aligned for the dtype; a vector of bytes need not be.
    for (index, target) in bytes.chunks_exact_mut(size).enumerate() {
        let (column, row) = (index / rows, index % rows);
        let start = (row * columns + column) * size;
        target.copy_from_slice(&source[start..start + size]);
    }
    TensorData::from_bytes(bytes, Shape::new([columns, rows]), dtype)
}
