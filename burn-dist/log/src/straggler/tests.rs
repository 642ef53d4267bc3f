//! Tests of who is named, when, and for what.
#![allow(clippy::unwrap_used)]

use super::{RankTimes, StragglerWatch, median, medians_of_others};
use crate::Straggler;

fn watch(ranks: usize) -> StragglerWatch {
    StragglerWatch::new((0..ranks).map(|rank| format!("host{}", rank / 2)))
}

const USUAL: RankTimes = RankTimes {
    data: 0.1,
    compute: 1.0,
    exposed: 0.2,
};

/// Steps with usual times but for what `change` makes of those of rank 1.
fn run(ranks: usize, steps: u64, mut change: impl FnMut(u64, &mut RankTimes)) -> Vec<Straggler> {
    let mut watch = watch(ranks);
    let steps = (1..=steps).map(|step| {
        let mut times = vec![USUAL; ranks];
        change(step, &mut times[1]);
        watch.step(step, &times).unwrap()
    });
    steps.flatten().collect()
}

/// Uniform from 0.9 to 1.1, from a fixed seed (SplitMix64).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        0.9 + 0.2 * ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn on(&mut self, times: RankTimes) -> RankTimes {
        let factor = self.next();
        RankTimes {
            data: times.data * factor,
            compute: times.compute * factor,
            exposed: times.exposed * self.next(),
        }
    }
}

#[test]
fn a_rank_slower_by_thirty_percent_is_named_once_and_soon() {
    for ranks in [2, 3, 4, 8, 64] {
        for begin in [1, 2, 5, 50] {
            let named = run(ranks, 200, |step, times| {
                if step >= begin {
                    times.compute *= 1.3;
                    times.data *= 1.3;
                }
            });
            assert_eq!(named.len(), 1, "{ranks} ranks from {begin}: {named:?}");
            assert_eq!((named[0].rank, named[0].cause.as_str()), (1, "compute"));
            assert_eq!(named[0].host, "host0");
            assert!((named[0].ratio - 1.3).abs() < 1e-9);
            // The fourth slow step; a run that begins slow has seven steps first.
            assert_eq!(named[0].step, (begin + 3).max(7));
        }
    }
}

#[test]
fn with_noise_a_slow_rank_is_still_named_within_ten_steps() {
    // 99 of 100 in a run of two ranks; the more others, the surer.
    for (ranks, least) in [(2, 196), (3, 198), (8, 200)] {
        let in_time = (0..200).filter(|seed| {
            let mut noise = Noise(*seed);
            let mut watch = watch(ranks);
            let mut named = Vec::new();
            for step in 1..=110 {
                let mut times: Vec<RankTimes> = (0..ranks).map(|_| noise.on(USUAL)).collect();
                if step > 100 {
                    times[0].compute *= 1.3;
                    times[0].data *= 1.3;
                }
                named.extend(watch.step(step, &times).unwrap());
            }
            assert!(
                named
                    .iter()
                    .all(|named| named.rank == 0 && named.step > 100)
            );
            named.len() == 1
        });
        let in_time = in_time.count();
        assert!(in_time >= least, "{ranks} ranks: {in_time} of 200");
    }
}

#[test]
fn noise_of_ten_percent_names_nobody_in_a_thousand_steps() {
    for ranks in [2, 3, 4, 16] {
        for seed in 0..50 {
            let mut noise = Noise(1000 * seed + ranks as u64);
            let mut watch = watch(ranks);
            for step in 1..=1000 {
                let times: Vec<RankTimes> = (0..ranks).map(|_| noise.on(USUAL)).collect();
                assert_eq!(watch.step(step, &times).unwrap(), [], "seed {seed}");
            }
        }
    }
}

#[test]
fn single_slow_steps_name_nobody() {
    let hundredfold = |every: u64| {
        run(4, 500, move |step, times| {
            if step % every == 0 {
                times.compute *= 100.0;
            }
        })
    };
    assert_eq!(hundredfold(3), []);
    assert_eq!(hundredfold(50), []);
    // Three in a row, as of a long save.
    let save = run(2, 100, |step, times| {
        if (20..23).contains(&step) {
            times.data += 5.0;
        }
    });
    assert_eq!(save, []);
}

#[test]
fn steps_that_are_longer_for_all_name_nobody() {
    let mut watch = watch(3);
    for step in 1..=100 {
        let longer = 1.0 + (step % 10) as f64;
        let times = RankTimes {
            compute: longer,
            ..USUAL
        };
        assert_eq!(watch.step(step, &[times; 3]).unwrap(), []);
    }
}

