//! A tensor of whichever backend a rank computes on, without its autodiff graph.

#[cfg(feature = "cube")]
use super::device;
#[cfg(feature = "cube")]
use super::fused;
use super::host::HostFlat;
use crate::error::{Error, Result};
#[cfg(feature = "cube")]
use crate::unwind::raise;
#[cfg(feature = "cube")]
use burn::backend::Cube;
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Flex, TensorMetadata};
use burn::tensor::{DType, Device, Shape, Tensor, TensorData};
#[cfg(feature = "cube")]
use burn_cubecl::{CubeDevice, tensor::CubeTensor};
use burn_flex::FlexTensor;

/// A float tensor's storage.
///
/// A GPU's handle is half a kilobyte, not boxed: it is moved a few times a parameter, among kernels
/// that cost more each.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone)]
pub(crate) enum Primitive {
    /// In the memory of the process.
    Host(FlexTensor),
    /// In the memory of a GPU.
    #[cfg(feature = "cube")]
    Device(CubeTensor),
}

/// The memory that a rank's tensors lie in.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Residence {
    /// In the memory of the process.
    Host,
    /// In the memory of a GPU.
    #[cfg(feature = "cube")]
    Device(CubeDevice),
}

/// A backend whose tensors the engine can store and hand back.
pub(crate) trait StorageBackend: Backend {
    /// The storage of a tensor.
    fn into_storage(tensor: FloatTensor<Self>) -> Primitive;

    /// The tensor over a storage.
    fn from_storage(primitive: Primitive) -> FloatTensor<Self>;

    /// A tensor of one element, never read, on the device of `tensor`.
    fn unread_element(tensor: &FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_empty(Shape::from(vec![1]), &tensor.device(), DType::F32.into())
    }
}

impl StorageBackend for Flex {
    fn into_storage(tensor: FlexTensor) -> Primitive {
        Primitive::Host(tensor)
    }

    fn from_storage(primitive: Primitive) -> FlexTensor {
        match primitive {
            Primitive::Host(tensor) => tensor,
            #[cfg(feature = "cube")]
            Primitive::Device(_) => wrong_device(),
        }
    }
}

#[cfg(feature = "cube")]
impl StorageBackend for Cube {
    fn into_storage(tensor: FloatTensor<Self>) -> Primitive {
        Primitive::Device(fused::unfused(tensor))
    }

    fn from_storage(primitive: Primitive) -> FloatTensor<Self> {
        match primitive {
            Primitive::Device(tensor) => fused::fusible(tensor),
            Primitive::Host(_) => wrong_device(),
        }
    }
}

/// Raises the error for a tensor on another device than the model.
#[cfg(feature = "cube")]
pub(crate) fn wrong_device() -> ! {
    raise(Error::config(
        "device of a tensor",
        "world.device(), where the model is",
        "another one",
    ))
}

impl Residence {
    /// Whether that is a GPU.
    pub(crate) fn is_device(&self) -> bool {
        !matches!(self, Self::Host)
    }

    /// The residence of the tensors of `device`.
    pub(crate) fn of(device: &Device) -> Result<Self> {
        let probe = Tensor::<1>::empty([1], &device.clone().inner());
        Primitive::of(probe).map(|p| p.residence())
    }
}

impl Primitive {
    /// The storage of a tensor.
    pub(crate) fn of<const D: usize>(tensor: Tensor<D>) -> Result<Self> {
        let device = tensor.device();
        let tensor = tensor.without_autodiff();
        #[cfg(feature = "cube")]
        let tensor = match tensor.clone().try_into_primitive::<Cube>() {
            Ok(found) => return Ok(Cube::into_storage(found)),
            Err(_) => tensor,
        };
        let found = tensor.try_into_primitive::<Flex>();
        found.map(Flex::into_storage).map_err(|_| {
            let expected = "Device::flex(), or a GPU with burn-dist's feature cuda or wgpu";
            Error::config("device", expected, format!("{device:?}"))
        })
    }

    /// The tensor, which takes no gradients.
    pub(crate) fn into_tensor<const D: usize>(self) -> Tensor<D> {
        match self {
            Self::Host(tensor) => Tensor::from_primitive::<Flex>(tensor),
            #[cfg(feature = "cube")]
            Self::Device(tensor) => Tensor::from_primitive::<Cube>(fused::fusible(tensor)),
        }
    }

    /// A tensor whose elements `fill` writes, as bytes.
    pub(crate) fn filled(
        dtype: DType,
        shape: &[usize],
        residence: &Residence,
        fill: impl FnOnce(&mut [u8]),
    ) -> Self {
        let mut flat = HostFlat::zeros(shape.iter().product(), dtype);
        fill(flat.bytes_mut());
        match residence {
            Residence::Host => Self::Host(flat.share().view(0, shape)),
            #[cfg(feature = "cube")]
            Residence::Device(at) => {
                Self::Device(device::tensor(flat.into_bytes(), dtype, shape, at))
            }
        }
    }

    /// The memory that it lies in.
    pub(crate) fn residence(&self) -> Residence {
        match self {
            Self::Host(_) => Residence::Host,
            #[cfg(feature = "cube")]
            Self::Device(tensor) => Residence::Device(tensor.device.clone()),
        }
    }

    pub(crate) fn dtype(&self) -> DType {
        match self {
            Self::Host(tensor) => tensor.dtype(),
            #[cfg(feature = "cube")]
            Self::Device(tensor) => tensor.dtype,
        }
    }

    /// The same numbers in another type; the tensor itself where it has that type.
    pub(crate) fn cast(self, dtype: DType) -> Self {
        match self {
            same if same.dtype() == dtype => same,
            Self::Host(tensor) => Self::Host(Flex::float_cast(tensor, dtype.into())),
            #[cfg(feature = "cube")]
            Self::Device(tensor) => Self::Device(device::cast(tensor, dtype)),
        }
    }

    /// The sum with another tensor of the same residence, in this one's type.
    pub(crate) fn add(self, other: Self) -> Self {
        let dtype = self.dtype();
        match (self, other.cast(dtype)) {
            (Self::Host(a), Self::Host(b)) => Self::Host(Flex::float_add(a, b)),
            #[cfg(feature = "cube")]
            (Self::Device(a), Self::Device(b)) => Self::Device(device::add(a, b)),
            #[cfg(feature = "cube")]
            _ => wrong_device(),
        }
    }

    /// All elements, widened.
    pub(crate) fn numbers(&self) -> Result<Vec<f64>> {
        let read = |tensor: &FlexTensor| {
            let mut flat = HostFlat::zeros(tensor.layout().num_elements(), tensor.dtype());
            flat.put(0, tensor);
            flat.numbers()
        };
        match self {
            Self::Host(tensor) => Ok(read(tensor)),
            #[cfg(feature = "cube")]
            Self::Device(tensor) => Ok(device::download(tensor)?.numbers()),
        }
    }
}

/// A tensor of one element that is never read and takes no gradients.
pub(crate) fn untracked(device: &Device) -> Tensor<1> {
    let device = device.clone().inner();
    if device == Device::flex() {
        // No trip to an allocator for what is done once a parameter.
        Tensor::from_data(TensorData::new(vec![0f32], [1]), &device)
    } else {
        Tensor::empty([1], (&device, DType::F32))
    }
}
