//! What collectives move: contiguous elements of one type, as bytes.
//!
//! A span carries its element type as a value, so engines are not generic over it; only reductions
//! use it.

use bytemuck::Pod;
use half::{bf16, f16};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The element types that collectives accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dtype {
    /// IEEE double precision.
    F64,
    /// IEEE single precision.
    F32,
    /// IEEE half precision; reductions accumulate in f32.
    F16,
    /// Brain float; reductions accumulate in f32.
    Bf16,
    /// Signed 64 bit.
    I64,
    /// Signed 32 bit.
    I32,
    /// Signed 8 bit.
    I8,
    /// Unsigned 64 bit.
    U64,
    /// Unsigned 32 bit.
    U32,
    /// Bytes.
    U8,
}

impl Dtype {
    /// Size of one element in bytes.
    pub fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 | Self::U64 => 8,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::I8 | Self::U8 => 1,
        }
    }

    /// Whether the bytes are whole elements of this type and aligned for it.
    pub(super) fn is_aligned(self, bytes: &[u8]) -> bool {
        let address = bytes.as_ptr().addr();
        bytes.is_empty()
            || (bytes.len().is_multiple_of(self.size()) && address.is_multiple_of(self.size()))
    }

    /// The name used in messages and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::F64 => "f64",
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::I64 => "i64",
            Self::I32 => "i32",
            Self::I8 => "i8",
            Self::U64 => "u64",
            Self::U32 => "u32",
            Self::U8 => "u8",
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A Rust type that is the element of a span.
pub trait Element: Pod + Send + Sync {
    /// Its type as a value.
    const DTYPE: Dtype;
}

macro_rules! element {
    ($($rust:ty => $dtype:ident),* $(,)?) => {
        $(impl Element for $rust { const DTYPE: Dtype = Dtype::$dtype; })*
    };
}

element!(f64 => F64, f32 => F32, f16 => F16, bf16 => Bf16, i64 => I64, i32 => I32, i8 => I8,
         u64 => U64, u32 => U32, u8 => U8);

/// What a collective reads.
#[derive(Debug, Clone, Copy)]
pub struct Span<'a> {
    bytes: &'a [u8],
    dtype: Dtype,
}

impl<'a> Span<'a> {
    /// The elements of a slice.
    pub fn of<T: Element>(elements: &'a [T]) -> Self {
        Self::new(bytemuck::cast_slice(elements), T::DTYPE)
    }

    /// Bytes that hold whole elements of `dtype`, aligned for it.
    pub fn new(bytes: &'a [u8], dtype: Dtype) -> Self {
        Self { bytes, dtype }
    }

    /// The bytes.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The element type.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.dtype.size()
    }

    /// Whether there is nothing to move.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// What a collective writes.
#[derive(Debug)]
pub struct SpanMut<'a> {
    bytes: &'a mut [u8],
    dtype: Dtype,
}

impl<'a> SpanMut<'a> {
    /// The elements of a slice.
    pub fn of<T: Element>(elements: &'a mut [T]) -> Self {
        Self::new(bytemuck::cast_slice_mut(elements), T::DTYPE)
    }

    /// Bytes that hold whole elements of `dtype`, aligned for it.
    pub fn new(bytes: &'a mut [u8], dtype: Dtype) -> Self {
        Self { bytes, dtype }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        self.bytes
    }

    /// The bytes, for writing.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.bytes
    }

    /// The element type.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.dtype.size()
    }

    /// Whether there is nothing to move.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}
