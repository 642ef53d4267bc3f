//! A set of ranks as it is printed in a message: short, also in a large world.

use std::collections::BTreeSet;
use std::fmt;

/// A set of ranks; prints as `rank 2` or `ranks 0-3,7`.
#[derive(Debug, Clone, Copy)]
pub(super) struct RankSet<'a>(pub(super) &'a BTreeSet<usize>);

impl RankSet<'_> {
    /// The form of a verb that goes with them.
    pub(super) fn verb<'v>(&self, one: &'v str, many: &'v str) -> &'v str {
        match self.0.len() {
            1 => one,
            _ => many,
        }
    }
}

impl fmt::Display for RankSet<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranges = ranges(self.0.iter().copied());
        write!(f, "{} {ranges}", self.verb("rank", "ranks"))
    }
}

/// Ascending numbers as `0-3,7`.
pub(super) fn ranges(numbers: impl IntoIterator<Item = usize>) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => runs.push((number, number)),
        }
    }
    let run = |(first, last): &(usize, usize)| match last - first {
        0 => first.to_string(),
        1 => format!("{first},{last}"),
        _ => format!("{first}-{last}"),
    };
    runs.iter().map(run).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_short() {
        let print = |ranks: &[usize]| RankSet(&ranks.iter().copied().collect()).to_string();
        assert_eq!(print(&[2]), "rank 2");
        assert_eq!(print(&[0, 1, 3]), "ranks 0,1,3");
        assert_eq!(print(&[0, 1, 2, 3, 7]), "ranks 0-3,7");
        let most: Vec<_> = (0..4096).filter(|&rank| rank != 2048).collect();
        assert_eq!(print(&most), "ranks 0-2047,2049-4095");
    }
}
