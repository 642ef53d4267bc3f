//! Finds ranks that are slower than the others for long, from the times of each step.

use crate::record::Straggler;
use std::collections::VecDeque;
use std::io;

/// What one rank did in a step, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RankTimes {
    /// Waiting for the next batch.
    pub data: f64,
    /// Forward, backward and optimizer, without communication for which they waited.
    pub compute: f64,
    /// Communication for which computation waited.
    pub exposed: f64,
}

/// By how much a rank is slower than the others before it is named: 1.2 is 20 %.
const SLOW: f64 = 1.2;
/// Below this it is as fast as the others again; half of what names it, so that a rank that hovers about 20 % is named
/// once.
const NORMAL: f64 = 1.1;
/// Steps that it must be as fast in a row before it may be named again.
const RECOVERY: usize = 20;
/// Steps of which the median is taken.
///
/// Seven: a rank that is slow from some step on is named at its fourth slow step, within the ten asked for even if
/// noise hides some of them, and three slow steps of seven, such as those that save or collect garbage, name nobody.
///
/// Noise of 10 % either way: with two ranks, whose times are `u` and `v`, uniform from 0.9 to 1.1, a step has
/// `u / v > 1.2` for `v` up to `1.1 / 1.2 = 0.9167` and `u` from `1.2 v`: a triangle of `0.0167 * 0.02 / 2` of the
/// square of `0.2 * 0.2`, or 0.4 % of the steps. The median exceeds 1.2 where four of seven steps do:
/// `35 * 0.0042^4`, about 1e-8 per step and rank, 2e-5 in 1000 steps of two ranks. Five steps would give
/// `10 * 0.0042^3`, about 7e-7, and a false name in one of 700 such runs. With more ranks the median of the others
/// varies less than one of them, and it is rarer still.
const WINDOW: usize = 7;

/// Compares ranks step by step, and names one that is slower than the median of the others by more than 20 %.
///
/// A rank's own time is data and compute. A slow one is named for whichever of both exceeds the others' by more, `data`
/// or `compute`. One whose own time is not that much longer, but together with its exposed communication is, is named
/// for what exceeds most, as a rule `network`. Ranks that wait for each other in every step end it at the same time,
/// so `network` shows only where a rank ends its steps later than others, as in a pipeline or at a slow link of
/// its own.
///
/// Each step gives the ratio of a rank's time to the median of the others in this very step, so a step that is longer
/// for all tells nothing; the median of these ratios over seven steps counts. A slow rank is named at its fourth slow
/// step; fewer slow steps out of seven, or noise of 10 %, name nobody. It is named again only after 20 steps within
/// 10 % of the others.
///
/// It keeps seven steps; a step costs one sort of the ranks for each of five quantities.
///
/// ```
/// use burn_dist_log::{RankTimes, StragglerWatch};
///
/// let hosts = ["a", "a", "b"].map(String::from);
/// let mut watch = StragglerWatch::new(hosts);
/// let times = |compute| RankTimes { data: 0.01, compute, exposed: 0.0 };
/// let mut named = Vec::new();
/// for step in 1..=10 {
///     named.extend(watch.step(step, &[times(0.5), times(0.5), times(0.7)])?);
/// }
/// assert_eq!((named.len(), named[0].rank, named[0].host.as_str()), (1, 2, "b"));
/// assert_eq!(named[0].cause, "compute");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct StragglerWatch {
    ranks: Vec<Rank>,
}

/// What is known of one rank.
#[derive(Debug, Clone)]
struct Rank {
    host: String,
    recent: VecDeque<Compared>,
    /// Where it has been named: for how many steps it has been as fast as the others since.
    named: Option<usize>,
}

/// A rank beside the median of the others in one step.
#[derive(Debug, Clone, Copy)]
struct Compared {
    /// Its own time by theirs.
    own: f64,
    /// Its own time with exposed communication by theirs.
    whole: f64,
    /// Seconds more than theirs.
    data: f64,
    compute: f64,
    exposed: f64,
}

impl StragglerWatch {
    /// Watches as many ranks as there are hosts, each the host of a rank, in rank order.
    pub fn new(hosts: impl IntoIterator<Item = String>) -> Self {
        let ranks = hosts.into_iter().map(|host| Rank {
            host,
            recent: VecDeque::with_capacity(WINDOW),
            named: None,
        });
        Self {
            ranks: ranks.collect(),
        }
    }

