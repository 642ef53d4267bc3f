//! A sharding strategy, by its name on the command line.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A strategy: `single`, `ddp`, `zero1`, `zero2`, `fsdp` or `hybrid:N`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Strategy(String);

impl Strategy {
    /// Why it cannot run on so many ranks, if so.
    pub fn refuses(&self, ranks: usize) -> Option<String> {
        if self.0 == "single" && ranks > 1 {
            return Some(format!("single is for one rank, and there are {ranks}"));
        }
        let group: usize = self.0.strip_prefix("hybrid:")?.parse().ok()?;
        (!ranks.is_multiple_of(group))
            .then(|| format!("groups of {group} do not divide {ranks} ranks"))
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Strategy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let group = text.strip_prefix("hybrid:").map(str::parse::<usize>);
        match (text, group) {
            ("single" | "ddp" | "zero1" | "zero2" | "fsdp", _) => Ok(Self(text.into())),
            (_, Some(Ok(1..))) => Ok(Self(text.into())),
            _ => Err("expected single, ddp, zero1, zero2, fsdp or hybrid:N".into()),
        }
    }
}
