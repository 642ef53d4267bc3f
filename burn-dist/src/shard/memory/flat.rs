//! Flat buffers and stored shards, wherever they lie.
//!
//! The engine does the same with memory of the process and of a GPU; what differs is in `host` and
//! `device`.

#[cfg(feature = "cube")]
use super::device::{DeviceFlat, DeviceShard, DeviceShared};
use super::host::{self, HostFlat, HostShard, HostShared};
#[cfg(feature = "cube")]
use super::primitive::wrong_device;
use super::primitive::{Primitive, Residence};
use crate::error::Result;
use burn::tensor::{DType, Tensor};
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

/// What a rank stores of one parameter, at one moment; keeps the storage alive.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone)]
pub(crate) enum Shard {
    Host(HostShard),
    #[cfg(feature = "cube")]
    Device(DeviceShard),
}

/// A rank's shards of one unit, by slot; none for a parameter that a module has not.
pub(crate) type Shards = Arc<[Option<Shard>]>;

/// A flat buffer that is still being filled.
#[allow(clippy::large_enum_variant)]
#[derive(Debug)]
pub(crate) enum Flat {
    Host(HostFlat),
    #[cfg(feature = "cube")]
    Device(DeviceFlat),
}

/// A flat buffer whose views are tensors.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone)]
pub(crate) enum SharedFlat {
    Host(HostShared),
    #[cfg(feature = "cube")]
    Device(DeviceShared),
}

impl Shard {
    /// The contents of a tensor.
    pub(crate) fn of<const D: usize>(tensor: Tensor<D>) -> Result<Self> {
        Primitive::of(tensor).map(Self::of_primitive)
    }

    /// The contents of a primitive.
    pub(crate) fn of_primitive(primitive: Primitive) -> Self {
        match primitive {
            Primitive::Host(tensor) => Self::Host(HostShard::of(tensor)),
            #[cfg(feature = "cube")]
            Primitive::Device(tensor) => Self::Device(DeviceShard::of(tensor)),
        }
    }

    /// These bytes, in the memory of the process.
    pub(crate) fn of_bytes(bytes: Vec<u8>) -> Self {
        Self::Host(HostShard::of_bytes(bytes))
    }

    /// Its elements as bytes, copied to the host if they are not there.
    pub(crate) fn read(&self) -> Result<Cow<'_, [u8]>> {
        match self {
            Self::Host(shard) => Ok(shard.bytes().into()),
            #[cfg(feature = "cube")]
            Self::Device(shard) => Ok(shard.read()?.into()),
        }
    }

    /// The same, if they are there.
    pub(crate) fn host_bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Host(shard) => Some(shard.bytes()),
            #[cfg(feature = "cube")]
            Self::Device(_) => None,
        }
    }

    /// The same elements in the memory of the process.
    pub(crate) fn on_host(&self) -> Result<Self> {
        match self {
            Self::Host(shard) => Ok(Self::Host(shard.clone())),
            #[cfg(feature = "cube")]
            Self::Device(shard) => Ok(Self::Host(HostShard::of_bytes(shard.read()?))),
        }
    }

    /// How many bytes it has.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Host(shard) => shard.bytes().len(),
            #[cfg(feature = "cube")]
            Self::Device(shard) => shard.size(),
        }
    }

    /// A copy of a range of its elements, which are of type `dtype`.
    pub(crate) fn slice(&self, range: Range<usize>, dtype: DType, shape: &[usize]) -> Primitive {
        match self {
            Self::Host(shard) => {
                let size = dtype.size();
                let bytes = &shard.bytes()[range.start * size..range.end * size];
                Primitive::Host(host::tensor(bytes, dtype, shape))
            }
            #[cfg(feature = "cube")]
            Self::Device(shard) => Primitive::Device(shard.slice(range, shape)),
        }
    }

    /// Whether both are the same memory: nothing was stored to the parameter in between.
    pub(crate) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Host(a), Self::Host(b)) => a.is(b),
            #[cfg(feature = "cube")]
            (Self::Device(a), Self::Device(b)) => a.is(b),
            #[cfg(feature = "cube")]
            _ => false,
        }
    }
}

/// Whether two lists of shards are the same memory, one by one.
pub(crate) fn is_same_memory(a: &[Option<Shard>], b: &[Option<Shard>]) -> bool {
    let same = |(a, b): (&Option<Shard>, &Option<Shard>)| match (a, b) {
        (Some(a), Some(b)) => a.is(b),
        (None, None) => true,
        _ => false,
    };
    a.len() == b.len() && a.iter().zip(b).all(same)
}

/// Does the same with either kind of memory.
macro_rules! either {
    ($self:expr, $flat:ident => $do:expr) => {
        match $self {
            Self::Host($flat) => $do,
            #[cfg(feature = "cube")]
            Self::Device($flat) => $do,
        }
    };
}

impl Flat {
    /// A buffer of `len` zeros.
    pub(crate) fn zeros(len: usize, dtype: DType, residence: &Residence) -> Self {
        match residence {
            Residence::Host => Self::Host(HostFlat::zeros(len, dtype)),
            #[cfg(feature = "cube")]
            Residence::Device(at) => Self::Device(DeviceFlat::zeros(len, dtype, at)),
        }
    }