    /// Takes the times of a step, one of each rank, and returns who is newly named. Of one rank it names nobody.
    ///
    /// # Errors
    ///
    /// If there are not as many times as ranks, or a time is negative or not finite; such a step is left out.
    pub fn step(&mut self, step: u64, times: &[RankTimes]) -> io::Result<Vec<Straggler>> {
        self.check(step, times)?;
        let quantity = |of: fn(&RankTimes) -> f64| {
            let values: Vec<f64> = times.iter().map(of).collect();
            let others = medians_of_others(&values);
            values.into_iter().zip(others)
        };
        let own = quantity(|times| times.data + times.compute).map(ratio);
        let whole = quantity(|times| times.data + times.compute + times.exposed).map(ratio);
        let data = quantity(|times| times.data).map(excess);
        let compute = quantity(|times| times.compute).map(excess);
        let exposed = quantity(|times| times.exposed).map(excess);
        let compared = own.zip(whole).zip(data).zip(compute).zip(exposed);
        let mut named = Vec::new();
        for (rank, ((((own, whole), data), compute), exposed)) in compared.enumerate() {
            let compared = Compared {
                own,
                whole,
                data,
                compute,
                exposed,
            };
            let watched = &mut self.ranks[rank];
            if let Some((ratio, cause)) = watched.take(compared) {
                named.push(Straggler {
                    rank,
                    host: watched.host.clone(),
                    step,
                    ratio,
                    cause: cause.into(),
                });
            }
        }
        Ok(named)
    }

    fn check(&self, step: u64, times: &[RankTimes]) -> io::Result<()> {
        let odd = |text: String| Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        let (expected, found) = (self.ranks.len(), times.len());
        if expected != found {
            return odd(format!(
                "stragglers are watched among {expected} ranks, but step {step} has the times of {found}"
            ));
        }
        for (rank, times) in times.iter().enumerate() {
            let all = [times.data, times.compute, times.exposed];
            if !all.iter().all(|time| time.is_finite() && *time >= 0.0) {
                return odd(format!(
                    "rank {rank} reports {times:?} for step {step}, but times are seconds, 0 or more"
                ));
            }
        }
        Ok(())
    }
}

impl Rank {
    /// Takes one more step; the ratio and the cause if it is newly named.
    fn take(&mut self, compared: Compared) -> Option<(f64, &'static str)> {
        if self.recent.len() == WINDOW {
            self.recent.pop_front();
        }
        self.recent.push_back(compared);
        if self.recent.len() < WINDOW {
            return None;
        }
        let over = |of: fn(&Compared) -> f64| median(self.recent.iter().map(of).collect());
        let (own, whole) = (over(|c| c.own), over(|c| c.whole));
        if let Some(steps) = &mut self.named {
            let is_normal = own < NORMAL && whole < NORMAL;
            *steps = if is_normal { *steps + 1 } else { 0 };
            if *steps == RECOVERY {
                self.named = None;
            }
            return None;
        }
        let (data, compute) = (over(|c| c.data), over(|c| c.compute));
        let of_own = [("data", data), ("compute", compute)];
        let of_whole = [of_own[0], of_own[1], ("network", over(|c| c.exposed))];
        let found = match (own > SLOW, whole > SLOW) {
            (true, _) => Some((own, most(of_own))),
            (false, true) => Some((whole, most(of_whole))),
            (false, false) => None,
        };
        self.named = found.map(|_| 0);
        found
    }
}

/// The name of the largest, the last of several.
fn most<const N: usize>(excesses: [(&'static str, f64); N]) -> &'static str {
    let largest = excesses.into_iter().max_by(|a, b| a.1.total_cmp(&b.1));
    largest.map_or("", |(name, _)| name)
}

/// A value by the median of the others; 1 where they took no time, as there is nothing to compare with.
fn ratio((value, others): (f64, f64)) -> f64 {
    if others > 0.0 { value / others } else { 1.0 }
}

fn excess((value, others): (f64, f64)) -> f64 {
    value - others
}

/// For each value the median of all others; of none itself, which makes a single rank like the others.
fn medians_of_others(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut medians = values.to_vec();
    let Some(others) = values.len().checked_sub(1).filter(|others| *others > 0) else {
        return medians;
    };
    for (place, &rank) in order.iter().enumerate() {
        // The others are sorted as all are, with this one left out.
        let other = |at: usize| values[order[at + usize::from(at >= place)]];
        medians[rank] = (other((others - 1) / 2) + other(others / 2)) / 2.0;
    }
    medians
}

/// The middle one of an odd number of values.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests;
