//! A digest of the frozen weights that adapters belong to.

use crate::comm::{Reduce, SpanMut};
use crate::error::Result;
use crate::shard::StoredShards;
use crate::world::World;

/// The key of the digest in the metadata of a file of adapters.
pub(super) const KEY: &str = "burn_dist.base";

/// A number that depends on every element of a sharded model's frozen parameters, and not on how they are sharded.
///
/// Each element is hashed with its parameter and place, and the hashes are added, wrapping. Collective.
///
/// # Cost
/// About a nanosecond for each element that this rank stores, and an all-reduce of 8 bytes.
pub(super) fn digest(world: &World, stored: &StoredShards) -> Result<String> {
    let mut mine = 0u64;
    for unit in &stored.units {
        let layout = &unit.sharding.unit(unit.number).layout;
        if layout.trainable || !unit.sharding.is_counted_here(unit.number) {
            continue;
        }
        let rank = unit.sharding.shard_rank(unit.number);
        let size = layout.dtype.size();
        for (slot, shard) in unit.shards.iter().enumerate() {
            let Some(shard) = shard else { continue };
            // Not by the standard library's hasher, which may change with the compiler: this is kept in files.
            let name = layout.slots[slot].path.bytes();
            let key = name.fold(ODD, |key, byte| mixed(key ^ u64::from(byte)));
            let first = layout.shard_range(slot, rank).start as u64;
            for (at, element) in shard.read()?.chunks_exact(size).enumerate() {
                let mut bits = [0; 8];
                bits[..size].copy_from_slice(element);
                let place = key.wrapping_add((first + at as u64).wrapping_mul(ODD));
                mine = mine.wrapping_add(mixed(place ^ mixed(u64::from_le_bytes(bits))));
            }
        }
    }
    let mut all = [mine];
    let label = "digest of the frozen weights".into();
    world
        .comm()
        .all_reduce(&label, Reduce::Sum, SpanMut::of(&mut all))?;
    Ok(format!("{:016x}", all[0]))
}

const ODD: u64 = 0x9e37_79b9_7f4a_7c15;

/// A permutation of the 64-bit numbers in which every bit depends on every other.
///
/// # Source
/// The finaliser of SplitMix64: Steele et al., *Fast Splittable Pseudorandom Number Generators*, OOPSLA 2014.
fn mixed(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
