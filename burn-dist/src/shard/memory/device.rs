//! Memory of a GPU.
//!
//! Everything that knows how CubeCL stores a tensor is here. What a rank's threads compute goes to one
//! stream, in the order in which they ask for it (see [`World::submit`](crate::World)), so buffers may go
//! from the communication thread to the compute thread and back. What CubeCL does not know of are
//! collectives between devices: a buffer that one of them fills is [`PendingFlat`](super::PendingFlat).

#[cfg(feature = "cuda")]
use super::dtype::element;
use super::host::HostFlat;
#[cfg(feature = "cuda")]
use crate::comm::DeviceBuffer;
use crate::error::{Error, Result};
use burn::backend::TensorMetadata;
use burn::backend::ops::FloatTensorOps;
use burn::tensor::{Bytes, DType, Shape, Slice};
#[cfg(feature = "cuda")]
use burn_cubecl::cubecl;
use burn_cubecl::{CubeBackend, CubeDevice, kernel, tensor::CubeTensor};
use std::ops::Range;
#[cfg(feature = "cuda")]
use std::sync::{Arc, Mutex};

/// A tensor of these elements.
pub(super) fn tensor(
    bytes: Bytes,
    dtype: DType,
    shape: &[usize],
    device: &CubeDevice,
) -> CubeTensor {
    let client = device.client();
    let handle = client.create(bytes);
    let shape = Shape::from(shape.to_vec());
    CubeTensor::new_contiguous(client, device.clone(), shape, handle, dtype)
}

pub(super) fn cast(tensor: CubeTensor, dtype: DType) -> CubeTensor {
    if tensor.dtype == dtype {
        tensor
    } else {
        CubeBackend::float_cast(tensor, dtype.into())
    }
}

pub(super) fn add(a: CubeTensor, b: CubeTensor) -> CubeTensor {
    CubeBackend::float_add(a, b)
}

/// All elements, on the host.
pub(super) fn download(tensor: &CubeTensor) -> Result<HostFlat> {
    let mut flat = HostFlat::zeros(tensor.shape().num_elements(), tensor.dtype);
    // What the device's library allocates may begin anywhere.
    flat.bytes_mut().copy_from_slice(&read(tensor)?);
    Ok(flat)
}

fn read(tensor: &CubeTensor) -> Result<Vec<u8>> {
    let tensor = line(tensor.clone());
    let len = tensor.meta.shape().num_elements() * tensor.dtype.size();
    let read = tensor.client.read_one(tensor.handle);
    let bytes = read.map_err(|e| broken("reading its memory", &e))?;
    Ok(bytes[..len].to_vec())
}

/// The GPU says at the next reading what went wrong in anything that it was asked for before.
fn broken(what: &str, cause: &dyn std::fmt::Display) -> Error {
    let expected = "all work before it done (enough memory? the toolkit's files in CUDA_PATH?)";
    Error::config(format!("the GPU, {what}"), expected, cause)
}

/// So many partial sums of a buffer are added up on the host.
const SUMS: usize = 1024;

/// The elements in a row, without the padding that rows of a matrix may have.
fn line(tensor: CubeTensor) -> CubeTensor {
    let len = tensor.shape().num_elements();
    CubeBackend::float_reshape(kernel::into_contiguous(tensor), Shape::from(vec![len]))
}

/// Some elements of a row, with storage of their own.
fn part(tensor: &CubeTensor, range: Range<usize>) -> CubeTensor {
    let slice = Slice::from(range);
    let part = CubeBackend::float_slice(tensor.clone(), &[slice]);
    if is_same_memory(&part, tensor) {
        part.copy()
    } else {
        part
    }
}

fn is_same_memory(a: &CubeTensor, b: &CubeTensor) -> bool {
    let id = |t: &CubeTensor| t.handle.memory.descriptor().id;
    id(a) == id(b)
}

fn shaped(tensor: CubeTensor, shape: &[usize]) -> CubeTensor {
    CubeBackend::float_reshape(tensor, Shape::from(shape.to_vec()))
}

