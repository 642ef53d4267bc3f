//! The link between nodes that a run is given: how fast, and how far.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Two nodes in one rack: 10 Gbit/s, 50 microseconds one way.
pub const NEAR: &str = "10gbit,50us";

/// Two nodes in two regions of a provider: 500 Mbit/s, 15 milliseconds one way.
pub const FAR: &str = "500mbit,15ms";

/// A link between nodes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Link {
    /// Its name: `near`, `far`, or its shape.
    pub label: String,
    /// Bandwidth and latency, as `--link` of a run takes them.
    pub shape: String,
}

/// A value of the axis: a link, or nodes connected as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MaybeLink(pub Option<Link>);

impl Link {
    fn of(label: &str, shape: &str) -> Self {
        Self {
            label: label.into(),
            shape: shape.into(),
        }
    }

    /// The near link.
    pub fn near() -> Self {
        Self::of("near", NEAR)
    }

    /// The far link.
    pub fn far() -> Self {
        Self::of("far", FAR)
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.label)
    }
}

impl FromStr for MaybeLink {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str, units: &[&str]| {
            let end = text.find(|c: char| !c.is_ascii_digit() && c != '.');
            let (number, unit) = text.split_at(end.unwrap_or(text.len()));
            units.contains(&unit) && number.parse().is_ok_and(|n: f64| n > 0.0)
        };
        let parts = text.split_once(',');
        match (text, parts) {
            ("none", _) => Ok(Self(None)),
            ("near", _) => Ok(Self(Some(Link::near()))),
            ("far", _) => Ok(Self(Some(Link::far()))),
            (_, Some((bandwidth, latency)))
                if number(bandwidth, &["kbit", "mbit", "gbit"])
                    && number(latency, &["us", "ms", "s"]) =>
            {
                Ok(Self(Some(Link::of(text, text))))
            }
            _ => Err(format!(
                "expected none, near ({NEAR}), far ({FAR}) or BANDWIDTH,LATENCY such as 1gbit,5ms"
            )),
        }
    }
}
