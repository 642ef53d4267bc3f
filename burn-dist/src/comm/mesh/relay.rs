//! The ring and chain algorithms, for several hosts with several ranks each.
//!
//! In the direct algorithm each of a host's `k` ranks sends its data to every rank elsewhere, so the same
//! bytes cross the network `k` times. So large buffers are relayed from neighbour to neighbour and cross
//! each boundary between hosts once: an all-gather goes around a ring, a reduction along a chain. The chain
//! adds in rank order, in the precision of sums, and rounds once at its end: the result is bit for bit
//! that of the direct algorithm.

use super::super::reduce::{accumulate, finish_sum, widening};
use super::super::{Call, Dtype, Reduce};
use super::Mesh;
use super::frame::BLOCK;
use super::round::MeshRound;
use super::transfer::{Incoming, Outgoing};
use crate::error::Result;
use std::ops::Range;

/// Smaller buffers take the direct algorithm, which is one step instead of many.
pub(super) const RELAY_FROM: usize = 256 << 10;

/// Whether relaying saves traffic: several hosts, fewer than ranks, each host's ranks consecutive.
pub(super) fn is_worth_it(hosts: &[u64]) -> bool {
    let boundaries = hosts.windows(2).filter(|pair| pair[0] != pair[1]).count();
    let mut distinct = hosts.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    distinct.len() > 1 && distinct.len() < hosts.len() && distinct.len() == boundaries + 1
}

impl Mesh {
    /// Relays pieces around the ring until every rank has all; each has written its own.
    pub(super) fn ring_all_gather(
        &self,
        round: &mut MeshRound<'_>,
        call: &Call,
        parts: &mut [&mut [u8]],
    ) -> Result<()> {
        let (size, mine) = (self.members.len(), self.rank);
        let (right, left) = ((mine + 1) % size, (mine + size - 1) % size);
        for step in 0..size - 1 {
            let (sent, received) = ((mine + size - step) % size, (left + size - step) % size);
            let Ok([sent, received]) = parts.get_disjoint_mut([sent, received]) else {
                continue; // Neighbouring pieces of a ring of two or more are two pieces.
            };
            let mut sends = [Outgoing::new(right, call, sent)];
            let mut wants = [Incoming::new(left, call, received)];
            round.exchange(&mut sends, &mut wants)?;
        }
        Ok(())
    }

    /// Reduces along the chain of all ranks; `out` becomes this rank's chunk of the reduction.
    ///
    /// `chunks` are this rank's contributions, one for each rank.
    pub(super) fn chain_reduce(
        &self,
        round: &mut MeshRound<'_>,
        call: &Call,
        (dtype, op): (Dtype, Reduce),
        chunks: &[&[u8]],
        out: &mut [u8],
    ) -> Result<()> {
        let (size, mine, last) = (self.members.len(), self.rank, self.members.len() - 1);
        let wide = widening(dtype);
        let longest = BLOCK / wide;
        // 64-bit words, so that the bytes are aligned for every element type.
        let mut sums = [0, 1].map(|_| vec![0u64; BLOCK / 8]);
        let [before, after] = sums
            .each_mut()
            .map(|s| bytemuck::cast_slice_mut::<_, u8>(s));
        let mut narrow = vec![0u64; longest / 8];
        let narrow: &mut [u8] = bytemuck::cast_slice_mut(&mut narrow);
        let own = &mut *out;
        let (mut result, mut kept): (Vec<Incoming<'_>>, &mut [u8]) = if mine == last {
            (Vec::new(), own)
        } else {
            let want = Incoming::new(last, call, own).in_blocks(longest);
            (vec![want], &mut [])
        };
        // The peer and length of what the last step has computed, which the next step sends.
        let mut ready: Option<(usize, usize)> = None;
        for (chunk, block) in blocks(chunks, longest) {
            let bytes = block.len() * wide;
            let send = match ready {
                None => None,
                Some((to, len)) if mine == last => Some(Outgoing::new(to, call, &narrow[..len])),
                Some((to, len)) => Some(Outgoing::new(to, call, &after[..len])),
            };
            let mut sends: Vec<Outgoing<'_>> = send.into_iter().collect();
            let want = (mine > 0).then(|| Incoming::new(mine - 1, call, &mut before[..bytes]));
            let mut wants: Vec<Incoming<'_>> = want.into_iter().collect();
            round.exchange_and_collect(&mut sends, &mut wants, &mut result)?;
            drop((sends, wants));
            let own = &chunks[chunk][block];
            let so_far = (mine > 0).then_some(&before[..bytes]);
            accumulate(dtype, op, so_far, own, &mut after[..bytes]);
            ready = if mine == last {
                let narrow = &mut narrow[..own.len()];
                finish_sum(dtype, op, size, &after[..bytes], narrow);
                if chunk == mine {
                    let (now, later) = std::mem::take(&mut kept).split_at_mut(own.len());
                    now.copy_from_slice(narrow);
                    kept = later;
                }
                (chunk != mine).then_some((chunk, own.len()))
            } else {
                Some((mine + 1, bytes))
            };
        }
        let rest = ready.map(|(to, len)| {
            let computed = if mine == last { &*narrow } else { &*after };
            Outgoing::new(to, call, &computed[..len])
        });
        let mut sends: Vec<Outgoing<'_>> = rest.into_iter().collect();
        round.exchange(&mut sends, &mut result)
    }
}

/// All blocks of all chunks, in the order in which they pass along the chain.
fn blocks(chunks: &[&[u8]], longest: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
    let lens: Vec<usize> = chunks.iter().map(|c| c.len()).collect();
    lens.into_iter().enumerate().flat_map(move |(chunk, len)| {
        (0..len)
            .step_by(longest)
            .map(move |start| (chunk, start..len.min(start + longest)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relaying_is_for_ranks_that_share_hosts_in_runs() {
        assert!(is_worth_it(&[1, 1, 2, 2]));
        assert!(is_worth_it(&[1, 2, 2]));
        assert!(!is_worth_it(&[1, 1, 1]), "one host");
        assert!(!is_worth_it(&[1, 2, 3]), "one rank a host");
        assert!(
            !is_worth_it(&[1, 2, 1, 2]),
            "every step would cross the network"
        );
    }
}
