//! Element types as safetensors files name them.

use burn::tensor::{BoolStore, DType};
use safetensors::Dtype;

/// What a model, its optimizer's states or a checkpoint of another program may hold.
pub(crate) const KNOWN: [(Dtype, DType); 8] = [
    (Dtype::F64, DType::F64),
    (Dtype::F32, DType::F32),
    (Dtype::F16, DType::F16),
    (Dtype::BF16, DType::BF16),
    (Dtype::I64, DType::I64),
    (Dtype::I32, DType::I32),
    (Dtype::U8, DType::U8),
    (Dtype::BOOL, DType::Bool(BoolStore::Native)),
];

/// Burn's type of this name; `None` for one that is never read.
pub(crate) fn burn_type(dtype: Dtype) -> Option<DType> {
    let found = KNOWN.iter().find(|(file, _)| *file == dtype);
    found.map(|(_, burn)| *burn)
}

/// The files' name of a type; `None` for one that is never written.
pub(crate) fn file_type(dtype: DType) -> Option<Dtype> {
    let found = KNOWN.iter().find(|(_, burn)| *burn == dtype);
    found.map(|(file, _)| *file)
}
