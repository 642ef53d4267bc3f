//! Memory of Burn's CPU backend, as bytes.
//!
//! Everything that knows how Flex stores a tensor is here: a stored shard, a unit's flat buffer,
//! and views into it that share its memory.

use burn::tensor::{Bytes, DType, Shape};
use burn_flex::{FlexTensor, Layout};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use std::ops::Range;
use std::sync::Arc;

/// What a rank stores of one parameter, at one moment; keeps the storage alive.
#[derive(Debug, Clone)]
pub(crate) struct HostShard {
    data: Arc<Bytes>,
    start: usize,
    len: usize,
}

impl HostShard {
    /// The contents of a primitive.
    pub(super) fn of(tensor: FlexTensor) -> Self {
        let tensor = tensor.to_contiguous();
        let size = tensor.dtype().size();
        Self {
            start: tensor.layout().start_offset() * size,
            len: tensor.layout().num_elements() * size,
            data: tensor.data_arc(),
        }
    }

    /// These bytes.
    pub(super) fn of_bytes(bytes: Vec<u8>) -> Self {
        Self {
            start: 0,
            len: bytes.len(),
            data: Arc::new(Bytes::from_bytes_vec(bytes)),
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.data[self.start..self.start + self.len]
    }

    /// Whether both are the same memory: nothing was stored to the parameter in between.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.data, &other.data) && self.start == other.start && self.len == other.len
    }
}

/// A tensor of these elements, copied.
pub(super) fn tensor(bytes: &[u8], dtype: DType, shape: &[usize]) -> FlexTensor {
    let mut copy = HostFlat::zeros(bytes.len() / dtype.size(), dtype);
    copy.bytes_mut().copy_from_slice(bytes);
    copy.share().view(0, shape)
}

/// Writes the numbers of `from` to `to`, which has room for as many, in its type.
fn convert(from: &[u8], from_type: DType, to: &mut [u8], to_type: DType) {
    use DType::{BF16, F16, F32};
    macro_rules! each {
        ($from:ty, $to:ty, $f:expr) => {
            bytemuck::cast_slice_mut::<_, $to>(to)
                .iter_mut()
                .zip(bytemuck::cast_slice::<_, $from>(from))
                .for_each(|(to, from)| *to = $f(*from))
        };
    }
    match (from_type, to_type) {
        _ if from_type == to_type => to.copy_from_slice(from),
        // The library's own loops use the processor's instructions for these.
        (F32, F16) => bytemuck::cast_slice_mut::<_, f16>(to)
            .convert_from_f32_slice(bytemuck::cast_slice(from)),
        (F16, F32) => {
            bytemuck::cast_slice::<_, f16>(from).convert_to_f32_slice(bytemuck::cast_slice_mut(to))
        }
        (F32, BF16) => each!(f32, bf16, bf16::from_f32),
        (BF16, F32) => each!(bf16, f32, bf16::to_f32),
        (F16, BF16) => each!(f16, bf16, |x: f16| bf16::from_f32(x.to_f32())),
        (BF16, F16) => each!(bf16, f16, |x: bf16| f16::from_f32(x.to_f32())),
        (DType::F64, F32) => each!(f64, f32, |x| x as f32),
        (DType::F64, F16) => each!(f64, f16, f16::from_f64),
        (DType::F64, _) => each!(f64, bf16, bf16::from_f64),
        (F32, _) => each!(f32, f64, f64::from),
        (F16, _) => each!(f16, f64, f16::to_f64),
        _ => each!(bf16, f64, bf16::to_f64),
    }
}

fn all<T: bytemuck::Pod>(bytes: &[u8], is: impl Fn(&T) -> bool) -> bool {
    bytemuck::cast_slice(bytes).iter().all(is)
}

/// A flat buffer that is still being filled.
#[derive(Debug)]
pub(crate) struct HostFlat {
    bytes: Bytes,
    dtype: DType,
}

