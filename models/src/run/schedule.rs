//! The learning rate by step: a linear warmup, then half a cosine down to zero.

/// A pure function of the step, so that a resumed run needs no state of it.
///
/// ```
/// use burn_dist_models::run::Schedule;
///
/// let schedule = Schedule { peak: 1.0, warmup: 10, steps: 110 };
/// assert_eq!(schedule.at(4), 0.5);
/// assert_eq!(schedule.at(10), 1.0);
/// assert!((schedule.at(60) - 0.5).abs() < 1e-12);
/// ```
///
/// # Source
/// Loshchilov & Hutter, *SGDR*, 2016, without restarts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// The highest rate.
    pub peak: f64,
    /// Steps until it is reached.
    pub warmup: usize,
    /// Steps of the whole run.
    pub steps: usize,
}

impl Schedule {
    /// The rate of a step, counted from 0.
    pub fn at(&self, step: usize) -> f64 {
        if step < self.warmup {
            return self.peak * (step + 1) as f64 / self.warmup as f64;
        }
        let rest = self.steps.saturating_sub(self.warmup).max(1) as f64;
        let done = ((step - self.warmup) as f64 / rest).min(1.0);
        self.peak * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())
    }
}
