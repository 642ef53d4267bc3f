//! Which ranks failed, and which failed first.
//!
//! When one rank fails, all others do, because they need it, and most print more and later than it does.

use super::end::{End, Ended, Outcome};
use super::signals;
use crate::error::Error;
use crate::launch::host;
use crate::launch::rank_set::RankSet;
use std::collections::BTreeSet;

/// The failure of all ranks of this host, if any failed.
#[derive(Debug)]
pub(super) struct Failure {
    /// The first failure.
    pub(super) error: Error,
    /// All of them.
    pub(super) text: String,
    /// Whether the ranks only ended as the launcher, asked to stop, had told them to.
    pub(super) expected: bool,
}

/// The failure of this host's ranks, if any failed.
pub(super) fn failure(outcome: &Outcome) -> Option<Failure> {
    let first = first(&outcome.ends)?;
    let mut failed: Vec<_> = outcome
        .ends
        .iter()
        .filter(|e| !e.end.is_success())
        .collect();
    failed.sort_by_key(|ended| (ended.rank != first.rank, ended.rank));
    let stopped = outcome.stop.map(|signal| {
        let name = signals::name(signal);
        format!("the launcher was told to stop by {name}")
    });
    let expected = stopped.is_some() && failed.iter().all(|ended| ended.ours);
    let message = |ended: &Ended| ended.error.as_ref().map(|error| error.message.clone());
    // A rank that the launcher had to kill has written no error; those that blame it have.
    let blames = |ended: &&&Ended| {
        let blamed = ended.error.as_ref().and_then(|error| error.blames);
        first.ours && blamed == Some(first.rank)
    };
    let witness = failed.iter().find(blames);
    let error = Error::Child {
        rank: first.rank,
        host: host::name(),
        status: match witness {
            Some(_) => "had to be killed".into(),
            None => first.end.to_string(),
        },
        code: witness.map_or(first.end, |witness| witness.end).code(),
        message: message(first)
            .or_else(|| message(witness?))
            .or(stopped)
            .unwrap_or_default(),
    };
    let text = if expected {
        let ranks = failed.iter().map(|ended| ended.rank).collect();
        let ranks = RankSet(&ranks);
        let verb = ranks.verb("was", "were");
        format!("{ranks} {verb} ended by the launcher's signal")
    } else {
        table(&failed, outcome.ends.len())
    };
    Some(Failure {
        error,
        text,
        expected,
    })
}

/// The failure that the others follow from. That is a rank killed by a signal from outside, as it cannot
/// write an error; else the earliest whose error does not follow from another's; else the one that the
/// others blame; else the first that ended.
pub(super) fn first(ends: &[Ended]) -> Option<&Ended> {
    let failed = || ends.iter().filter(|ended| !ended.end.is_success());
    let killed = |ended: &&Ended| matches!(ended.end, End::Killed(_)) && !ended.ours;
    let own = |ended: &&Ended| ended.error.as_ref().is_some_and(|error| !error.secondary);
    // Without a time it stands where it ended; the sort keeps that order.
    let time = |ended: &&Ended| ended.error.as_ref().and_then(|error| error.timestamp);
    let said = failed()
        .filter(own)
        .min_by_key(|ended| time(ended).unwrap_or(0));
    let blamed = failed().find_map(|ended| ended.error.as_ref()?.blames);
    let named = failed().find(|ended| Some(ended.rank) == blamed);
    let killed = failed().find(killed);
    killed.or(said).or(named).or_else(|| failed().next())
}

