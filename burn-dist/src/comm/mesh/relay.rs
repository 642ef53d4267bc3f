//! What changes where several ranks share a host, and several hosts a network.
//!
//! If each of a host's `k` ranks sent its data to every rank elsewhere, the same bytes would cross
//! the network `k` times. So large buffers are handed on from neighbour to neighbour, and cross
//! each boundary between hosts once: a gather goes around in a ring, a reduction along a chain. The
//! chain adds in rank order, in the precision of sums, and rounds once at its end: the result is bit
//! for bit that of the direct way.

use super::super::reduce::{accumulate, complete, widening};
use super::super::{Call, Dtype, Reduce};
use super::Mesh;
use super::frame::BLOCK;
use super::round::Round;
use super::transfer::{Incoming, Outgoing};
use crate::error::Result;
use std::ops::Range;

/// Buffers below this take the direct way, which is one step instead of many.
pub(super) const RELAY_FROM: usize = 256 << 10;

/// Whether handing on pays: several hosts, fewer than ranks, each host's ranks in one run.
pub(super) fn pays(hosts: &[u64]) -> bool {
    let boundaries = hosts.windows(2).filter(|pair| pair[0] != pair[1]).count();
    let mut distinct = hosts.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    distinct.len() > 1 && distinct.len() < hosts.len() && distinct.len() == boundaries + 1
}

impl Mesh {
    /// Hands pieces around the ring until every rank has all; each has written its own.
    pub(super) fn gather_around(
        &self,
        round: &mut Round<'_>,
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

    /// Adds along the chain of all ranks; `out` becomes this rank's chunk of the reduction.
    ///
    /// `chunks` are this rank's contributions, one for each rank.
    pub(super) fn reduce_along(
        &self,
        round: &mut Round<'_>,
        call: &Call,
        (dtype, op): (Dtype, Reduce),
        chunks: &[&[u8]],
        out: &mut [u8],
    ) -> Result<()> {
        let (size, mine, last) = (self.members.len(), self.rank, self.members.len() - 1);
        let wide = widening(dtype);
        let most = BLOCK / wide;
        // Words, so that the bytes are aligned for every element type.
        let mut sums = [0, 1].map(|_| vec![0u64; BLOCK / 8]);
        let [before, after] = sums
            .each_mut()
            .map(|s| bytemuck::cast_slice_mut::<_, u8>(s));
        let mut narrow = vec![0u64; most / 8];
        let narrow: &mut [u8] = bytemuck::cast_slice_mut(&mut narrow);
        let own = &mut *out;
        let (mut result, mut kept): (Vec<Incoming<'_>>, &mut [u8]) = match mine == last {
            true => (Vec::new(), own),
            false => (
                vec![Incoming::new(last, call, own).in_blocks(most)],
                &mut [],
            ),
        };
        // What the last step has made, and who is to have it.
        let mut ready: Option<(usize, usize)> = None;
        for (chunk, block) in blocks(chunks, most) {
            let bytes = block.len() * wide;
            let send = match ready {
                None => None,
                Some((to, len)) if mine == last => Some(Outgoing::new(to, call, &narrow[..len])),
                Some((to, len)) => Some(Outgoing::new(to, call, &after[..len])),
            };
            let mut sends: Vec<Outgoing<'_>> = send.into_iter().collect();
            let want = (mine > 0).then(|| Incoming::new(mine - 1, call, &mut before[..bytes]));
            let mut wants: Vec<Incoming<'_>> = want.into_iter().collect();
            round.pass_on(&mut sends, &mut wants, &mut result)?;
            drop((sends, wants));
            let own = &chunks[chunk][block];
            let so_far = (mine > 0).then_some(&before[..bytes]);
            accumulate(dtype, op, so_far, own, &mut after[..bytes]);
            ready = match mine == last {
                false => Some((mine + 1, bytes)),
                true => {
                    let narrow = &mut narrow[..own.len()];
                    complete(dtype, op, size, &after[..bytes], narrow);
                    if chunk == mine {
                        let (now, later) = std::mem::take(&mut kept).split_at_mut(own.len());
                        now.copy_from_slice(narrow);
                        kept = later;
                    }
                    (chunk != mine).then_some((chunk, own.len()))
                }
            };
        }
        let rest = ready.map(|(to, len)| match mine == last {
            true => Outgoing::new(to, call, &narrow[..len]),
            false => Outgoing::new(to, call, &after[..len]),
        });
        let mut sends: Vec<Outgoing<'_>> = rest.into_iter().collect();
        round.exchange(&mut sends, &mut result)
    }
}

/// All blocks of all chunks, in the order in which they go along the chain.
fn blocks(chunks: &[&[u8]], most: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
    let lens: Vec<usize> = chunks.iter().map(|c| c.len()).collect();
    lens.into_iter().enumerate().flat_map(move |(chunk, len)| {
        (0..len)
            .step_by(most)
            .map(move |start| (chunk, start..len.min(start + most)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handing_on_pays_where_ranks_share_hosts_in_runs() {
        assert!(pays(&[1, 1, 2, 2]));
        assert!(pays(&[1, 2, 2]));
        assert!(!pays(&[1, 1, 1]), "one host");
        assert!(!pays(&[1, 2, 3]), "one rank a host");
        assert!(!pays(&[1, 2, 1, 2]), "every step would cross the network");
    }
}
