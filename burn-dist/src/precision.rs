//! In which types a sharded model computes and communicates, as a value.
//!
//! What a rank stores is always f32 under a policy: an optimizer that adds small steps to large
//! numbers needs the bits. Everything that passes by, gathered weights, activations, gradients on
//! the wire, may be narrower.

use crate::error::{Error, Result};
use burn::tensor::{DType, FloatDType};
use serde::{Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// The types of gathered parameters, of reductions, and of what a model returns.
///
/// Four types are in play. Three are fields, each `None` for "as stored"; the fourth, that of the
/// stored shards and so of the optimizer, is f32 as soon as any field is set.
///
/// Inputs of [`unit`](crate::unit()) are cast to `param_dtype`, because Burn's operations refuse
/// mixed types; what the outermost call returns is cast to `output_dtype`.
///
/// # Cost
/// A gather moves elements of `param_dtype`, a reduction elements of `reduce_dtype`. FSDP gathers
/// twice and reduces once: 12 bytes per parameter in f32, 8 under [`bf16`](Self::bf16), 6 if that
/// reduces in bf16 too.
///
/// ```
/// use burn::tensor::FloatDType;
/// use burn_dist::{Precision, Strategy};
///
/// let precision = Precision::bf16().reduce(FloatDType::BF16);
/// let strategy = Strategy::fsdp().precision(precision);
/// assert_eq!("bf16".parse::<Precision>()?, Precision::bf16());
/// # let _ = strategy;
/// # Ok::<(), burn_dist::Error>(())
/// ```
///
/// # Source
/// PyTorch: `MixedPrecisionPolicy` of `fully_shard`; Micikevicius et al., *Mixed Precision
/// Training*, ICLR 2018.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Precision {
    /// What units are gathered and computed in.
    pub param_dtype: Option<FloatDType>,
    /// What gradients are summed over ranks in.
    pub reduce_dtype: Option<FloatDType>,
    /// What the outermost [`unit`](crate::unit()) returns.
    pub output_dtype: Option<FloatDType>,
}

impl Precision {
    /// No policy: everything in the type the model has.
    pub fn full() -> Self {
        Self::default()
    }

    /// Computes in bf16, reduces and returns in f32. Needs no loss scaling.
    pub fn bf16() -> Self {
        Self::half(FloatDType::BF16)
    }

    /// Computes in f16, reduces and returns in f32. Use a [`GradScaler`](crate::GradScaler) with
    /// it: small gradients are zero in f16.
    pub fn f16() -> Self {
        Self::half(FloatDType::F16)
    }

    fn half(dtype: FloatDType) -> Self {
        Self {
            param_dtype: Some(dtype),
            reduce_dtype: Some(FloatDType::F32),
            output_dtype: Some(FloatDType::F32),
        }
    }

    /// The same with reductions in another type: half the bytes, and the rounding of a sum.
    pub fn reduce(self, dtype: FloatDType) -> Self {
        Self {
            reduce_dtype: Some(dtype),
            ..self
        }
    }

    /// The same with another type for what the model returns.
    pub fn output(self, dtype: FloatDType) -> Self {
        Self {
            output_dtype: Some(dtype),
            ..self
        }
    }

    /// Whether nothing is to be cast.
    pub fn is_full(&self) -> bool {
        *self == Self::default()
    }

    /// The type stored for a parameter of type `given`.
    pub(crate) fn stored(&self, given: DType) -> DType {
        if self.is_full() { given } else { DType::F32 }
    }

    /// The type in which a parameter that is stored as `stored` is gathered and computed with; bytes of quantized ones
    /// are gathered as they are.
    pub(crate) fn computed(&self, stored: DType) -> DType {
        let policy = self.param_dtype.filter(|_| stored.is_float());
        policy.map_or(stored, DType::from)
    }

    /// The type in which its gradient is summed over ranks.
    pub(crate) fn reduced(&self, stored: DType) -> DType {
        self.reduce_dtype.map_or(stored, DType::from)
    }

    /// Returns if the engine can do this.
    ///
    /// # Errors
    /// [`Error::Config`] for a type that is neither f32 nor a half.
    pub(crate) fn check(&self) -> Result<()> {
        let fields = [
            ("param_dtype", self.param_dtype),
            ("reduce_dtype", self.reduce_dtype),
            ("output_dtype", self.output_dtype),
        ];
        let known = |dtype: FloatDType| {
            matches!(dtype, FloatDType::F32 | FloatDType::F16 | FloatDType::BF16)
        };
        match fields
            .into_iter()
            .find(|(_, dtype)| dtype.is_some_and(|d| !known(d)))
        {
            Some((field, Some(dtype))) => {
                let name = DType::from(dtype).name();
                Err(Error::config(field, "f32, bf16 or f16", name))
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let presets = [
            (Self::full(), "f32"),
            (Self::bf16(), "bf16"),
            (Self::f16(), "f16"),
        ];
        if let Some((_, name)) = presets.iter().find(|(preset, _)| preset == self) {
            return f.write_str(name);
        }
        let name = |dtype: Option<FloatDType>| {
            dtype.map_or("as stored", |dtype| DType::from(dtype).name())
        };
        let (param, reduce, output) = (
            name(self.param_dtype),
            name(self.reduce_dtype),
            name(self.output_dtype),
        );
        write!(f, "{param}, reduced in {reduce}, returned in {output}")
    }
}

/// As its name.
impl Serialize for Precision {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for Precision {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "f32" | "32" => Ok(Self::full()),
            "bf16" => Ok(Self::bf16()),
            "f16" | "fp16" | "16" => Ok(Self::f16()),
            _ => Err(Error::config("precision", "f32, bf16 or f16", text)),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for name in ["f32", "bf16", "f16"] {
            assert_eq!(name.parse::<Precision>().unwrap().to_string(), name);
        }
        let error = "f8".parse::<Precision>().unwrap_err().to_string();
        assert_eq!(error, "precision: expected f32, bf16 or f16, found f8");
    }

    #[test]
    fn only_a_policy_changes_what_is_stored() {
        let (half, double) = (DType::BF16, DType::F64);
        assert_eq!(Precision::full().stored(half), half);
        assert_eq!(Precision::bf16().stored(half), DType::F32);
        assert_eq!(Precision::full().computed(double), double);
    }

    #[test]
    fn a_type_without_collectives_is_refused() {
        let error = Precision::bf16().reduce(FloatDType::F64).check();
        let text = error.unwrap_err().to_string();
        assert_eq!(text, "reduce_dtype: expected f32, bf16 or f16, found f64");
    }
}