/// What a rank stores of one parameter, at one moment; keeps the storage alive.
#[derive(Debug, Clone)]
pub(crate) struct DeviceShard(CubeTensor);

impl DeviceShard {
    pub(super) fn of(tensor: CubeTensor) -> Self {
        Self(tensor)
    }

    pub(super) fn tensor(&self) -> CubeTensor {
        self.0.clone()
    }

    pub(super) fn read(&self) -> Result<Vec<u8>> {
        read(&self.0)
    }

    pub(super) fn size(&self) -> usize {
        self.0.shape().num_elements() * self.0.dtype.size()
    }

    pub(super) fn slice(&self, range: Range<usize>, shape: &[usize]) -> CubeTensor {
        shaped(part(&line(self.0.clone()), range), shape)
    }

    /// Whether both are the same memory: nothing was stored to the parameter in between.
    pub(super) fn is(&self, other: &Self) -> bool {
        let offsets = |t: &CubeTensor| (t.handle.offset_start, t.handle.offset_end);
        is_same_memory(&self.0, &other.0) && offsets(&self.0) == offsets(&other.0)
    }
}

/// A flat buffer that is still being filled.
#[derive(Debug)]
pub(crate) struct DeviceFlat(CubeTensor);

/// A flat buffer whose views are tensors.
#[derive(Debug, Clone)]
pub(crate) struct DeviceShared(CubeTensor);

impl DeviceFlat {
    pub(super) fn zeros(len: usize, dtype: DType, device: &CubeDevice) -> Self {
        let shape = Shape::from(vec![len]);
        Self(CubeBackend::float_zeros(shape, device, dtype.into()))
    }

    /// A buffer of whatever was there.
    #[cfg(feature = "cuda")]
    pub(super) fn empty(len: usize, like: &Self) -> Self {
        let (shape, device) = (Shape::from(vec![len]), &like.0.device);
        let dtype = like.0.dtype.into();
        Self(CubeBackend::float_empty(shape, device, dtype))
    }

    /// These elements, from the host.
    pub(super) fn upload(flat: HostFlat, device: &CubeDevice) -> Self {
        let dtype = flat.dtype();
        let len = flat.bytes().len() / dtype.size();
        Self(tensor(flat.into_bytes(), dtype, &[len], device))
    }

    pub(super) fn dtype(&self) -> DType {
        self.0.dtype
    }

    pub(super) fn device(&self) -> &CubeDevice {
        &self.0.device
    }

    pub(super) fn len(&self) -> usize {
        self.0.shape().num_elements()
    }

    /// Copies a tensor's elements to `start`, counted in elements, in this buffer's type.
    pub(super) fn put(&mut self, start: usize, tensor: CubeTensor) {
        let value = cast(line(tensor), self.dtype());
        let len = value.shape().num_elements();
        if len == 0 {
            return;
        }
        // The buffer is written in place only while there is no second handle on it; the value
        // stands in for it meanwhile.
        let buffer = std::mem::replace(&mut self.0, value.clone());
        let slice = Slice::from(start..start + len);
        self.0 = CubeBackend::float_slice_assign(buffer, &[slice], value);
    }

    pub(super) fn part(&self, range: Range<usize>) -> CubeTensor {
        part(&self.0, range)
    }

    pub(super) fn cast(self, dtype: DType) -> Self {
        Self(cast(self.0, dtype))
    }

    pub(super) fn download(&self) -> Result<HostFlat> {
        download(&self.0)
    }

    pub(super) fn add(&mut self, other: &Self) {
        let sum = add(self.0.clone(), other.0.clone());
        self.0 = sum;
    }

    pub(super) fn scale(&mut self, by: f64) {
        self.0 = CubeBackend::float_mul_scalar(self.0.clone(), by.into());
    }

    pub(super) fn squares(&self) -> Result<f64> {
        let wide = cast(self.0.clone(), DType::F32);
        self.sum(CubeBackend::float_mul(wide.clone(), wide))
    }

