//! Numbers that ranks reduce: what a value consists of, and the value again.

use crate::error::{Error, Result};
use burn::tensor::{DType, Int, Tensor, TensorData};

/// The numbers of a value, in order, each in a type that holds it exactly.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Numbers {
    pub(crate) floats: Vec<f64>,
    pub(crate) signed: Vec<i64>,
    pub(crate) unsigned: Vec<u64>,
    /// How many of each kind were read.
    read: [usize; 3],
}

impl Numbers {
    /// Adds a number with a fraction.
    pub fn push_float(&mut self, number: f64) {
        self.floats.push(number);
    }

    /// Adds a whole number with a sign.
    pub fn push_signed(&mut self, number: i64) {
        self.signed.push(number);
    }

    /// Adds a whole number without a sign.
    pub fn push_unsigned(&mut self, number: u64) {
        self.unsigned.push(number);
    }

    /// The next number with a fraction.
    ///
    /// # Errors
    /// [`Error::Config`] if more are read than were written.
    pub fn float(&mut self) -> Result<f64> {
        next(&self.floats, &mut self.read[0])
    }

    /// The next whole number with a sign.
    ///
    /// # Errors
    /// As [`float`](Self::float).
    pub fn signed(&mut self) -> Result<i64> {
        next(&self.signed, &mut self.read[1])
    }

    /// The next whole number without a sign.
    ///
    /// # Errors
    /// As [`float`](Self::float).
    pub fn unsigned(&mut self) -> Result<u64> {
        next(&self.unsigned, &mut self.read[2])
    }
}

fn next<T: Copy>(numbers: &[T], read: &mut usize) -> Result<T> {
    let number = numbers.get(*read).copied();
    *read += 1;
    number.ok_or_else(|| {
        let expected = format!("at most {} numbers of this kind", numbers.len());
        Error::config("reading a reduced value", expected, *read)
    })
}

/// A value that ranks reduce number by number: a number, a tensor, or arrays, vectors and tuples of
/// such.
///
/// Every rank gives a value of the same form. A float of any width is reduced as f64 and rounded once, at the
/// end. A tensor is read from its device, 8 bytes a number on the way, and comes back without a
/// gradient: for what is logged or decided, not for gradients.
///
/// ```
/// use burn_dist::{Numbers, Reducible, Result};
///
/// /// A type of one's own.
/// struct Score { loss: f32, samples: usize }
///
/// impl Reducible for Score {
///     fn write(&self, to: &mut Numbers) {
///         (self.loss, self.samples).write(to);
///     }
///     fn read(self, from: &mut Numbers) -> Result<Self> {
///         let (loss, samples) = (self.loss, self.samples).read(from)?;
///         Ok(Score { loss, samples })
///     }
/// }
///
/// let total = burn_dist::launch::Threads::new(3).run(|world| {
///     let score = world.sum(Score { loss: 0.5, samples: 4 })?;
///     Ok((score.loss, score.samples))
/// })?;
/// assert_eq!(total, [(1.5, 12); 3]);
/// # Ok::<(), burn_dist::Error>(())
/// ```
pub trait Reducible: Sized {
    /// Writes its numbers.
    fn write(&self, to: &mut Numbers);

    /// The same value with other numbers, in the order in which they were written.
    ///
    /// # Errors
    /// [`Error::Config`] if the type does not hold a number.
    fn read(self, from: &mut Numbers) -> Result<Self>;
}

macro_rules! number {
    ($($rust:ty: $push:ident $pop:ident),* $(,)?) => {$(
        impl Reducible for $rust {
            fn write(&self, to: &mut Numbers) {
                to.$push((*self).into());
            }

            fn read(self, from: &mut Numbers) -> Result<Self> {
                let number = from.$pop()?;
                Self::try_from(number).map_err(|_| too_large(stringify!($rust), number))
            }
        }
    )*};
}

number! {
    u8: push_unsigned unsigned, u16: push_unsigned unsigned, u32: push_unsigned unsigned,
    u64: push_unsigned unsigned, i8: push_signed signed, i16: push_signed signed,
    i32: push_signed signed, i64: push_signed signed,
}

fn too_large(kind: &str, number: impl std::fmt::Display) -> Error {
    Error::config(
        "a reduction over ranks",
        format!("a result that {kind} holds"),
        number,
    )
}

