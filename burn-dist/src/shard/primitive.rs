//! A tensor of whichever backend a rank computes on, cut from autodiff.

use super::host;
#[cfg(feature = "cube")]
use super::{device, fused};
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

/// Where a rank's tensors lie.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Place {
    /// In the memory of the process.
    Host,
    /// In the memory of a GPU.
    #[cfg(feature = "cube")]
    Device(CubeDevice),
}

/// A backend whose tensors the engine can hold.
pub(crate) trait Held: Backend {
    /// What a tensor is stored as.
    fn hold(tensor: FloatTensor<Self>) -> Primitive;

    /// The tensor stored so.
    fn give(primitive: Primitive) -> FloatTensor<Self>;

    /// A tensor of one element that nobody reads, beside `tensor`.
    fn nothing(tensor: &FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_empty(Shape::from(vec![1]), &tensor.device(), DType::F32.into())
    }
}

impl Held for Flex {
    fn hold(tensor: FlexTensor) -> Primitive {
        Primitive::Host(tensor)
    }

    fn give(primitive: Primitive) -> FlexTensor {
        match primitive {
            Primitive::Host(tensor) => tensor,
            #[cfg(feature = "cube")]
            Primitive::Device(_) => elsewhere(),
        }
    }
}

#[cfg(feature = "cube")]
impl Held for Cube {
    fn hold(tensor: FloatTensor<Self>) -> Primitive {
        Primitive::Device(fused::unfused(tensor))
    }

    fn give(primitive: Primitive) -> FloatTensor<Self> {
        match primitive {
            Primitive::Device(tensor) => fused::fusible(tensor),
            Primitive::Host(_) => elsewhere(),
        }
    }
}

/// Raises what is to be said of a tensor that is not where the model is.
#[cfg(feature = "cube")]
pub(super) fn elsewhere() -> ! {
    raise(Error::config(
        "device of a tensor",
        "world.device(), where the model is",
        "another one",
    ))
}

impl Place {
    /// Whether that is a GPU.
    pub(crate) fn is_device(&self) -> bool {
        !matches!(self, Self::Host)
    }

    /// Where the tensors of `device` lie.
    pub(crate) fn of(device: &Device) -> Result<Self> {
        let probe = Tensor::<1>::empty([1], &device.clone().inner());
        Primitive::of(probe).map(|p| p.place())
    }
}

impl Primitive {
    /// The storage of a tensor.
    pub(crate) fn of<const D: usize>(tensor: Tensor<D>) -> Result<Self> {
        let device = tensor.device();
        let tensor = tensor.without_autodiff();
        #[cfg(feature = "cube")]
        let tensor = match tensor.clone().try_into_primitive::<Cube>() {
            Ok(found) => return Ok(Cube::hold(found)),
            Err(_) => tensor,
        };
        let found = tensor.try_into_primitive::<Flex>();
        found.map(Flex::hold).map_err(|_| {
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
        place: &Place,
        fill: impl FnOnce(&mut [u8]),
    ) -> Self {
        let mut flat = host::Flat::zeros(shape.iter().product(), dtype);
        fill(flat.bytes_mut());
        match place {
            Place::Host => Self::Host(flat.share().view(0, shape)),
            #[cfg(feature = "cube")]
            Place::Device(at) => Self::Device(device::tensor(flat.into_bytes(), dtype, shape, at)),
        }
    }

    pub(crate) fn place(&self) -> Place {
        match self {
            Self::Host(_) => Place::Host,
            #[cfg(feature = "cube")]
            Self::Device(tensor) => Place::Device(tensor.device.clone()),
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

    /// The sum with another tensor of the same place, in this one's type.
    pub(crate) fn add(self, other: Self) -> Self {
        let dtype = self.dtype();
        match (self, other.cast(dtype)) {
            (Self::Host(a), Self::Host(b)) => Self::Host(Flex::float_add(a, b)),
            #[cfg(feature = "cube")]
            (Self::Device(a), Self::Device(b)) => Self::Device(device::add(a, b)),
            #[cfg(feature = "cube")]
            _ => elsewhere(),
        }
    }

    /// All elements, widened.
    pub(crate) fn numbers(&self) -> Result<Vec<f64>> {
        let read = |tensor: &FlexTensor| {
            let mut flat = host::Flat::zeros(tensor.layout().num_elements(), tensor.dtype());
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

/// A tensor of one element that nobody reads and that takes no gradients.
pub(crate) fn untracked(device: &Device) -> Tensor<1> {
    let device = device.clone().inner();
    match device == Device::flex() {
        // No trip to an allocator for what is done once a parameter.
        true => Tensor::from_data(TensorData::new(vec![0f32], [1]), &device),
        false => Tensor::empty([1], (&device, DType::F32)),
    }
}
