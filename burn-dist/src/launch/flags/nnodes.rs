//! The number of hosts, as `--nnodes` takes it.

use crate::error::{Error, Result};
use crate::launch::variable::MOST_RANKS;
use std::fmt::{self, Display};
use std::str::FromStr;

/// What `--nnodes` accepts: a number of hosts, or a range `MIN:MAX`.
///
/// ```
/// use burn_dist::launch::NNodes;
///
/// assert_eq!("2".parse(), Ok(NNodes::from(2)));
/// assert_eq!("1:4".parse(), Ok(NNodes { least: 1, most: 4 }));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NNodes {
    /// With fewer hosts the world ends.
    pub least: usize,
    /// So many take part if they are there.
    pub most: usize,
}

impl NNodes {
    /// Whether the number may change from one start to the next.
    pub(super) fn is_range(self) -> bool {
        self.least < self.most
    }
}

impl From<usize> for NNodes {
    fn from(count: usize) -> Self {
        Self {
            least: count,
            most: count,
        }
    }
}

impl FromStr for NNodes {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match bounds(text) {
            Some((least, most)) => Ok(Self { least, most }),
            None => {
                let found: String = text.chars().take(60).collect();
                Err(Error::config(
                    "nnodes",
                    format!("a number of hosts from 1 to {MOST_RANKS}, or MIN:MAX of two such"),
                    format!("{found:?}"),
                ))
            }
        }
    }
}

impl Display for NNodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.least == self.most {
            self.most.fmt(f)
        } else {
            write!(f, "{}:{}", self.least, self.most)
        }
    }
}

/// The ends of a range `MIN:MAX`, or a number twice; `None` for 0, a MIN above MAX, and what is no number.
pub(super) fn bounds(text: &str) -> Option<(usize, usize)> {
    let number = |text: &str| {
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        let number = text.parse().ok().filter(|n| (1..=MOST_RANKS).contains(n));
        number.filter(|_| digits)
    };
    let (least, most) = text.split_once(':').unwrap_or((text, text));
    let ends = (number(least.trim())?, number(most.trim())?);
    (ends.0 <= ends.1).then_some(ends)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::launch::{NProc, Transport};
    use proptest::prelude::*;

    #[test]
    fn numbers_of_hosts() {
        assert_eq!("2".parse(), Ok(NNodes::from(2)));
        assert_eq!("2:2".parse(), Ok(NNodes::from(2)));
        let range: NNodes = " 1:4".parse().unwrap();
        assert_eq!((range.least, range.most, range.is_range()), (1, 4, true));
        assert_eq!(
            (range.to_string(), NNodes::from(3).to_string()),
            ("1:4".into(), "3".into())
        );
        for text in [
            "", "0", "0:0", "0:2", "4:1", "-1", "+1", "two", "1:2:3", ":", "1:", ":2",
        ] {
            let error = text.parse::<NNodes>().unwrap_err().to_string();
            assert!(
                error.contains("nnodes") && error.contains("MIN:MAX"),
                "{error}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_reading(text in ".{0,40}", digits in "[0-9:]{0,40}") {
            for text in [text, digits] {
                if let Ok(NNodes { least, most }) = text.parse() {
                    prop_assert!(0 < least && least <= most && most <= MOST_RANKS);
                }
                let _ = text.parse::<NProc>();
                let _ = text.parse::<Transport>();
            }
        }
    }
}