#[test]
fn the_cause_is_what_takes_longer() {
    let cause = |change: fn(&mut RankTimes)| {
        let named = run(4, 30, |_, times| change(times));
        assert!(named.len() < 2);
        named.first().map(|named| (named.rank, named.cause.clone()))
    };
    let named = |cause: &str| Some((1, cause.to_string()));
    assert_eq!(cause(|times| times.data += 0.3), named("data"));
    assert_eq!(cause(|times| times.compute += 0.3), named("compute"));
    assert_eq!(
        cause(|times| (times.data, times.compute) = (0.3, 1.1)),
        named("data")
    );
    assert_eq!(cause(|times| times.exposed += 0.3), named("network"));
    // It waits for others, as it works faster: they are no faster than it.
    let waits = |times: &mut RankTimes| (times.compute, times.exposed) = (0.5, 0.7);
    assert_eq!(cause(waits), None);
    // A rank as slow in its own time is named for that, however long it then waits.
    let both = |times: &mut RankTimes| (times.compute, times.exposed) = (1.5, 5.0);
    assert_eq!(cause(both), named("compute"));
    assert_eq!(cause(|times| times.compute += 0.15), None);
}

#[test]
fn a_rank_is_named_again_only_after_it_was_normal() {
    let slow_in = |steps: &[std::ops::Range<u64>]| {
        let named = run(3, 300, |step, times| {
            if steps.iter().any(|steps| steps.contains(&step)) {
                times.compute *= 1.5;
            }
        });
        named.iter().map(|named| named.step).collect::<Vec<_>>()
    };
    assert_eq!(slow_in(&[20..40, 50..70, 80..100]), [23]);
    assert_eq!(slow_in(&[20..40, 100..120]), [23, 103]);
    // At 15 % it is neither named nor as fast as the others.
    let hovering = run(3, 400, |step, times| {
        times.compute *= match step % 100 {
            0..20 => 1.5,
            _ => 1.15,
        }
    });
    assert_eq!(hovering.len(), 1);
}

#[test]
fn of_several_slow_ranks_each_is_named() {
    let mut watch = watch(6);
    let mut named = Vec::new();
    for step in 1..=20 {
        let mut times = [USUAL; 6];
        times[2].compute = 1.5;
        times[5].data = 0.9;
        named.extend(watch.step(step, &times).unwrap());
    }
    let named = named
        .iter()
        .map(|named| (named.rank, &*named.cause, &*named.host));
    let expected = [(2, "compute", "host1"), (5, "data", "host2")];
    assert_eq!(named.collect::<Vec<_>>(), expected);
}

#[test]
fn nothing_to_compare_names_nobody() {
    for ranks in [0, 1] {
        let mut watch = watch(ranks);
        for step in 1..=20 {
            assert_eq!(watch.step(step, &vec![USUAL; ranks]).unwrap(), []);
        }
    }
    let mut watch = watch(2);
    for step in 1..=20 {
        let times = [USUAL, RankTimes::default()];
        assert_eq!(watch.step(step, &times).unwrap(), []);
    }
}

#[test]
fn times_that_cannot_be_are_errors() {
    let mut watch = watch(2);
    let short = watch.step(7, &[USUAL]).unwrap_err().to_string();
    assert!(
        short.contains("among 2 ranks, but step 7 has the times of 1"),
        "{short}"
    );
    for odd in [f64::NAN, f64::INFINITY, -0.1] {
        let times = RankTimes { data: odd, ..USUAL };
        let error = watch.step(8, &[USUAL, times]).unwrap_err().to_string();
        assert!(error.contains("rank 1 reports"), "{error}");
    }
}

#[test]
fn medians_leave_the_value_itself_out() {
    assert_eq!(medians_of_others(&[1.0, 2.0]), [2.0, 1.0]);
    assert_eq!(medians_of_others(&[3.0, 1.0, 2.0]), [1.5, 2.5, 2.0]);
    assert_eq!(medians_of_others(&[4.0]), [4.0]);
    let mut noise = Noise(3);
    for ranks in 2..20 {
        let values: Vec<f64> = (0..ranks).map(|_| noise.next()).collect();
        for (rank, found) in medians_of_others(&values).into_iter().enumerate() {
            let mut others = values.clone();
            others.remove(rank);
            others.sort_by(f64::total_cmp);
            let (low, high) = (others[(ranks - 2) / 2], others[(ranks - 1) / 2]);
            assert_eq!(found, (low + high) / 2.0);
        }
    }
    assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
}
