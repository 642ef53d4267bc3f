//! Into Burn's fusion and out of it.

use burn::backend::Cube;
#[cfg(feature = "fusion")]
use burn::backend::TensorMetadata;
use burn::backend::tensor::FloatTensor;
#[cfg(feature = "fusion")]
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;

/// The tensor behind one that Burn may still fuse with others.
#[cfg(feature = "fusion")]
pub(super) fn unfused(tensor: FloatTensor<Cube>) -> CubeTensor {
    tensor
        .client
        .clone()
        .resolve_tensor_float::<CubeBackend>(tensor)
}

/// The tensor itself: this build fuses nothing.
#[cfg(not(feature = "fusion"))]
pub(super) fn unfused(tensor: FloatTensor<Cube>) -> CubeTensor {
    tensor
}

/// A tensor that Burn may fuse with others.
///
/// It enters the fusion server as an initial value, as data from the host does, so nothing of ours
/// is deferred: what communicates has communicated, and a failure is raised where it happens.
#[cfg(feature = "fusion")]
pub(super) fn fusible(tensor: CubeTensor) -> FloatTensor<Cube> {
    use burn::backend::fusion::stream::StreamId;
    use burn::backend::fusion::{NoOp, get_client};
    use burn::backend::ir::{BackendIr, InitOperationIr, OperationIr, OperationOutput};
    let client = get_client::<CubeBackend>(&tensor.device);
    let (shape, dtype) = (tensor.shape(), tensor.dtype);
    let handle = CubeBackend::float_tensor_handle(tensor);
    let init = InitOperationIr::create(shape, dtype, || client.register_tensor_handle(handle));
    let made = client.register(
        StreamId::current(),
        OperationIr::Init(init),
        NoOp::<CubeBackend>::new(),
    );
    made.output()
}

/// The tensor itself: this build fuses nothing.
#[cfg(not(feature = "fusion"))]
pub(super) fn fusible(tensor: CubeTensor) -> FloatTensor<Cube> {
    tensor
}
