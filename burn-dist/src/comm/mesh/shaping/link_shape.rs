//! The bandwidth and the latency of the link between two nodes, as `--link` takes them.

use crate::error::{Error, Result};
use std::fmt::{self, Display};
use std::str::FromStr;
use std::time::Duration;

/// Bits per second that are accepted.
const BANDWIDTHS: (f64, f64) = (1e3, 100e9);
/// Nanoseconds that are accepted.
const LATENCIES: (f64, f64) = (1e3, 10e9);
/// The units, as `tc` spells them, with their bits per second or nanoseconds; the largest first.
const BIT_UNITS: [(&str, u64); 4] = [
    ("gbit", 1_000_000_000),
    ("mbit", 1_000_000),
    ("kbit", 1000),
    ("bit", 1),
];
const TIME_UNITS: [(&str, u64); 3] = [("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1000)];
/// What is accepted, for messages.
const EXPECTED: &str = "BANDWIDTH,LATENCY such as 1gbit,5ms: from 1kbit to 100gbit (bit, kbit, mbit or gbit per \
                        second), from 1us to 10s one way (us, ms or s)";

/// The bandwidth and the one-way latency of the link between two nodes, spelled as `tc` does.
///
/// ```
/// use burn_dist::comm::mesh::LinkShape;
/// use std::time::Duration;
///
/// let link: LinkShape = "1gbit,5ms".parse()?;
/// assert_eq!((link.bandwidth(), link.latency()), (1_000_000_000, Duration::from_millis(5)));
/// // 12.5 MB take a tenth of a second to send, and arrive 5 ms later.
/// assert_eq!(link.time_of(12_500_000), Duration::from_millis(105));
/// # Ok::<(), burn_dist::Error>(())
/// ```
///
/// # Source
/// Linux: `tc qdisc add dev eth0 root netem rate 1gbit delay 5ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LinkShape {
    /// Bits per second.
    bandwidth: u64,
    /// Nanoseconds.
    latency: u64,
}

impl LinkShape {
    /// Bits per second, in each direction.
    pub fn bandwidth(&self) -> u64 {
        self.bandwidth
    }

    /// How long a byte is on its way, in one direction.
    pub fn latency(&self) -> Duration {
        Duration::from_nanos(self.latency)
    }

    /// How long so many bytes take from the first one's departure to the last one's arrival, on an idle link.
    pub fn time_of(&self, bytes: u64) -> Duration {
        self.sending(bytes) + self.latency()
    }

    /// How long so many bytes occupy the sender's side.
    pub(super) fn sending(&self, bytes: u64) -> Duration {
        let nanos = u128::from(bytes) * 8_000_000_000 / u128::from(self.bandwidth);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

impl FromStr for LinkShape {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let read = || {
            let (bandwidth, latency) = text.split_once(',')?;
            Some(Self {
                bandwidth: quantity(bandwidth, &BIT_UNITS, BANDWIDTHS)?,
                latency: quantity(latency, &TIME_UNITS, LATENCIES)?,
            })
        };
        read().ok_or_else(|| {
            let found: String = text.chars().take(60).collect();
            Error::config("link", EXPECTED, format!("{found:?}"))
        })
    }
}

/// A decimal number with one of the units, if it is within the bounds.
fn quantity(text: &str, units: &[(&str, u64)], (least, most): (f64, f64)) -> Option<u64> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(end);
    let (_, scale) = units.iter().find(|(name, _)| *name == unit)?;
    let value = number.parse::<f64>().ok()? * *scale as f64;
    (least..=most)
        .contains(&value)
        .then_some(value.round() as u64)
}

impl Display for LinkShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = |value: u64, units: &[(&'static str, u64)]| {
            let unit = units.iter().find(|(_, scale)| value.is_multiple_of(*scale));
            unit.map(|(name, scale)| format!("{}{name}", value / scale))
        };
        let bandwidth = whole(self.bandwidth, &BIT_UNITS).unwrap_or_default();
        // Less than a microsecond is left only of a fraction.
        let latency = whole(self.latency, &TIME_UNITS)
            .unwrap_or_else(|| format!("{}us", self.latency as f64 / 1e3));
        write!(f, "{bandwidth},{latency}")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> LinkShape {
        text.parse().unwrap()
    }

    #[test]
    fn bandwidth_and_latency_are_read_as_tc_spells_them() {
        for (text, bandwidth, micros, shown) in [
            ("1gbit,5ms", 1_000_000_000, 5000, "1gbit,5ms"),
            ("100mbit,250us", 100_000_000, 250, "100mbit,250us"),
            ("2.5gbit,1s", 2_500_000_000, 1_000_000, "2500mbit,1s"),
            (" 64000bit , 0.5ms ", 64_000, 500, "64kbit,500us"),
            ("1000bit,10s", 1000, 10_000_000, "1kbit,10s"),
            ("100gbit,1us", 100_000_000_000, 1, "100gbit,1us"),
        ] {
            let link = read(text);
            assert_eq!(link.bandwidth(), bandwidth);
            assert_eq!(link.latency(), Duration::from_micros(micros));
            assert_eq!(link.to_string(), shown);
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_spelling() {
        for text in [
            "",
            "0",
            "1gbit",
            "1gbit,",
            ",5ms",
            "1gbit 5ms",
            "5ms,1gbit",
            "0gbit,5ms",
            "1gbit,0ms",
            "1,5ms",
            "1gbit,5",
            "1gb,5ms",
            "1GBit,5ms",
            "1gbit,5min",
            "-1gbit,5ms",
            "1gbit,-5ms",
            "+1gbit,5ms",
            "1e3mbit,5ms",
            "1.2.3gbit,5ms",
            ".,.",
            ".gbit,5ms",
            "999bit,5ms",
            "101gbit,5ms",
            "1gbit,11s",
            "1gbit,0.5us",
            "99999999999999999999999999gbit,5ms",
            "NaNgbit,5ms",
            "1gbit,5ms,1%",
        ] {
            let error = text.parse::<LinkShape>().unwrap_err().to_string();
            let words = ["link", "1gbit,5ms", "kbit", "us, ms or s", text];
            assert!(words.iter().all(|word| error.contains(word)), "{error}");
        }
    }

    #[test]
    fn the_time_of_bytes_is_that_of_the_formula() {
        let link = read("100mbit,5ms");
        assert_eq!(link.time_of(0), Duration::from_millis(5));
        assert_eq!(link.time_of(1_250_000), Duration::from_millis(105));
        assert!(read("1kbit,1us").time_of(u64::MAX) > Duration::from_secs(1 << 30));
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_reading(text in ".{0,40}", near in "[0-9.]{0,9}[kmg]?bit,[0-9.]{0,9}[mu]?s") {
            for text in [text, near] {
                if let Ok(link) = text.parse::<LinkShape>() {
                    prop_assert_eq!(link.to_string().parse(), Ok(link));
                }
            }
        }
    }
}
