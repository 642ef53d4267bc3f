//! Numbers as a report writes them.

/// Seconds, with three digits that count.
pub(super) fn seconds(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0} s"),
        v if v >= 10.0 => format!("{v:.1} s"),
        v if v >= 0.1 => format!("{v:.2} s"),
        v => format!("{:.1} ms", 1e3 * v),
    }
}

/// Bytes, in units of a thousand.
pub(super) fn bytes(value: f64) -> String {
    match value {
        v if v >= 1e10 => format!("{:.1} GB", v / 1e9),
        v if v >= 1e9 => format!("{:.2} GB", v / 1e9),
        v if v >= 1e7 => format!("{:.1} MB", v / 1e6),
        v if v >= 1e6 => format!("{:.2} MB", v / 1e6),
        v => format!("{:.1} kB", v / 1e3),
    }
}

/// A share in percent.
pub(super) fn percent(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}

/// A share in percent with a decimal.
pub(super) fn exact_percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// A factor.
pub(super) fn times(factor: f64) -> String {
    format!("{factor:.2}x")
}

/// An accuracy or a loss.
pub(super) fn score(value: f64) -> String {
    format!("{value:.3}")
}

/// Samples in a second.
pub(super) fn per_second(value: f64) -> String {
    if value >= 100.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.1}")
    }
}