    pub(crate) fn dtype(&self) -> DType {
        either!(self, flat => flat.dtype())
    }

    /// Copies a tensor's elements to `start`, counted in elements, in this buffer's type.
    pub(crate) fn put(&mut self, start: usize, tensor: &Primitive) {
        match (self, tensor) {
            (Self::Host(flat), Primitive::Host(tensor)) => flat.put(start, tensor),
            #[cfg(feature = "cube")]
            (Self::Device(flat), Primitive::Device(tensor)) => flat.put(start, tensor.clone()),
            #[cfg(feature = "cube")]
            _ => wrong_device(),
        }
    }

    /// Copies a shard's elements, which are of type `dtype`, to `start`, in this buffer's type.
    pub(crate) fn put_shard(&mut self, start: usize, shard: &Shard, dtype: DType) {
        match (self, shard) {
            (Self::Host(flat), Shard::Host(shard)) => flat.put_bytes(start, shard.bytes(), dtype),
            #[cfg(feature = "cube")]
            (Self::Device(flat), Shard::Device(shard)) => flat.put(start, shard.tensor()),
            #[cfg(feature = "cube")]
            _ => wrong_device(),
        }
    }

    /// Copies the elements `from` of another buffer of this type to `start`.
    pub(crate) fn put_part(&mut self, start: usize, other: &Self, from: Range<usize>) {
        match (self, other) {
            (Self::Host(flat), Self::Host(other)) => flat.put_part(start, other, from),
            #[cfg(feature = "cube")]
            (Self::Device(flat), Self::Device(other)) => flat.put(start, other.part(from)),
            #[cfg(feature = "cube")]
            _ => wrong_device(),
        }
    }

    /// The same numbers in another type.
    pub(crate) fn cast(self, dtype: DType) -> Self {
        match self {
            Self::Host(flat) => Self::Host(flat.cast(dtype)),
            #[cfg(feature = "cube")]
            Self::Device(flat) => Self::Device(flat.cast(dtype)),
        }
    }

    /// All elements, widened.
    pub(crate) fn numbers(&self) -> Result<Vec<f64>> {
        match self {
            Self::Host(flat) => Ok(flat.numbers()),
            #[cfg(feature = "cube")]
            Self::Device(flat) => Ok(flat.download()?.numbers()),
        }
    }

    /// Whether every element of some ranges is a number; what lies around them is one.
    pub(crate) fn is_finite(&self, ranges: &[Range<usize>]) -> Result<bool> {
        match self {
            Self::Host(flat) => Ok(ranges.iter().all(|range| flat.is_finite(range.clone()))),
            // One reading of the device, not one a parameter.
            #[cfg(feature = "cube")]
            Self::Device(flat) => flat.is_finite(),
        }
    }

    /// Adds another buffer of the same length.
    pub(crate) fn add(&mut self, other: &Self) {
        match (self, other) {
            (Self::Host(flat), Self::Host(other)) => flat.add(other),
            #[cfg(feature = "cube")]
            (Self::Device(flat), Self::Device(other)) => flat.add(other),
            #[cfg(feature = "cube")]
            _ => wrong_device(),
        }
    }

    /// Multiplies every element.
    pub(crate) fn scale(&mut self, by: f64) {
        either!(self, flat => flat.scale(by))
    }

    /// The sum of squares of some ranges of elements; what lies around them is zero.
    ///
    /// Computed in f64 on the host, in f32 on a GPU.
    pub(crate) fn squares(&self, ranges: &[Range<usize>]) -> Result<f64> {
        match self {
            Self::Host(flat) => Ok(ranges.iter().map(|range| flat.squares(range.clone())).sum()),
            #[cfg(feature = "cube")]
            Self::Device(flat) => flat.squares(),
        }
    }

    /// No more writing from here on.
    pub(crate) fn share(self) -> SharedFlat {
        match self {
            Self::Host(flat) => SharedFlat::Host(flat.share()),
            #[cfg(feature = "cube")]
            Self::Device(flat) => SharedFlat::Device(flat.share()),
        }
    }
}

impl SharedFlat {
    /// The elements from `start` on as a tensor of `shape`, without a copy where the backend allows.
    pub(crate) fn view(&self, start: usize, shape: &[usize]) -> Primitive {
        match self {
            Self::Host(flat) => Primitive::Host(flat.view(start, shape)),
            #[cfg(feature = "cube")]
            Self::Device(flat) => Primitive::Device(flat.view(start, shape)),
        }
    }

    /// The same as a tensor with storage of its own.
    pub(crate) fn copy(&self, start: usize, shape: &[usize]) -> Primitive {
        match self {
            Self::Host(flat) => Primitive::Host(flat.copy(start, shape)),
            #[cfg(feature = "cube")]
            Self::Device(flat) => Primitive::Device(flat.copy(start, shape)),
        }
    }

    /// All its elements as bytes, copied to the host if they are not there.
    pub(crate) fn read(&self) -> Result<Cow<'_, [u8]>> {
        match self {
            Self::Host(flat) => Ok(flat.all().into()),
            #[cfg(feature = "cube")]
            Self::Device(flat) => Ok(flat.read()?.into()),
        }
    }
}
