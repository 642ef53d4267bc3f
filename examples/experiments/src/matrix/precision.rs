//! What a run computes and gathers in.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A precision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32 bits.
    F32,
    /// Half precision with the exponent of f32.
    Bf16,
    /// Half precision with a loss scale.
    F16,
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        })
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "f32" | "32" => Ok(Self::F32),
            "bf16" => Ok(Self::Bf16),
            "f16" | "fp16" | "16" => Ok(Self::F16),
            _ => Err("expected f32, bf16 or f16 (32 and 16 are the first and the last)".into()),
        }
    }
}
