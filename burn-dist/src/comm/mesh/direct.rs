//! The direct algorithm: every rank receives from every other one what it needs, and reduces it itself.

use super::super::reduce::reduce;
use super::super::{Call, Dtype, Reduce};
use super::Mesh;
use super::frame::BLOCK;
use super::round::MeshRound;
use super::transfer::{Incoming, Outgoing};
use crate::error::Result;
use std::ops::Range;

impl Mesh {
    /// Receives every rank's part of one chunk, block by block, and reduces it to `out`.
    ///
    /// `own` is this rank's part; `sends` go out meanwhile.
    pub(super) fn reduce_chunk(
        &self,
        round: &mut MeshRound<'_>,
        call: &Call,
        (dtype, op): (Dtype, Reduce),
        sends: &mut [Outgoing<'_>],
        own: Chunk<'_>,
    ) -> Result<()> {
        let (peers, len) = (self.members.len() - 1, own.len());
        let longest = BLOCK.min(len);
        // 64-bit words, so that the bytes are aligned for every element type.
        let stride = longest.div_ceil(8);
        let mut scratch = vec![0u64; stride * peers];
        let scratch: &mut [u8] = bytemuck::cast_slice_mut(&mut scratch);
        let mut own = own;
        for start in (0..len).step_by(BLOCK) {
            let n = BLOCK.min(len - start);
            let targets = scratch.chunks_mut(stride * 8).zip(self.peers());
            let mut wants: Vec<_> = targets
                .map(|(target, peer)| Incoming::new(peer, call, &mut target[..n]))
                .collect();
            round.receive(sends, &mut wants)?;
            drop(wants);
            let mut sources: Vec<&[u8]> = scratch.chunks(stride * 8).map(|s| &s[..n]).collect();
            own.reduce(dtype, op, self.rank, &mut sources, start..start + n);
        }
        round.exchange(sends, &mut [])
    }
}

/// This rank's own chunk, and where its reduction is written.
pub(super) enum Chunk<'a> {
    /// To another buffer.
    Separate(&'a [u8], &'a mut [u8]),
    /// Over the chunk itself, by way of a scratch buffer.
    InPlace(&'a mut [u8], Vec<u64>),
}

impl Chunk<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Separate(own, _) => own.len(),
            Self::InPlace(own, _) => own.len(),
        }
    }

    /// Reduces one block of `sources` and of this chunk, which is that of `rank`.
    fn reduce<'s>(
        &'s mut self,
        dtype: Dtype,
        op: Reduce,
        rank: usize,
        sources: &mut Vec<&'s [u8]>,
        block: Range<usize>,
    ) {
        match self {
            Self::Separate(own, out) => {
                sources.insert(rank, &own[block.clone()]);
                reduce(dtype, op, sources, &mut out[block], None);
            }
            Self::InPlace(own, sum) => {
                sum.resize(block.len().div_ceil(8), 0);
                let sum: &mut [u8] = &mut bytemuck::cast_slice_mut(sum)[..block.len()];
                let mut all = sources.clone();
                all.insert(rank, &own[block.clone()]);
                reduce(dtype, op, &all, sum, None);
                own[block].copy_from_slice(sum);
            }
        }
    }
}

/// Splits bytes into consecutive parts, one per rank.
pub(super) fn split_parts(
    bytes: &mut [u8],
    len: impl Fn(usize) -> usize,
    ranks: usize,
) -> Vec<&mut [u8]> {
    let mut rest = bytes;
    (0..ranks)
        .map(|rank| {
            let (part, others) = std::mem::take(&mut rest).split_at_mut(len(rank));
            rest = others;
            part
        })
        .collect()
}

/// This rank's part, and those of the others.
pub(super) fn take_own<'a>(
    parts: &'a mut [&mut [u8]],
    rank: usize,
) -> (&'a mut [u8], Vec<&'a mut [u8]>) {
    let (mut own, mut others): (&mut [u8], _) = (&mut [], Vec::with_capacity(parts.len()));
    for (owner, part) in parts.iter_mut().enumerate() {
        if owner == rank {
            own = part;
        } else {
            others.push(&mut **part);
        }
    }
    (own, others)
}