/// The failed ranks, one in a line, the first of them at the top.
fn table(failed: &[&Ended], ranks: usize) -> String {
    let cells: Vec<[String; 4]> = failed
        .iter()
        .map(|ended| {
            let message = ended.error.as_ref().map(|error| error.message.as_str());
            let line = message.and_then(|m| m.lines().next()).unwrap_or("-");
            let (rank, pid) = (ended.rank.to_string(), ended.pid.to_string());
            [rank, pid, ended.end.to_string(), line.to_string()]
        })
        .collect();
    let head = ["rank", "pid", "how it ended", "what it said"].map(str::to_string);
    let width = |column: usize| {
        let widths = cells.iter().chain([&head]).map(|row| row[column].len());
        widths.max().unwrap_or(0)
    };
    let row = |mark: &str, [rank, pid, end, message]: &[String; 4]| {
        let (ranks, pids, ends) = (width(0), width(1), width(2));
        format!("{mark:5}  {rank:>ranks$}  {pid:>pids$}  {end:ends$}  {message}\n")
    };
    let set: BTreeSet<_> = failed.iter().map(|ended| ended.rank).collect();
    let host = host::name();
    let mut text = format!("{} failed, of {ranks} on {host}:\n", RankSet(&set));
    text += &row("", &head);
    for (number, cells) in cells.iter().enumerate() {
        text += &row(if number == 0 { "first" } else { "" }, cells);
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::launch::ErrorFile;
    use std::time::Duration;

    fn ended(rank: usize, end: End, error: Option<(&str, bool, u64)>) -> Ended {
        let error = error.map(|(message, secondary, time)| {
            let mut error = ErrorFile::new(message, secondary, rank);
            error.timestamp = Some(time);
            error
        });
        Ended {
            rank,
            pid: 100 + rank as u32,
            end,
            ours: false,
            lived: Duration::ZERO,
            error,
        }
    }

    fn of(ends: &[Ended], stop: Option<i32>) -> Option<Failure> {
        let ends = ends.to_vec();
        failure(&Outcome { ends, stop })
    }

    fn rank(ends: &[Ended]) -> usize {
        first(ends).unwrap().rank
    }

    #[test]
    fn the_first_failure_is_not_the_first_to_end() {
        let follows = ended(0, End::Exited(1), Some(("rank 2 failed", true, 10)));
        let silent = ended(1, End::Exited(7), None);
        let own = ended(2, End::Exited(3), Some(("no more disk", false, 12)));
        let earlier = ended(3, End::Exited(4), Some(("no more luck", false, 11)));
        let killed = ended(4, End::Killed(9), None);
        let all = [follows, silent, own, earlier, killed].map(|e| e.to_owned());
        assert_eq!(rank(&all), 4);
        assert_eq!(rank(&all[..4]), 3);
        assert_eq!(rank(&all[..3]), 2);
        assert_eq!(rank(&all[..2]), 0);
        let mut ours = all.clone();
        ours[4].ours = true;
        assert_eq!(rank(&ours), 3);
        assert!(first(&[ended(0, End::Exited(0), None)]).is_none());
    }

    #[test]
    fn the_table_begins_with_the_first() {
        let ends = [
            ended(
                0,
                End::Exited(1),
                Some(("rank 2 failed: no\nand more", true, 10)),
            ),
            ended(1, End::Exited(0), None),
            ended(2, End::Exited(7), Some(("no\nand more", false, 10))),
        ];
        let failure = of(&ends, None).unwrap();
        let lines: Vec<_> = failure.text.lines().collect();
        let host = host::name();
        assert_eq!(lines[0], format!("ranks 0,2 failed, of 3 on {host}:"));
        assert_eq!(
            lines[1],
            "       rank  pid  how it ended        what it said"
        );
        assert_eq!(lines[2], "first     2  102  exited with code 7  no");
        assert_eq!(
            lines[3],
            "          0  100  exited with code 1  rank 2 failed: no"
        );
        assert_eq!(lines.len(), 4);
        let expected = Error::Child {
            rank: 2,
            host,
            status: "exited with code 7".into(),
            code: 7,
            message: "no\nand more".into(),
        };
        assert_eq!((failure.error, failure.expected), (expected, false));
    }

    #[test]
    fn one_that_had_to_be_killed_is_told_by_those_who_missed_it() {
        let mut witness = ended(0, End::Exited(1), Some(("rank 1 is lost", true, 10)));
        witness.error.as_mut().unwrap().blames = Some(1);
        let mut stuck = ended(1, End::Killed(15), None);
        stuck.ours = true;
        let failure = of(&[witness, stuck], None).unwrap();
        let expected = Error::Child {
            rank: 1,
            host: host::name(),
            status: "had to be killed".into(),
            code: 1,
            message: "rank 1 is lost".into(),
        };
        assert_eq!(failure.error, expected);
        assert!(failure.text.contains("first     1  "), "{}", failure.text);
    }

    #[test]
    fn ranks_that_end_as_they_were_told_are_no_surprise() {
        let mut told = ended(0, End::Killed(15), None);
        told.ours = true;
        let both = [told, ended(1, End::Exited(0), None)];
        let failure = of(&both, Some(2)).unwrap();
        assert!(failure.expected);
        assert!(failure.text.starts_with("rank 0 "), "{}", failure.text);
        let message = failure.error.to_string();
        assert!(
            message.ends_with(": the launcher was told to stop by SIGINT"),
            "{message}"
        );
        assert!(of(&both[1..], Some(2)).is_none());
        // Told so because another had failed: that is one.
        assert!(!of(&both, None).unwrap().expected);
    }
}
