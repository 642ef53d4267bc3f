//! Groups of ranks: who is in one, in which order, and that groups do not disturb each other.

use crate::{Launch, WORLDS, on_ranks};
use burn_dist::Result;
use burn_dist::comm::{Communicator, Reduce, Span, SpanMut};

/// The sum over the group of every member's `value`.
fn sum(comm: &Communicator, value: u64) -> Result<u64> {
    let mut buffer = [value];
    comm.all_reduce(&"sum".into(), Reduce::Sum, SpanMut::of(&mut buffer))?;
    Ok(buffer[0])
}

/// Every member's `value`, in the order of the group.
fn gather(comm: &Communicator, value: usize) -> Result<Vec<u64>> {
    let mut all = vec![0; comm.size()];
    let mine = [value as u64];
    comm.all_gather(&"gather".into(), Span::of(&mine), SpanMut::of(&mut all))?;
    Ok(all)
}

/// Checks that a group has these members, in this order, and works.
fn assert_members(group: &Communicator, world_rank: usize, members: &[usize]) -> Result<()> {
    assert_eq!(group.members(), members);
    assert_eq!(group.size(), members.len());
    assert_eq!(members[group.rank()], world_rank);
    let ranks: Vec<u64> = members.iter().map(|m| *m as u64).collect();
    assert_eq!(gather(group, world_rank)?, ranks);
    Ok(())
}

/// Split divides by color.
pub fn split_divides_by_color(launch: &impl Launch) {
    for world in WORLDS {
        on_ranks(launch, world, |comm| {
            let rank = comm.rank();
            let all: Vec<usize> = (0..world).collect();
            assert_members(comm, rank, &all)?;
            let parity: Vec<usize> = (rank % 2..world).step_by(2).collect();
            assert_members(&comm.split(rank % 2, rank)?, rank, &parity)?;
            // A color is any number.
            let color = [0, usize::MAX, 1 << 40][rank % 3];
            let thirds: Vec<usize> = (rank % 3..world).step_by(3).collect();
            assert_members(&comm.split(color, rank)?, rank, &thirds)?;
            assert_members(&comm.split(7, rank)?, rank, &all)
        });
    }
}

/// Keys order the new group.
pub fn keys_order_the_new_group(launch: &impl Launch) {
    for world in WORLDS {
        on_ranks(launch, world, |comm| {
            let rank = comm.rank();
            let backwards: Vec<usize> = (0..world).rev().collect();
            assert_members(&comm.split(0, world - rank)?, rank, &backwards)?;
            let equal: Vec<usize> = (0..world).collect();
            assert_members(&comm.split(0, 3)?, rank, &equal)?;
            // Odd ranks first, each half by rank.
            let odd = (0..world).filter(|r| r % 2 == 1);
            let order: Vec<usize> = odd.chain((0..world).step_by(2)).collect();
            assert_members(&comm.split(0, 1 - rank % 2)?, rank, &order)
        });
    }
}

/// Groups split again.
pub fn groups_split_again(launch: &impl Launch) {
    on_ranks(launch, 8, |comm| {
        let rank = comm.rank();
        // Backwards: its rank r is rank 7 - r of the world.
        let all = comm.split(0, 8 - rank)?;
        let half = all.split(all.rank() / 4, all.rank())?;
        let high = [7, 6, 5, 4];
        let low = [3, 2, 1, 0];
        assert_members(&half, rank, if rank >= 4 { &high } else { &low })?;
        let pair = half.split(half.rank() / 2, 2 - half.rank() % 2)?;
        let first = rank / 2 * 2;
        assert_members(&pair, rank, &[first, first + 1])?;
        // All four generations still work, innermost first.
        assert_eq!(sum(&pair, 1)?, 2);
        assert_eq!(sum(&half, 1)?, 4);
        assert_eq!(sum(&all, 1)?, 8);
        assert_eq!(sum(comm, 1)?, 8);
        Ok(())
    });
}

/// Rows and columns cover the world.
pub fn rows_and_columns_cover_the_world(launch: &impl Launch) {
    for (rows, columns) in [(2, 2), (2, 4), (3, 2)] {
        on_ranks(launch, rows * columns, |comm| {
            let rank = comm.rank();
            let row = comm.split(rank / columns, rank)?;
            let column = comm.split(rank % columns, rank)?;
            assert_eq!((row.size(), column.size()), (columns, rows));
            for turn in 0..20u64 {
                let mine = turn * 1000 + rank as u64;
                let whole = sum(comm, mine)?;
                let by_rows = sum(&row, mine)?;
                assert_eq!(sum(&column, by_rows)?, whole);
                let by_columns = sum(&column, mine)?;
                assert_eq!(sum(&row, by_columns)?, whole);
            }
            Ok(())
        });
    }
}

/// A group of one talks to itself.
pub fn a_group_of_one_talks_to_itself(launch: &impl Launch) {
    for world in [1, 3] {
        on_ranks(launch, world, |comm| {
            let rank = comm.rank();
            let alone = comm.split(rank, 0)?;
            assert_members(&alone, rank, &[rank])?;
            assert_eq!(sum(&alone, 5)?, 5);
            let (send, mut recv) = ([1.5f32, 2.5], [0.0f32; 2]);
            let label = "alone".into();
            let (from, to) = (Span::of(&send), SpanMut::of(&mut recv));
            alone.reduce_scatter(&label, Reduce::Mean, from, to)?;
            assert_eq!(recv, send);
            alone.broadcast(&label, 0, SpanMut::of(&mut recv))?;
            assert_eq!(recv, send);
            alone.barrier(&label)?;
            assert_members(&alone.split(9, 9)?, rank, &[rank])
        });
    }
}

/// Groups go their own way and come back.
pub fn groups_go_their_own_way_and_come_back(launch: &impl Launch) {
    on_ranks(launch, 5, |comm| {
        let rank = comm.rank();
        let group = comm.split(rank / 3, rank)?;
        // Groups count their own collectives: here one issues many more than the other.
        let turns = if rank < 3 { 50 } else { 2 };
        for turn in 0..turns {
            assert_eq!(sum(&group, turn)?, turn * group.size() as u64);
        }
        assert_eq!(sum(comm, 1)?, 5);
        // Dropping a group harms nobody.
        drop(group);
        assert_eq!(sum(comm, rank as u64)?, 10);
        Ok(())
    });
}
