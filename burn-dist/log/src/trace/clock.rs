//! The clocks of all hosts, compared with rank 0's.

use burn_dist::comm::{Span, SpanMut};
use burn_dist::{Result, World};

/// How often clocks are compared.
const ROUNDS: usize = 9;

/// By how many microseconds each rank's clock is ahead of rank 0's, in rank order. Collective.
///
/// All ranks read their clocks as they leave a barrier, several times, and the median of the differences counts. Its error is how far
/// apart ranks leave a barrier: tens of microseconds in a local network. Ranks of one host share its clock, so the difference of its
/// first rank is that of all, and on rank 0's host it is 0.
///
/// # Errors
/// What a collective returns.
pub(super) fn offsets(world: &World, hosts: &[String]) -> Result<Vec<i64>> {
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        world.comm().barrier(&"clocks".into())?;
        let mine = [world.tracer().now_us() as i64];
        let mut all = vec![0_i64; world.size()];
        let comm = world.comm();
        comm.all_gather(&"clocks".into(), Span::of(&mine), SpanMut::of(&mut all))?;
        rounds.push(all);
    }
    Ok(medians(&rounds, hosts))
}

fn medians(rounds: &[Vec<i64>], hosts: &[String]) -> Vec<i64> {
    let ahead = |rank: usize| {
        let mut found: Vec<i64> = rounds.iter().map(|round| round[rank] - round[0]).collect();
        found.sort_unstable();
        found[found.len() / 2]
    };
    let first = |host: &String| hosts.iter().position(|other| other == host).unwrap_or(0);
    hosts.iter().map(|host| ahead(first(host))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_one_clock_and_rank_0s_is_right() {
        let hosts = ["a", "a", "b", "b"].map(String::from);
        let rounds = [
            vec![1000, 1090, 6010, 9000],
            vec![2000, 2007, 7500, 7000],
            vec![3000, 3001, 8020, 8000],
        ];
        assert_eq!(medians(&rounds, &hosts), [0, 0, 5020, 5020]);
    }
}
