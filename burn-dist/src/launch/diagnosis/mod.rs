//! Which ranks wait for which, from the flight records of all ranks.
//!
//! One rank's record says in which collective it waits; which ranks did not come to it, and what they did
//! instead, shows only when all records are compared.

mod past;
mod site;

use super::rank_set::RankSet;
use crate::comm::{Event, Flight, State};
use site::{Site, stuck};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// The flight records of the ranks, and how they ended.
struct Ranking<'a> {
    flights: BTreeMap<usize, &'a Flight>,
    ends: &'a BTreeMap<usize, String>,
}

/// Says in a few lines which ranks wait for which, from the flight records that ranks have left.
///
/// `world` is the number of ranks, and `ends` says how ranks ended, as in "was killed by signal 9",
/// where that is known. Empty if there are no records.
///
/// # Cost
/// Linear in the events of all records, except that a group is as long as it has ranks.
///
/// # Source
/// PyTorch: the analyzer of its flight recorder, `torchfrtrace`.
pub fn diagnose(flights: &[Flight], world: usize, ends: &BTreeMap<usize, String>) -> String {
    let flights: BTreeMap<_, _> = flights.iter().map(|f| (f.rank, f)).collect();
    if flights.is_empty() {
        return String::new();
    }
    let ranking = Ranking { flights, ends };
    let mut text = String::new();
    let sites = ranking.sites();
    ranking.mismatches(&sites, &mut text);
    let mut wanted = BTreeSet::new();
    for (site, waiting) in &sites {
        wanted.extend(ranking.waits(site, waiting, &mut text));
    }
    let silent = (0..world).filter(|rank| !ranking.flights.contains_key(rank));
    let told: BTreeSet<_> = wanted.iter().copied().chain(silent).collect();
    ranking.last(&told, &mut text);
    if sites.is_empty() {
        ranking.behind(&mut text);
    }
    let done = ranking.flights.values().filter(|f| f.error.is_empty());
    let done: BTreeSet<_> = done.map(|f| f.rank).collect();
    if !done.is_empty() {
        let _ = writeln!(text, "{} had finished", RankSet(&done));
    }
    let stuck: BTreeSet<_> = sites.values().flatten().copied().collect();
    let origin: BTreeSet<_> = wanted.difference(&stuck).copied().collect();
    if !origin.is_empty() {
        let _ = writeln!(text, "look at {} first", RankSet(&origin));
    }
    text
}

