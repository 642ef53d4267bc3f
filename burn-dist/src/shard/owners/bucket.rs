//! Parameters that travel together: pieces to their owners, and whole ones back as pieces.

use super::job::Job;
use crate::comm::{Label, Ticket};
use crate::error::Result;
use crate::layout::UnitLayout;
use crate::shard::memory::{Flat, PendingFlat, Primitive, Residence, Shard};
use crate::shard::model::{Sharding, pieces};
use burn::tensor::DType;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// What a rank has of a parameter, stored or computed.
pub(super) enum Piece {
    Stored(Shard),
    Computed(Primitive),
}

/// The parameters of one transfer, by their numbers: those of a bucket that take part.
pub(super) struct Bucket<'a> {
    jobs: &'a [Job],
    members: Vec<usize>,
    sharding: Arc<Sharding>,
    dtype: DType,
}

impl<'a> Bucket<'a> {
    /// Those of `bucket` that `takes_part`; none if that is none of them.
    pub(super) fn new(
        jobs: &'a [Job],
        bucket: &[usize],
        takes_part: impl Fn(usize) -> bool,
    ) -> Option<Self> {
        let members: Vec<usize> = bucket
            .iter()
            .copied()
            .filter(|at| takes_part(*at))
            .collect();
        let first = &jobs[*members.first()?];
        Some(Self {
            jobs,
            sharding: first.sharding.clone(),
            dtype: first.sharding.unit(first.unit).layout.dtype,
            members,
        })
    }

    /// The parameters that this rank owns.
    pub(super) fn mine(&self) -> impl Iterator<Item = usize> + '_ {
        let members = self.members.iter().copied();
        members.filter(|at| self.jobs[*at].is_mine())
    }

    fn layout(&self, at: usize) -> &UnitLayout {
        &self.sharding.unit(self.jobs[at].unit).layout
    }

    fn rank(&self) -> usize {
        self.sharding.shard_group.rank()
    }

    fn ranks(&self) -> Range<usize> {
        0..self.sharding.shard_group.size()
    }

    /// The elements that a rank stores of a parameter.
    fn piece(&self, at: usize, rank: usize) -> Range<usize> {
        self.layout(at).shard_range(self.jobs[at].slot, rank)
    }

    fn len(&self, at: usize) -> usize {
        self.layout(at).slots[self.jobs[at].slot].len
    }

    /// How much goes from each rank to each, to the owners or from them.
    fn counts(&self, to_owners: bool) -> Vec<usize> {
        let size = self.ranks().len();
        let mut counts = vec![0; size * size];
        for at in &self.members {
            let Job { owner, slot, .. } = self.jobs[*at];
            for (rank, len) in pieces(self.layout(*at), slot).enumerate() {
                let pair = if to_owners {
                    rank * size + owner
                } else {
                    owner * size + rank
                };
                counts[pair] += len;
            }
        }
        counts
    }

    /// The parameters of one owner, in the order in which they travel.
    fn of_owner(&self, owner: usize) -> impl Iterator<Item = usize> + '_ {
        let members = self.members.iter().copied();
        members.filter(move |at| self.jobs[*at].owner == owner)
    }

    fn residence(&self) -> Residence {
        self.sharding.residence.clone()
    }

    fn send(&self, what: &str, send: Flat, counts: Vec<usize>) -> Ticket<PendingFlat> {
        let sharding = self.sharding.clone();
        let label = Label::new(what);
        self.sharding
            .world
            .submit(move || send.all_to_all(&sharding.shard_group, &label, &counts))
    }

    /// Starts to send this rank's pieces to the owners.
    pub(super) fn to_owners(
        &self,
        what: &str,
        mut take: impl FnMut(usize) -> Option<Piece>,
    ) -> Ticket<PendingFlat> {
        let all = self
            .members
            .iter()
            .map(|at| self.piece(*at, self.rank()).len());
        let mut send = Flat::zeros(all.sum(), self.dtype, &self.residence());
        let mut start = 0;
        for owner in self.ranks() {
            for at in self.of_owner(owner) {
                let len = self.piece(at, self.rank()).len();
                match take(at).filter(|_| len > 0) {
                    Some(Piece::Stored(shard)) => send.put_shard(start, &shard, self.dtype),
                    Some(Piece::Computed(primitive)) => send.put(start, &primitive),
                    None => {}
                }
                start += len;
            }
        }
        self.send(what, send, self.counts(true))
    }

    /// The parameters that this rank owns, whole.
    pub(super) fn whole(&self, ticket: Ticket<PendingFlat>) -> Result<HashMap<usize, Primitive>> {
        let received = self.sharding.world.waiting(|| ticket.wait())?.wait()?;
        let mine: Vec<usize> = self.mine().collect();
        let whole = |at| Flat::zeros(self.len(at), self.dtype, &self.residence());
        let mut wholes: Vec<Flat> = mine.iter().map(|at| whole(*at)).collect();
        let mut start = 0;
        for rank in self.ranks() {
            for (at, whole) in mine.iter().zip(&mut wholes) {
                let piece = self.piece(*at, rank);
                if !piece.is_empty() {
                    whole.put_part(piece.start, &received, start..start + piece.len());
                }
                start += piece.len();
            }
        }
        let wholes = mine.into_iter().zip(wholes);
        let shaped = |(at, whole): (usize, Flat)| {
            let shape = self.jobs[at].shape();
            (at, whole.share().view(0, shape))
        };
        Ok(wholes.map(shaped).collect())
    }

    /// Starts to send the pieces of what this rank owns to the ranks that store them.
    pub(super) fn to_pieces(
        &self,
        what: &str,
        wholes: &HashMap<usize, Primitive>,
    ) -> Ticket<PendingFlat> {
        let mine: Vec<usize> = self.mine().collect();
        let all = mine.iter().map(|at| self.len(*at));
        let mut send = Flat::zeros(all.sum(), self.dtype, &self.residence());
        let whole = |at: &usize| {
            let mut flat = Flat::zeros(self.len(*at), self.dtype, &self.residence());
            if let Some(whole) = wholes.get(at) {
                flat.put(0, whole);
            }
            flat
        };
        let flats: Vec<Flat> = mine.iter().map(whole).collect();
        let mut start = 0;
        for rank in self.ranks() {
            for (at, flat) in mine.iter().zip(&flats) {
                let piece = self.piece(*at, rank);
                if !piece.is_empty() {
                    send.put_part(start, flat, piece.clone());
                }
                start += piece.len();
            }
        }
        self.send(what, send, self.counts(false))
    }

    /// This rank's pieces of all parameters, as they are stored; none of those of which it stores nothing.
    pub(super) fn own_pieces(
        &self,
        ticket: Ticket<PendingFlat>,
    ) -> Result<Vec<(usize, Primitive)>> {
        let received = self.sharding.world.waiting(|| ticket.wait())?.wait()?;
        let (received, mut start, mut all) = (received.share(), 0, Vec::new());
        for owner in self.ranks() {
            for at in self.of_owner(owner) {
                let len = self.piece(at, self.rank()).len();
                if len > 0 {
                    let shape = crate::layout::shard_shape(len, self.jobs[at].shape().len());
                    all.push((at, received.copy(start, &shape)));
                }
                start += len;
            }
        }
        Ok(all)
    }
}