/// A flat buffer whose views are tensors.
#[derive(Debug, Clone)]
pub(crate) struct HostShared {
    bytes: Arc<Bytes>,
    dtype: DType,
}

impl HostFlat {
    /// A buffer of `len` zeros.
    pub(super) fn zeros(len: usize, dtype: DType) -> Self {
        // Words, so that the memory is aligned for every element type; the allocator has zeros
        // at hand that nobody needs to write.
        let words = (len * dtype.size()).div_ceil(8);
        Self {
            bytes: Bytes::from_elems(vec![0u64; words]),
            dtype,
        }
        .truncated(len)
    }

    fn truncated(self, len: usize) -> Self {
        let wanted = len * self.dtype.size();
        if self.bytes.len() == wanted {
            return self;
        }
        // An odd number of small elements does not fill its words.
        let bytes = match self.dtype.size() {
            4 => Bytes::from_elems(vec![0u32; len]),
            1 => Bytes::from_elems(vec![0u8; len]),
            _ => Bytes::from_elems(vec![0u16; len]),
        };
        Self { bytes, ..self }
    }

    pub(super) fn dtype(&self) -> DType {
        self.dtype
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    #[cfg(feature = "cube")]
    pub(super) fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// Copies a tensor's elements to `start`, counted in elements, in this buffer's type.
    pub(super) fn put(&mut self, start: usize, tensor: &FlexTensor) {
        let tensor = tensor.to_contiguous();
        let size = tensor.dtype().size();
        let from = tensor.layout().start_offset() * size;
        let to = from + tensor.layout().num_elements() * size;
        self.put_bytes(start, &tensor.bytes()[from..to], tensor.dtype());
    }

    /// Copies elements of type `dtype` to `start`, counted in elements, in this buffer's type.
    pub(super) fn put_bytes(&mut self, start: usize, from: &[u8], dtype: DType) {
        let size = self.dtype.size();
        let (first, len) = (start * size, from.len() / dtype.size());
        let to = &mut self.bytes[first..first + len * size];
        convert(from, dtype, to, self.dtype);
    }

    /// Copies the elements `from` of another buffer of this type to `start`.
    pub(super) fn put_part(&mut self, start: usize, other: &Self, from: Range<usize>) {
        let size = self.dtype.size();
        self.put_bytes(
            start,
            &other.bytes[from.start * size..from.end * size],
            self.dtype,
        );
    }

    /// The same numbers in another type.
    pub(super) fn cast(self, dtype: DType) -> Self {
        if self.dtype == dtype {
            return self;
        }
        let mut cast = Self::zeros(self.bytes.len() / self.dtype.size(), dtype);
        cast.put_bytes(0, &self.bytes, self.dtype);
        cast
    }

    /// All elements, widened.
    pub(super) fn numbers(&self) -> Vec<f64> {
        let mut numbers = vec![0f64; self.bytes.len() / self.dtype.size()];
        let to = bytemuck::cast_slice_mut(&mut numbers);
        convert(&self.bytes, self.dtype, to, DType::F64);
        numbers
    }

    /// Whether every element of a range is a number.
    pub(super) fn is_finite(&self, range: Range<usize>) -> bool {
        let size = self.dtype.size();
        let bytes = &self.bytes[range.start * size..range.end * size];
        match self.dtype {
            DType::F64 => all(bytes, |x: &f64| x.is_finite()),
            DType::F32 => all(bytes, |x: &f32| x.is_finite()),
            DType::F16 => all(bytes, |x: &f16| x.is_finite()),
            _ => all(bytes, |x: &bf16| x.is_finite()),
        }
    }

    /// Adds another buffer of the same length.
    pub(super) fn add(&mut self, other: &Self) {
        each(self.dtype, &mut self.bytes, &other.bytes, |a, b| a + b);
    }

    /// Multiplies every element.
    pub(super) fn scale(&mut self, by: f64) {
        let bytes = &mut self.bytes;
        match self.dtype {
            DType::F64 => bytemuck::cast_slice_mut(bytes)
                .iter_mut()
                .for_each(|x: &mut f64| *x *= by),
            DType::F32 => bytemuck::cast_slice_mut(bytes)
                .iter_mut()
                .for_each(|x: &mut f32| *x *= by as f32),
            DType::F16 => bytemuck::cast_slice_mut(bytes)
                .iter_mut()
                .for_each(|x: &mut f16| *x = f16::from_f64(x.to_f64() * by)),
            _ => bytemuck::cast_slice_mut(bytes)
                .iter_mut()
                .for_each(|x: &mut bf16| *x = bf16::from_f64(x.to_f64() * by)),
        }
    }

    /// The sum of squares of a range of elements, computed in f64.
    pub(super) fn squares(&self, range: Range<usize>) -> f64 {
        let size = self.dtype.size();
        let bytes = &self.bytes[range.start * size..range.end * size];
        match self.dtype {
            DType::F64 => sum_of_squares(bytemuck::cast_slice(bytes), |x: f64| x),
            DType::F32 => sum_of_squares(bytemuck::cast_slice(bytes), |x: f32| x.into()),
            DType::F16 => sum_of_squares(bytemuck::cast_slice(bytes), f16::to_f64),
            _ => sum_of_squares(bytemuck::cast_slice(bytes), bf16::to_f64),
        }
    }

    /// No more writing from here on.
    pub(super) fn share(self) -> HostShared {
        HostShared {
            bytes: Arc::new(self.bytes),
            dtype: self.dtype,
        }
    }
}

/// The sum of the squares in f64, in eight sums side by side: one after another, each addition would wait for the one
/// before it.
fn sum_of_squares<T: Copy>(elements: &[T], widened: impl Fn(T) -> f64) -> f64 {
    let mut sums = [0.0; 8];
    let mut chunks = elements.chunks_exact(8);
    for chunk in &mut chunks {
        for (sum, &x) in sums.iter_mut().zip(chunk) {
            let x = widened(x);
            *sum += x * x;
        }
    }
    let rest = chunks.remainder().iter().map(|&x| widened(x).powi(2));
    sums.iter().sum::<f64>() + rest.sum::<f64>()
}

impl HostShared {
    /// The elements from `start` on as a tensor of `shape`, without a copy.
    pub(super) fn view(&self, start: usize, shape: &[usize]) -> FlexTensor {
        let shape = Shape::from(shape.to_vec());
        let strides = Layout::contiguous(shape.clone()).strides().to_vec();
        FlexTensor::from_arc(
            self.bytes.clone(),
            Layout::new(shape, strides, start),
            self.dtype,
        )
    }

