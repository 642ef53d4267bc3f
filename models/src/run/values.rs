//! Values on a command line, and what is said about others.

/// A share of something, neither none nor all of it.
pub(super) fn share(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if share > 0.0 && share < 1.0 => Ok(share),
        _ => Err("expected a number above 0 and below 1".into()),
    }
}

/// A count that cannot be 0.
pub(super) fn at_least_1(text: &str) -> std::result::Result<usize, String> {
    match text.parse::<usize>() {
        Ok(count) if count > 0 => Ok(count),
        _ => Err("expected a whole number of at least 1".into()),
    }
}

/// A learning rate.
pub(super) fn rate(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate >= 0.0 => Ok(rate),
        _ => Err("expected a finite number that is not negative".into()),
    }
}

/// A factor by which something falls from step to step.
pub(super) fn factor(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(factor) if factor > 0.0 && factor <= 1.0 => Ok(factor),
        _ => Err("expected a number above 0 and at most 1".into()),
    }
}

/// The norm to clip at.
pub(super) fn bound(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(bound) if bound.is_finite() && bound > 0.0 => Ok(bound),
        _ => Err("expected a finite number above 0".into()),
    }
}

/// A probability with which something is dropped.
pub(super) fn probability(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(p) if (0.0..1.0).contains(&p) => Ok(p),
        _ => Err("expected a number from 0 to below 1".into()),
    }
}
