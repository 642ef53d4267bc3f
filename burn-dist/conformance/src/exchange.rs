//! All-to-all: every pair of ranks exchanges what the table says, and a table that differs moves nothing.

use crate::sample::{Sample, samples};
use crate::{Launch, WORLDS, assert_refused, every_type, on_ranks};
use burn_dist::comm::{Communicator, Label, Op, Span, SpanMut};
use burn_dist::{Error, Result};

/// A table of counts for so many ranks.
type Table = fn(usize, usize, usize) -> usize;

/// Where the numbers of one pair start: no two pairs send equal ones.
fn start(from: usize, to: usize) -> usize {
    (from * 131 + to) * 10_000_000
}

fn counts(size: usize, table: impl Fn(usize, usize) -> usize) -> Vec<usize> {
    let pairs = (0..size).flat_map(|from| (0..size).map(move |to| (from, to)));
    pairs.map(|(from, to)| table(from, to)).collect()
}

fn exchange<T: Sample>(comm: &Communicator, counts: &[usize]) -> Result<()> {
    let (me, size) = (comm.rank(), comm.size());
    let part = |from: usize, to: usize| {
        let first = start(from, to);
        samples::<T>(from, first, first + counts[from * size + to])
    };
    let send: Vec<T> = (0..size).flat_map(|to| part(me, to)).collect();
    let expected: Vec<T> = (0..size).flat_map(|from| part(from, me)).collect();
    let mut recv = vec![T::zeroed(); expected.len()];
    SpanMut::of(&mut recv).bytes_mut().fill(0x5a);
    let label = Label::from("data").with_detail("pairs");
    comm.all_to_all(&label, counts, Span::of(&send), SpanMut::of(&mut recv))?;
    assert_eq!(recv, expected);
    Ok(())
}

/// All to all exchanges what the table says.
pub fn all_to_all_exchanges_what_the_table_says(launch: &impl Launch) {
    let tables: [Table; 7] = [
        |_, _, _| 0,
        |_, _, _| 7,
        // Every pair another length, some of them none.
        |_, from, to| (5 * from + 3 * to) % 11,
        // All to one, and one to all.
        |size, _, to| if to == size - 1 { 13 } else { 0 },
        |_, from, _| if from == 0 { 1009 } else { 0 },
        // Nothing stays where it is, and nothing but that.
        |_, from, to| usize::from(from != to),
        |_, from, to| if from == to { 5 } else { 0 },
    ];
    for world in WORLDS {
        on_ranks(launch, world, |comm| {
            for table in tables {
                let counts = counts(world, |from, to| table(world, from, to));
                every_type!(exchange(comm, &counts));
            }
            Ok(())
        });
    }
}

/// Large parts arrive whole.
pub fn large_parts_arrive_whole(launch: &impl Launch) {
    for world in [2, 3, 4] {
        on_ranks(launch, world, |comm| {
            let large = |from, to| {
                if (from + to) % 3 == 2 {
                    0
                } else {
                    400_000 + 77_777 * from + to
                }
            };
            exchange::<f32>(comm, &counts(world, large))?;
            exchange::<u8>(
                comm,
                &counts(world, |_, to| if to == 0 { 1 << 20 } else { 3 }),
            )?;
            comm.barrier(&"end".into())
        });
    }
}

/// A group that was split off exchanges among its own ranks.
pub fn a_group_exchanges_among_its_own(launch: &impl Launch) {
    on_ranks(launch, 4, |comm| {
        let pair = comm.split(comm.rank() % 2, 0)?;
        exchange::<f64>(&pair, &[1, 2, 3, 0])?;
        exchange::<i32>(comm, &counts(4, |from, to| from + to))
    });
}

/// Wrong tables and lengths are refused.
pub fn wrong_tables_are_refused(launch: &impl Launch) {
    for world in [1, 3] {
        on_ranks(launch, world, |comm| {
            let label = Label::from("unit 3");
            let (all, mut recv) = (counts(world, |_, _| 2), vec![7.0f32; 2 * world]);
            let send = vec![1.0f32; 2 * world];
            let mut issue = |counts: &[usize], send: &[f32]| {
                comm.all_to_all(&label, counts, Span::of(send), SpanMut::of(&mut recv))
            };
            let short = issue(&all[1..], &send);
            assert_refused(
                short,
                &["all_to_all of unit 3", &format!("{}", world * world)],
            );
            let expected = format!("to send {} f32", 2 * world);
            assert_refused(issue(&all, &send[1..]), &[&expected]);
            let more = counts(world, |from, _| if from == comm.rank() { 2 } else { 3 });
            let refused = issue(&more, &send);
            if world > 1 {
                assert_refused(refused, &["room for"]);
            }
            let endless = vec![usize::MAX; world * world];
            if world > 1 {
                assert_refused(issue(&endless, &send), &["counts whose sum"]);
            }
            let mut others = vec![0i32; 2 * world];
            let (from, to) = (Span::of(&send), SpanMut::of(&mut others));
            assert_refused(comm.all_to_all(&label, &all, from, to), &["f32", "i32"]);
            if world > 1 {
                assert!(recv.iter().all(|x| *x == 7.0));
            }
            comm.barrier(&"after".into())
        });
    }
}

/// A table that differs on one rank is an error on all ranks, and moves nothing.
pub fn a_different_table_is_an_error_on_all_ranks(launch: &impl Launch) {
    for ranks in [2, 3] {
        // The same lengths on every rank, and the same sum: only the table tells.
        let usual = counts(ranks, |_, _| 1);
        let mut odd = usual.clone();
        let last = ranks * (ranks - 1);
        (odd[0], odd[1], odd[last], odd[last + 1]) = (2, 0, 0, 2);
        let results = launch.run(ranks, &|comm: &Communicator| {
            let table = if comm.rank() == ranks - 1 {
                &odd
            } else {
                &usual
            };
            let (send, mut recv) = (vec![1.0f32; ranks], vec![7.0f32; ranks]);
            let (from, to) = (Span::of(&send), SpanMut::of(&mut recv));
            let result = comm.all_to_all(&"table".into(), table, from, to);
            assert!(
                recv.iter().all(|x| *x == 7.0),
                "written before the calls agreed"
            );
            assert_eq!(comm.barrier(&"later".into()), result);
            result
        });
        for result in &results {
            assert_eq!(*result, results[0]);
            let Err(Error::Mismatch {
                rank,
                peer,
                ours,
                theirs,
                ..
            }) = result
            else {
                panic!("expected a mismatch, found {result:?}")
            };
            assert_eq!((*rank, *peer), (0, ranks - 1));
            assert!(
                ours.contains("all_to_all of table") && ours.contains("counts"),
                "{ours}"
            );
            assert_ne!(ours, theirs);
        }
    }
}

/// The ledger counts what leaves a rank.
pub fn the_ledger_counts_what_leaves_a_rank(launch: &impl Launch) {
    for world in WORLDS {
        on_ranks(launch, world, |comm| {
            exchange::<f32>(comm, &counts(world, |from, to| from + 2 * to))?;
            let (me, sent) = (comm.rank(), comm.ledger().of(Op::AllToAll, "data"));
            let leaves: usize = (0..world)
                .filter(|to| *to != me)
                .map(|to| me + 2 * to)
                .sum();
            let calls = u64::from(world > 1);
            assert_eq!((sent.calls, sent.bytes), (calls, 4 * leaves as u64));
            Ok(())
        });
    }
}