impl Reducible for usize {
    fn write(&self, to: &mut Numbers) {
        to.push_unsigned(*self as u64);
    }

    fn read(self, from: &mut Numbers) -> Result<Self> {
        let number = from.unsigned()?;
        Self::try_from(number).map_err(|_| too_large("usize", number))
    }
}

impl Reducible for f64 {
    fn write(&self, to: &mut Numbers) {
        to.push_float(*self);
    }

    fn read(self, from: &mut Numbers) -> Result<Self> {
        from.float()
    }
}

impl Reducible for f32 {
    fn write(&self, to: &mut Numbers) {
        to.push_float((*self).into());
    }

    fn read(self, from: &mut Numbers) -> Result<Self> {
        Ok(from.float()? as Self)
    }
}

impl<T: Reducible, const N: usize> Reducible for [T; N] {
    fn write(&self, to: &mut Numbers) {
        self.iter().for_each(|item| item.write(to));
    }

    fn read(self, from: &mut Numbers) -> Result<Self> {
        let items: Result<Vec<T>> = self.into_iter().map(|item| item.read(from)).collect();
        let count = |items: Vec<T>| Error::config("an array", format!("{N} items"), items.len());
        items?.try_into().map_err(count)
    }
}

impl<T: Reducible> Reducible for Vec<T> {
    fn write(&self, to: &mut Numbers) {
        self.iter().for_each(|item| item.write(to));
    }

    fn read(self, from: &mut Numbers) -> Result<Self> {
        self.into_iter().map(|item| item.read(from)).collect()
    }
}

macro_rules! tuple {
    ($($name:ident),*) => {
        impl<$($name: Reducible),*> Reducible for ($($name,)*) {
            fn write(&self, to: &mut Numbers) {
                #[allow(non_snake_case)]
                let ($($name,)*) = self;
                $($name.write(to);)*
            }

            fn read(self, from: &mut Numbers) -> Result<Self> {
                #[allow(non_snake_case)]
                let ($($name,)*) = self;
                Ok(($($name.read(from)?,)*))
            }
        }
    };
}

tuple!(A, B);
tuple!(A, B, C);
tuple!(A, B, C, D);
tuple!(A, B, C, D, E);
tuple!(A, B, C, D, E, F);

impl<const D: usize> Reducible for Tensor<D> {
    fn write(&self, to: &mut Numbers) {
        // Without `clone` no tensor can be read; its memory is shared.
        let data = self.clone().into_data().convert::<f64>();
        data.iter::<f64>().for_each(|number| to.push_float(number));
    }

    fn read(self, from: &mut Numbers) -> Result<Self> {
        let (shape, dtype, device) = (self.dims(), self.dtype(), self.device());
        let count: usize = shape.iter().product();
        let numbers: Result<Vec<f64>> = (0..count).map(|_| from.float()).collect();
        Ok(Self::from_data(
            TensorData::new(numbers?, shape),
            (&device, dtype),
        ))
    }
}

impl<const D: usize> Reducible for Tensor<D, Int> {
    fn write(&self, to: &mut Numbers) {
        let data = self.clone().into_data().convert::<i64>();
        data.iter::<i64>().for_each(|number| to.push_signed(number));
    }

    fn read(self, from: &mut Numbers) -> Result<Self> {
        let (shape, dtype, device) = (self.dims(), self.dtype(), self.device());
        let count: usize = shape.iter().product();
        let numbers: Result<Vec<i64>> = (0..count).map(|_| from.signed()).collect();
        let numbers = numbers?;
        if let Some(number) = numbers.iter().find(|number| !holds(dtype, **number)) {
            return Err(too_large(&format!("{dtype:?}"), number));
        }
        Ok(Self::from_data(
            TensorData::new(numbers, shape),
            (&device, dtype),
        ))
    }
}

/// Whether an integer type of tensors holds the number.
fn holds(dtype: DType, number: i64) -> bool {
    match dtype {
        DType::I32 => i32::try_from(number).is_ok(),
        DType::I16 => i16::try_from(number).is_ok(),
        DType::I8 => i8::try_from(number).is_ok(),
        DType::U64 => u64::try_from(number).is_ok(),
        DType::U32 => u32::try_from(number).is_ok(),
        DType::U16 => u16::try_from(number).is_ok(),
        DType::U8 => u8::try_from(number).is_ok(),
        _ => true,
    }
}