impl<'a> Ranking<'a> {
    /// The collectives that ranks did not come out of, and these ranks.
    fn sites(&self) -> BTreeMap<Site<'a>, BTreeSet<usize>> {
        let mut sites: BTreeMap<_, BTreeSet<usize>> = BTreeMap::new();
        for (&rank, &flight) in &self.flights {
            if let Some(event) = stuck(flight) {
                sites.entry(Site::of(event)).or_default().insert(rank);
            }
        }
        sites
    }

    /// Ranks that do different things at the same point.
    fn mismatches(&self, sites: &BTreeMap<Site<'a>, BTreeSet<usize>>, text: &mut String) {
        let mut points: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (site, ranks) in sites {
            points.entry(site.point()).or_default().push((site, ranks));
        }
        for mut variants in points.into_values().filter(|v| v.len() > 1) {
            variants.sort_by_key(|(_, ranks)| std::cmp::Reverse(ranks.len()));
            let what = |site: &Site<'_>| {
                let Site {
                    op,
                    unit,
                    dtype,
                    len,
                    ..
                } = site;
                format!("{} of {unit} ({len} {dtype})", op.name())
            };
            let (most, ours) = variants[0];
            for (site, theirs) in &variants[1..] {
                let (ranks, ours) = (RankSet(theirs), RankSet(ours));
                let _ = writeln!(
                    text,
                    "{ranks} {} {} where {ours} {} {}, at #{} of {}",
                    ranks.verb("runs", "run"),
                    what(site),
                    ours.verb("runs", "run"),
                    what(most),
                    site.sequence,
                    site.group(),
                );
            }
        }
    }

    /// Says for which ranks those in one collective wait, and returns the former.
    fn waits(&self, site: &Site<'a>, at: &BTreeSet<usize>, text: &mut String) -> BTreeSet<usize> {
        let event = |rank: &usize| self.flights.get(rank).copied().and_then(stuck);
        let Some(what) = at.iter().find_map(event) else {
            return BTreeSet::new();
        };
        // A rank that came after the first had given up is one the others waited for, too.
        let gave_up = at.iter().filter_map(event);
        let gave_up = gave_up.filter(|e| e.state == State::Failed);
        let gave_up = gave_up.map(|e| e.issued_us.saturating_add(e.took_us)).min();
        let came = |rank: &usize| event(rank).map_or(0, |e| e.issued_us);
        let is_late = |rank: &&usize| gave_up.is_some_and(|end| came(rank) > end);
        let late: BTreeSet<_> = at.iter().filter(is_late).copied().collect();
        let waiting: BTreeSet<_> = at.difference(&late).copied().collect();
        let members = site.group.iter().copied();
        let absent = members.filter(|rank| !at.contains(rank) && !self.was_there(*rank, site));
        let missing: BTreeSet<_> = absent.chain(late.iter().copied()).collect();
        let ranks = RankSet(&waiting);
        let there = format!("{what} ({})", site.group());
        if !missing.is_empty() {
            let verb = ranks.verb("waits", "wait");
            let _ = writeln!(text, "{ranks} {verb} in {there} for {}", RankSet(&missing));
        } else if !self.is_disputed(site) {
            // If it is, the line about the mismatch says more.
            let verb = ranks.verb("was", "were");
            let _ = writeln!(text, "{ranks} {verb} in {there}, and everybody came");
        }
        for rank in &late {
            let ms = came(rank).saturating_sub(gave_up.unwrap_or_default()) / 1000;
            let seconds = std::time::Duration::from_millis(ms);
            let _ = writeln!(
                text,
                "rank {rank} came {seconds:?} after the first had given up"
            );
        }
        missing
    }

    /// Whether a rank has been there already, or does something else at the same point.
    fn was_there(&self, rank: usize, site: &Site<'_>) -> bool {
        let Some(flight) = self.flights.get(&rank) else {
            return false;
        };
        if stuck(flight).is_some_and(|e| Site::of(e).point() == site.point()) {
            return true;
        }
        let here = |e: &&Event| e.group == site.group;
        let same = |e: &Event| e.sequence == site.sequence && Site::of(e) == *site;
        let forgotten = flight.events.iter().find(here);
        forgotten.is_some_and(|oldest| oldest.sequence > site.sequence)
            || flight.events.iter().any(same)
    }

    /// Whether other ranks are at the same point with another collective.
    fn is_disputed(&self, site: &Site<'_>) -> bool {
        let mut stuck = self.flights.values().filter_map(|f| stuck(f)).map(Site::of);
        stuck.any(|other| other.point() == site.point() && other != *site)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::{Dtype, Op};

    const FOUR_RANKS: &[usize] = &[0, 1, 2, 3];

    fn event(group: &[usize], sequence: u64, op: Op, unit: &str, state: State) -> Event {
        Event {
            group: group.to_vec(),
            sequence,
            op,
            unit: unit.into(),
            dtype: Dtype::F32,
            len: 8,
            step: 3,
            issued_us: 1_000_000 * sequence,
            state,
            took_us: 500_000,
        }
    }

    fn gather(sequence: u64, state: State) -> Event {
        event(FOUR_RANKS, sequence, Op::AllGather, "blocks.1", state)
    }

    fn reduce(sequence: u64, state: State) -> Event {
        event(FOUR_RANKS, sequence, Op::ReduceScatter, "root", state)
    }

    fn flight(rank: usize, error: &str, events: Vec<Event>) -> Flight {
        Flight {
            rank,
            world: 4,
            host: "here".into(),
            pid: 7,
            step: 3,
            error: error.into(),
            events,
        }
    }

    /// A rank that did #16 and then something at #17.
    fn at(rank: usize, next: Event) -> Flight {
        flight(rank, "no", vec![reduce(16, State::Done), next])
    }

    fn lines(flights: &[Flight]) -> Vec<String> {
        let ends = [(2, "was killed by signal 9 (SIGKILL)".to_string())];
        let text = diagnose(flights, 4, &ends.into());
        text.lines().map(str::to_string).collect()
    }

    #[test]
    fn all_wait_for_one_that_is_gone() {
        let waits = [0, 1, 3].map(|rank| at(rank, gather(17, State::Failed)));
        let expected = [
            "ranks 0,1,3 wait in all_gather of blocks.1 #17, step 3 (group 0-3) for rank 2",
            "rank 2 left no record: it was killed by signal 9 (SIGKILL)",
            "look at rank 2 first",
        ];
        assert_eq!(lines(&waits), expected);
        let unknown = diagnose(&waits, 4, &BTreeMap::new());
        assert!(
            unknown.contains("rank 2 left no record: killed, stopped"),
            "{unknown}"
        );
    }

    #[test]
    fn one_that_went_its_own_way_says_what_it_did_last() {
        let mut flights: Vec<_> = [0, 1, 3]
            .map(|rank| at(rank, gather(17, State::Running)))
            .into();
        flights.push(flight(
            2,
            "no more disk\nat all",
            vec![reduce(16, State::Done)],
        ));
        let found = lines(&flights);
        let last = "rank 2 last called reduce_scatter of root #16, step 3: done; \
                    it ended with: no more disk";
        assert_eq!(found[1], last);
        flights[3].events.clear();
        let last = "rank 2 called no collective; it ended with: no more disk";
        assert_eq!(lines(&flights)[1], last);
    }

    #[test]
    fn what_failed_after_the_first_failure_does_not_count() {
        let waits = |rank| {
            let mut flight = at(rank, gather(17, State::Failed));
            flight.events.push(reduce(18, State::Failed));
            flight
        };
        let found = lines(&[0, 1, 3].map(waits));
        assert!(found[0].contains("#17"), "{found:?}");
        assert_eq!(found.len(), 3);
    }

    #[test]
    fn one_that_comes_too_late_was_waited_for() {
        let mut flights = FOUR_RANKS
            .iter()
            .map(|&rank| at(rank, gather(17, State::Failed)))
            .collect::<Vec<_>>();
        flights[2].events[1].issued_us += 3_000_000;
        let found = lines(&flights);
        assert!(found[0].ends_with("(group 0-3) for rank 2"), "{found:?}");
        assert_eq!(found[1], "rank 2 came 2.5s after the first had given up");
        // If all came in time, nobody is to blame.
        flights[2].events[1].issued_us -= 3_000_000;
        let site = "all_gather of blocks.1 #17, step 3 (group 0-3)";
        let expected = format!("ranks 0-3 were in {site}, and everybody came");
        assert_eq!(lines(&flights), [expected]);
    }

    #[test]
    fn ranks_that_run_different_programs_are_set_against_each_other() {
        let mut flights = vec![
            at(0, gather(17, State::Failed)),
            at(1, reduce(17, State::Failed)),
            at(2, gather(17, State::Failed)),
        ];
        let found = lines(&flights);
        let expected = "rank 1 runs reduce_scatter of root (8 f32) where ranks 0,2 run \
                        all_gather of blocks.1 (8 f32), at #17 of group 0-3";
        assert_eq!(found[0], expected);
        flights.push(at(3, gather(17, State::Failed)));
        assert_eq!(lines(&flights).len(), 1, "{:?}", lines(&flights));
        flights[1] = at(1, gather(17, State::Failed));
        flights[1].events[1].len = 9;
        assert!(lines(&flights)[0].starts_with("rank 1 runs all_gather of blocks.1 (9 f32)"));
    }

    #[test]
    fn a_chain_ends_at_its_last_link() {
        let (rows, columns): (&[usize], &[usize]) = (&[0, 1], &[1, 3]);
        let wait = |group: &[usize]| event(group, 5, Op::AllReduce, "root", State::Running);
        let flights = [
            flight(0, "no", vec![wait(rows)]),
            flight(1, "no", vec![wait(columns)]),
            flight(2, "", vec![]),
        ];
        let expected = [
            "rank 0 waits in all_reduce of root #5, step 3 (group 0,1) for rank 1",
            "rank 1 waits in all_reduce of root #5, step 3 (group 1,3) for rank 3",
            "rank 1 last called all_reduce of root #5, step 3: not over; it ended with: no",
            "rank 3 left no record: killed, stopped, still running, or on another host",
            "rank 2 had finished",
            "look at rank 3 first",
        ];
        assert_eq!(lines(&flights), expected);
    }

    #[test]
    fn ranks_that_got_through_are_not_waited_for() {
        // Rank 0 has the result already; rank 3 has forgotten that it had.
        let mut flights: Vec<_> = [1, 2]
            .map(|rank| at(rank, gather(17, State::Failed)))
            .into();
        flights.push(at(0, gather(17, State::Done)));
        flights.push(flight(3, "no", vec![reduce(2000, State::Done)]));
        let found = lines(&flights);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].starts_with("ranks 1,2 were in all_gather"),
            "{found:?}"
        );
    }

    #[test]
    fn who_is_behind_is_seen_even_if_nobody_waits() {
        let mut flights: Vec<_> = [0, 1, 3]
            .map(|rank| at(rank, gather(17, State::Done)))
            .into();
        flights.push(flight(2, "no", vec![reduce(16, State::Done)]));
        let expected = "rank 2 is behind: last reduce_scatter of root #16, step 3, where others \
                        of group 0-3 did all_gather of blocks.1 #17, step 3";
        assert_eq!(lines(&flights), [expected]);
    }

    #[test]
    fn large_worlds_take_few_lines() {
        let world: Vec<usize> = (0..2048).collect();
        let wait = |rank: usize| {
            let wait = event(&world, 17, Op::Barrier, "root", State::Failed);
            flight(rank, "no", vec![wait])
        };
        let came: Vec<_> = (0..2048)
            .filter(|r| !(8..16).contains(r))
            .map(wait)
            .collect();
        let found = diagnose(&came, 2048, &BTreeMap::new());
        assert_eq!(found.lines().count(), 3, "{found}");
        assert!(
            found.starts_with("ranks 0-7,16-2047 wait in barrier"),
            "{found}"
        );
        assert!(found.contains("for ranks 8-15\n"), "{found}");
    }

    #[test]
    fn without_records_there_is_nothing_to_say() {
        assert_eq!(lines(&[]), [""; 0]);
    }
}
