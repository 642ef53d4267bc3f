//! A rank that is killed while others copy from its memory: no rank takes what it has read for data.

use super::process::Group;
use super::program::Instructions;
use burn_dist::comm::SpanMut;
use burn_dist::{Error, Result, World};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(12);
/// Elements of a rank's shard: reading one takes milliseconds.
const SHARD: usize = 4 << 20;

/// The program of a rank: gathers without end, each of other numbers, and checks what came.
pub(super) fn run(instructions: &Instructions, world: &World) -> Result<()> {
    let (rank, size) = (world.rank(), world.size());
    let mut all = vec![0u32; size * SHARD];
    let number = |round: u32, rank: usize| round * 16 + rank as u32;
    for round in 0.. {
        all[rank * SHARD..(rank + 1) * SHARD].fill(number(round, rank));
        let label = "shards".into();
        world
            .comm()
            .all_gather_in_place(&label, SpanMut::of(&mut all))?;
        for (owner, shard) in all.chunks(SHARD).enumerate() {
            if shard.iter().any(|found| *found != number(round, owner)) {
                return Err(Error::user(format!("wrong elements from rank {owner}")));
            }
        }
        if round == 2 {
            instructions.announce("at", rank);
        }
    }
    Ok(())
}

#[test]
fn killed_while_others_read_its_memory() {
    for (case, transport) in ["shm", "shm", "shm", "shm", "ring"].into_iter().enumerate() {
        let (faulty, size) = (case % 3, 3);
        let mut group = Group::new(format!("Kill of rank {faulty}, gathering, {transport}"));
        group.set("FAULTS_ACT", "gather");
        group.set("BURN_DIST_TRANSPORT", transport);
        group.set("BURN_DIST_HEARTBEAT", 20);
        group.world(size);
        for rank in 0..size {
            group.until_file(&format!("at-{rank}"));
        }
        // Another moment of a gather in each case.
        std::thread::sleep(Duration::from_millis(7 * case as u64));
        let injected = group.signal(faulty, "KILL");
        let survivors: Vec<usize> = (0..size).filter(|rank| *rank != faulty).collect();
        let took = group.ends(&survivors, injected, LIMIT);
        group.say(took);
        for rank in survivors {
            group.expect_code(rank, 1);
            let lost = format!("rank {faulty} is lost: its process closed the connection");
            group.expect(&group.error(rank), &[&lost, "all_gather of shards"]);
        }
        group.gone();
    }
}
