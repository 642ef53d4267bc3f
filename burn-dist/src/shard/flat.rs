//! Flat buffers and stored pieces, wherever they lie.
//!
//! The engine does the same with memory of the process and of a GPU; what differs is in `host` and
//! `device`.

#[cfg(feature = "cube")]
use super::device;
use super::host;
#[cfg(feature = "cube")]
use super::primitive::elsewhere;
use super::primitive::{Place, Primitive};
use crate::comm::Dtype;
use crate::error::{Error, Result};
use burn::tensor::{DType, Tensor};
use std::borrow::Cow;
use std::ops::Range;

/// The collectives' name of a float type.
pub(crate) fn element(dtype: DType) -> Result<Dtype> {
    match dtype {
        DType::F64 => Ok(Dtype::F64),
        DType::F32 => Ok(Dtype::F32),
        DType::F16 => Ok(Dtype::F16),
        DType::BF16 => Ok(Dtype::Bf16),
        other => Err(Error::config(
            "parameter type",
            "f64, f32, f16 or bf16",
            other.name(),
        )),
    }
}

/// What a rank stores of one parameter, at one moment; keeps the storage alive.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone)]
pub(crate) enum Piece {
    Host(host::Piece),
    #[cfg(feature = "cube")]
    Device(device::Piece),
}

/// A flat buffer that is still being filled.
#[allow(clippy::large_enum_variant)]
#[derive(Debug)]
pub(crate) enum Flat {
    Host(host::Flat),
    #[cfg(feature = "cube")]
    Device(device::Flat),
}

/// A flat buffer whose views are tensors.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone)]
pub(crate) enum Shared {
    Host(host::Shared),
    #[cfg(feature = "cube")]
    Device(device::Shared),
}

impl Piece {
    /// The contents of a tensor.
    pub(crate) fn of<const D: usize>(tensor: Tensor<D>) -> Result<Self> {
        Primitive::of(tensor).map(Self::of_primitive)
    }

    /// The contents of a primitive.
    pub(crate) fn of_primitive(primitive: Primitive) -> Self {
        match primitive {
            Primitive::Host(tensor) => Self::Host(host::Piece::of(tensor)),
            #[cfg(feature = "cube")]
            Primitive::Device(tensor) => Self::Device(device::Piece::of(tensor)),
        }
    }

    /// Its elements as bytes, copied to the host if they are not there.
    pub(crate) fn read(&self) -> Result<Cow<'_, [u8]>> {
        match self {
            Self::Host(piece) => Ok(piece.bytes().into()),
            #[cfg(feature = "cube")]
            Self::Device(piece) => Ok(piece.read()?.into()),
        }
    }

    /// How many bytes it has.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Host(piece) => piece.bytes().len(),
            #[cfg(feature = "cube")]
            Self::Device(piece) => piece.size(),
        }
    }

    /// A copy of a range of its elements, which are of type `dtype`.
    pub(crate) fn cut(&self, range: Range<usize>, dtype: DType, shape: &[usize]) -> Primitive {
        match self {
            Self::Host(piece) => {
                let size = dtype.size();
                let bytes = &piece.bytes()[range.start * size..range.end * size];
                Primitive::Host(host::tensor(bytes, dtype, shape))
            }
            #[cfg(feature = "cube")]
            Self::Device(piece) => Primitive::Device(piece.cut(range, shape)),
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

/// Whether two lists of pieces are the same memory, one by one.
pub(crate) fn same(a: &[Piece], b: &[Piece]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.is(b))
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
    pub(crate) fn zeros(len: usize, dtype: DType, place: &Place) -> Self {
        match place {
            Place::Host => Self::Host(host::Flat::zeros(len, dtype)),
            #[cfg(feature = "cube")]
            Place::Device(at) => Self::Device(device::Flat::zeros(len, dtype, at)),
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
            _ => elsewhere(),
        }
    }

    /// Copies a piece's elements, which are of type `dtype`, to `start`, in this buffer's type.
    pub(crate) fn put_piece(&mut self, start: usize, piece: &Piece, dtype: DType) {
        match (self, piece) {
            (Self::Host(flat), Piece::Host(piece)) => flat.put_bytes(start, piece.bytes(), dtype),
            #[cfg(feature = "cube")]
            (Self::Device(flat), Piece::Device(piece)) => flat.put(start, piece.tensor()),
            #[cfg(feature = "cube")]
            _ => elsewhere(),
        }
    }

    /// Copies the elements `from` of another buffer of this type to `start`.
    pub(crate) fn put_part(&mut self, start: usize, other: &Self, from: Range<usize>) {
        match (self, other) {
            (Self::Host(flat), Self::Host(other)) => flat.put_part(start, other, from),
            #[cfg(feature = "cube")]
            (Self::Device(flat), Self::Device(other)) => flat.put(start, other.part(from)),
            #[cfg(feature = "cube")]
            _ => elsewhere(),
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
            _ => elsewhere(),
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
    pub(crate) fn share(self) -> Shared {
        match self {
            Self::Host(flat) => Shared::Host(flat.share()),
            #[cfg(feature = "cube")]
            Self::Device(flat) => Shared::Device(flat.share()),
        }
    }
}

impl Shared {
    /// The elements from `start` on as a tensor of `shape`, without a copy where the place allows.
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