    pub(super) fn all(&self) -> &[u8] {
        &self.bytes
    }

    /// The same as a tensor with storage of its own.
    pub(super) fn copy(&self, start: usize, shape: &[usize]) -> FlexTensor {
        let len: usize = shape.iter().product();
        let size = self.dtype.size();
        tensor(
            &self.bytes[start * size..(start + len) * size],
            self.dtype,
            shape,
        )
    }
}

fn each(dtype: DType, to: &mut [u8], from: &[u8], f: impl Fn(f64, f64) -> f64) {
    macro_rules! over {
        ($t:ty, $wide:expr, $narrow:expr) => {
            bytemuck::cast_slice_mut(to)
                .iter_mut()
                .zip(bytemuck::cast_slice(from))
                .for_each(|(a, b): (&mut $t, &$t)| *a = $narrow(f($wide(*a), $wide(*b))))
        };
    }
    match dtype {
        DType::F64 => over!(f64, |x: f64| x, |x: f64| x),
        // The f64 sum of two f32, rounded once, is their f32 sum.
        DType::F32 => over!(f32, f64::from, |x: f64| x as f32),
        DType::F16 => over!(f16, f16::to_f64, f16::from_f64),
        _ => over!(bf16, bf16::to_f64, bf16::from_f64),
    }
}
