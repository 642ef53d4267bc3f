//! The types of few bits in which an optimizer's states are kept.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A type of fewer bits than f32 in which an optimizer keeps its states; parameters keep theirs.
///
/// ```
/// use burn_dist_nn::optim::StateType;
///
/// assert_eq!("int8".parse(), Ok(StateType::Int8));
/// assert_eq!(StateType::Int8.bytes(1000), 1000 + 4 * 4); // a scale for each block of 256
/// assert_eq!(StateType::Bf16.bytes(1000), 2000);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StateType {
    /// Rounded to the nearest bf16: two bytes a number.
    Bf16,
    /// A code of eight bits a number, and a scale for each block of [`BLOCK`](Self::BLOCK) numbers.
    Int8,
}

impl StateType {
    /// Numbers that have a scale in common, counted from the start of a parameter.
    pub const BLOCK: usize = 256;

    /// Bytes of a state of so many numbers, which begin at a block.
    pub fn bytes(self, numbers: usize) -> usize {
        match self {
            Self::Bf16 => 2 * numbers,
            Self::Int8 => numbers + 4 * numbers.div_ceil(Self::BLOCK),
        }
    }

    /// How many numbers of a parameter have to stay together for a step to be the same: shards begin at multiples of it.
    pub fn block(self) -> usize {
        match self {
            Self::Bf16 => 1,
            Self::Int8 => Self::BLOCK,
        }
    }
}

impl fmt::Display for StateType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        })
    }
}

impl FromStr for StateType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = [Self::Bf16, Self::Int8].into_iter();
        let found = found.into_iter().find(|kind| kind.to_string() == text);
        found.ok_or_else(|| format!("expected bf16 or int8, found {text}"))
    }
}