    /// Whether every element is a number. The sum of magnitudes is one only then; so many of the
    /// largest ones that their sum is none are no gradients either.
    pub(super) fn is_finite(&self) -> Result<bool> {
        let wide = cast(self.0.clone(), DType::F32);
        let sum = self.sum(CubeBackend::float_abs(wide))?;
        Ok(sum.is_finite())
    }

    /// The sum of as many elements as the buffer has.
    ///
    /// Not Burn's own, which lets blocks add in the order in which they end: ranks with the same
    /// gradients have to come to the same norm.
    fn sum(&self, of: CubeTensor) -> Result<f64> {
        let len = self.len();
        if len == 0 {
            return Ok(0.0);
        }
        let rows = SUMS.min(len);
        let columns = len / rows;
        let table = shaped(part(&of, 0..rows * columns), &[rows, columns]);
        let mut sums = shaped(CubeBackend::float_sum_dim(table, 1), &[rows]);
        if rows * columns < len {
            let rest = CubeBackend::float_sum_dim(part(&of, rows * columns..len), 0);
            sums = CubeBackend::float_cat(vec![sums, rest], 0);
        }
        Ok(download(&sums)?.numbers().iter().sum())
    }

    /// The memory, as collectives between devices take it.
    ///
    /// What was asked of the GPU before is done, or at least submitted, as `order` wants it.
    #[cfg(feature = "cuda")]
    pub(super) fn submitted(&self, order: crate::comm::Order) -> Result<DeviceBuffer> {
        use cubecl_runtime::runtime::Runtime;
        type Server = <cubecl::cuda::CudaRuntime as Runtime>::Server;
        let (client, handle) = (&self.0.client, &self.0.handle);
        if client.is_capturing() {
            let what = "a collective between GPUs";
            return Err(Error::config(what, "no graph capture", "an open one"));
        }
        // Comes back when all that this client was asked for has been submitted, and lets the rank's
        // stream wait for another one that has allocated the memory. While the resource is held, the
        // memory is neither given to anybody else nor moved.
        let resource = client.get_resource::<Server>(handle.clone());
        let resource = resource.map_err(|e| broken("asking where memory lies", &e))?;
        if order == crate::comm::Order::Host {
            let done = cubecl::future::block_on(client.sync());
            done.map_err(|e| broken("waiting for it", &e))?;
        }
        let address = resource.resource().ptr;
        // Only to be dropped, by whoever is last.
        let owner = Arc::new(Mutex::new((resource, self.0.clone())));
        // SAFETY: the owner keeps the allocation. A buffer that a collective writes is not read
        // before its arrival, and one that it reads is not written again: the engine hands both
        // over to the collective.
        #[allow(unsafe_code)]
        Ok(unsafe { DeviceBuffer::new(address, self.len(), element(self.dtype())?, owner) })
    }

    pub(super) fn share(self) -> DeviceShared {
        DeviceShared(self.0)
    }
}

impl DeviceShared {
    /// The elements from `start` on, without a copy where the device can start there.
    pub(super) fn view(&self, start: usize, shape: &[usize]) -> CubeTensor {
        let (size, all) = (self.0.dtype.size(), self.0.shape().num_elements());
        let len: usize = shape.iter().product();
        let before = (start * size) as u64;
        let behind = ((all - start - len) * size) as u64;
        let properties = self.0.client.properties();
        let aligned = match self.0.device {
            // A kernel's widest load.
            CubeDevice::Cuda(_) => u64::from(properties.hardware.load_width / 8),
            _ => properties.memory.alignment,
        };
        if len == 0 || !before.is_multiple_of(aligned) {
            return self.copy(start, shape);
        }
        let handle = self.0.handle.clone();
        CubeTensor::new_contiguous(
            self.0.client.clone(),
            self.0.device.clone(),
            Shape::from(shape.to_vec()),
            handle.offset_start(before).offset_end(behind),
            self.0.dtype,
        )
    }

