//! Values for parameters that are not to be drawn, from whoever has them.

use burn::tensor::DType;
use std::ops::Range;

/// Parameters whose elements are read instead of drawn, range by range.
///
/// All ranks' must have the same parameters, so that what is drawn comes out the same everywhere.
pub(crate) trait ValueSource {
    /// Whether the parameter or running state at `path` is here.
    fn has(&self, path: &str) -> bool;

    /// Whether what is read of a quantized parameter are its bytes, and not its elements.
    fn is_quantized(&self, _path: &str) -> bool {
        false
    }

    /// Fills `into` with the elements `range` of what is at `path`, as `dtype`.
    fn read(&self, path: &str, range: Range<usize>, dtype: DType, into: &mut [u8]);
}
