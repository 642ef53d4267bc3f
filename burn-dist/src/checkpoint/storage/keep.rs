//! Which saves of a run stay.

use crate::checkpoint::format::{Best, Manifest};
use crate::error::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};

/// Which saves of a run stay, when another one is complete; the newest always does.
///
/// ```
/// use burn_dist::checkpoint::{Best, Keep};
///
/// // The last three, every thousandth step, and the best by a metric given with each save.
/// let keep = Keep::last(3)?.every(1000)?.best("loss", Best::Lowest);
/// assert!(Keep::last(0).is_err());
/// # Ok::<(), burn_dist::Error>(())
/// ```
///
/// # Source
/// Lightning: `ModelCheckpoint(save_top_k, every_n_train_steps, monitor, mode)`; Orbax: `CheckpointManagerOptions`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Keep {
    last: usize,
    every: Option<u64>,
    best: Option<(String, Best)>,
}

/// What is remembered of a save between saves.
#[derive(Debug, Clone)]
pub(in crate::checkpoint) struct Known {
    pub(in crate::checkpoint) name: String,
    pub(in crate::checkpoint) step: u64,
    pub(in crate::checkpoint) sequence: u64,
    /// By name, NaN included.
    metrics: BTreeMap<String, f64>,
    /// The metric by which the run kept the best when it was written.
    #[cfg_attr(not(feature = "object-store"), allow(dead_code))]
    pub(in crate::checkpoint) best_by: Option<(String, Best)>,
}

impl Known {
    pub(in crate::checkpoint) fn of(manifest: &Manifest) -> Self {
        let metrics = manifest.metrics.keys();
        let metrics = metrics.filter_map(|name| Some((name.clone(), manifest.metric(name)?)));
        Self {
            name: manifest.name.clone(),
            step: manifest.step,
            sequence: manifest.sequence,
            metrics: metrics.collect(),
            best_by: manifest.best_by.clone(),
        }
    }
}

impl Keep {
    /// The last so many saves.
    ///
    /// # Errors
    /// [`Error::Config`] for 0.
    pub fn last(saves: usize) -> Result<Self> {
        if saves == 0 {
            return Err(Error::config("saves to keep", "at least 1", 0));
        }
        Ok(Self {
            last: saves,
            every: None,
            best: None,
        })
    }

    /// All saves.
    pub fn all() -> Self {
        Self {
            last: usize::MAX,
            every: None,
            best: None,
        }
    }

    /// Also those of steps that are a multiple of `steps`.
    ///
    /// # Errors
    /// [`Error::Config`] for 0.
    pub fn every(self, steps: u64) -> Result<Self> {
        if steps == 0 {
            return Err(Error::config(
                "steps between saves to keep",
                "at least 1",
                0,
            ));
        }
        Ok(Self {
            every: Some(steps),
            ..self
        })
    }

    /// Also the best by a metric, which each save must have then; NaN is never the best, and of equal ones the first
    /// is.
    pub fn best(self, metric: impl Into<String>, best: Best) -> Self {
        Self {
            best: Some((metric.into(), best)),
            ..self
        }
    }

    /// The metric by which the best is kept.
    pub(in crate::checkpoint) fn best_by(&self) -> Option<&(String, Best)> {
        self.best.as_ref()
    }

    /// The name of the best of these.
    pub(in crate::checkpoint) fn best_of<'a>(&self, saves: &'a [Known]) -> Option<&'a str> {
        let (name, best) = self.best.as_ref()?;
        let better = |a: f64, b: f64| match best {
            Best::Lowest => a < b,
            Best::Highest => a > b,
        };
        let mut found: Option<(&Known, f64)> = None;
        let mut saves: Vec<&Known> = saves.iter().collect();
        saves.sort_by_key(|save| save.sequence);
        for save in saves {
            let metric = save.metrics.get(name).copied();
            let Some(metric) = metric.filter(|metric| !metric.is_nan()) else {
                continue;
            };
            if found.is_none_or(|(_, known)| better(metric, known)) {
                found = Some((save, metric));
            }
        }
        found.map(|(save, _)| save.name.as_str())
    }

    /// The names of those of these that do not stay.
    pub(in crate::checkpoint) fn superfluous(&self, saves: &[Known]) -> Vec<String> {
        let mut newest: Vec<&Known> = saves.iter().collect();
        newest.sort_by_key(|save| std::cmp::Reverse(save.sequence));
        let last = newest.iter().take(self.last);
        let mut stay: BTreeSet<&str> = last.map(|save| save.name.as_str()).collect();
        stay.extend(self.best_of(saves));
        let every = |save: &&&Known| self.every.is_some_and(|n| save.step.is_multiple_of(n));
        stay.extend(newest.iter().filter(every).map(|save| save.name.as_str()));
        let others = newest
            .iter()
            .filter(|save| !stay.contains(save.name.as_str()));
        others.map(|save| save.name.clone()).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn saves(metrics: &[Option<f64>]) -> Vec<Known> {
        let save = |(at, metric): (usize, &Option<f64>)| Known {
            name: format!("s{at}"),
            step: 10 * at as u64,
            sequence: at as u64,
            metrics: metric.iter().map(|x| ("m".to_string(), *x)).collect(),
            best_by: None,
        };
        metrics.iter().enumerate().map(save).collect()
    }

    #[test]
    fn the_last_every_kth_and_the_best_stay() {
        let metrics = [3.0, f64::NAN, 1.0, 1.0, 2.0, 5.0, f64::INFINITY].map(Some);
        let all = saves(&metrics);
        let gone = |keep: Keep| keep.superfluous(&all);
        assert_eq!(gone(Keep::last(5).unwrap()), ["s1", "s0"]);
        assert_eq!(gone(Keep::all()), [""; 0]);
        let keep = Keep::last(1).unwrap().every(20).unwrap();
        assert_eq!(gone(keep.clone()), ["s5", "s3", "s1"]);
        let lowest = keep.clone().best("m", Best::Lowest);
        assert_eq!(lowest.best_of(&all), Some("s2"));
        let highest = Keep::last(1).unwrap().best("m", Best::Highest);
        assert_eq!(highest.best_of(&all), Some("s6"));
        assert_eq!(highest.best_of(&saves(&[Some(f64::NAN), None])), None);
    }

    #[test]
    fn keeping_nothing_is_an_error() {
        assert!(Keep::last(0).is_err());
        assert!(Keep::last(1).unwrap().every(0).is_err());
    }

    proptest! {
        #[test]
        fn the_newest_and_the_best_never_go(
            metrics in proptest::collection::vec(proptest::option::of(any::<f64>()), 1..20),
            last in 1usize..5,
            every in 1u64..50,
        ) {
            let all = saves(&metrics);
            let keep = Keep::last(last).unwrap().every(every).unwrap().best("m", Best::Highest);
            let gone = keep.superfluous(&all);
            let newest = format!("s{}", all.len() - 1);
            prop_assert!(!gone.contains(&newest));
            if let Some(best) = keep.best_of(&all) {
                prop_assert!(!gone.iter().any(|name| name == best));
            }
        }
    }
}