    pub(super) fn copy(&self, start: usize, shape: &[usize]) -> CubeTensor {
        let len: usize = shape.iter().product();
        if len == 0 {
            let dtype = self.0.dtype.into();
            let shape = Shape::from(shape.to_vec());
            return CubeBackend::float_empty(shape, &self.0.device, dtype);
        }
        shaped(part(&self.0, start..start + len), shape)
    }

    pub(super) fn read(&self) -> Result<Vec<u8>> {
        read(&self.0)
    }
}

#[cfg(test)]
#[cfg(feature = "wgpu")]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The GPU, where the machine has one.
    fn gpu() -> Option<CubeDevice> {
        CubeDevice::wgpu(Default::default()).ok()
    }

    fn counting(len: usize, device: &CubeDevice) -> CubeTensor {
        let numbers: Vec<f32> = (0..len).map(|x| x as f32).collect();
        tensor(Bytes::from_elems(numbers), DType::F32, &[len], device)
    }

    fn numbers(tensor: &CubeTensor) -> Vec<f64> {
        download(tensor).unwrap().numbers()
    }

    #[test]
    fn a_buffer_is_filled_in_place_and_its_views_are_its_memory() {
        let Some(device) = gpu() else { return };
        let mut flat = DeviceFlat::zeros(300, DType::F32, &device);
        let before = flat.0.clone();
        let id = before.handle.memory.descriptor().id;
        drop(before);
        flat.put(3, shaped(counting(12, &device), &[3, 4]));
        flat.put(256, counting(40, &device));
        assert_eq!(flat.0.handle.memory.descriptor().id, id);
        let shared = flat.share();
        let view = shared.view(256, &[5, 8]);
        assert!(is_same_memory(&view, &shared.0));
        assert_eq!(numbers(&view), (0..40).map(f64::from).collect::<Vec<_>>());
        // No kernel can begin at any element.
        let odd = shared.view(3, &[12]);
        assert!(!is_same_memory(&odd, &shared.0));
        assert_eq!(numbers(&odd), (0..12).map(f64::from).collect::<Vec<_>>());
        let copy = shared.copy(256, &[40]);
        assert!(!is_same_memory(&copy, &shared.0));
        assert_eq!(numbers(&copy), numbers(&view));
    }

    #[test]
    fn a_piece_is_its_memory_and_not_its_numbers() {
        let Some(device) = gpu() else { return };
        let stored = counting(8, &device);
        let shard = DeviceShard::of(stored.clone());
        assert!(shard.is(&DeviceShard::of(stored.clone())));
        assert!(!shard.is(&DeviceShard::of(stored.copy())));
        assert_eq!(shard.read().unwrap().len(), shard.size());
        assert_eq!(numbers(&shard.slice(2..5, &[3, 1])), [2.0, 3.0, 4.0]);
        assert!(numbers(&shard.slice(2..2, &[0, 1])).is_empty());
    }

    #[test]
    fn norms_and_finiteness_are_read_once() {
        let Some(device) = gpu() else { return };
        let mut flat = DeviceFlat::zeros(70, DType::F32, &device);
        flat.put(10, counting(4, &device));
        assert_eq!(flat.squares().unwrap(), 14.0);
        assert!(flat.is_finite().unwrap());
        flat.scale(-2.0);
        assert_eq!(flat.squares().unwrap(), 56.0);
        for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let broken = tensor(Bytes::from_elems(vec![broken]), DType::F32, &[1], &device);
            flat.put(0, broken);
            assert!(!flat.is_finite().unwrap());
        }
    }

    #[test]
    fn an_empty_tensor_is_one() {
        let Some(device) = gpu() else { return };
        let empty = tensor(
            Bytes::from_elems(Vec::<f32>::new()),
            DType::F32,
            &[0, 1],
            &device,
        );
        assert!(numbers(&empty).is_empty());
        let mut flat = DeviceFlat::zeros(4, DType::F32, &device);
        flat.put(0, empty);
        assert_eq!(flat.squares().unwrap(), 0.0);
        assert!(numbers(&flat.share().view(4, &[0])).is_empty());
    }
}
