//! One sharded model on one rank: its units, its groups of ranks, and what is gathered now.

use super::backward::Session;
use super::exchange::Coming;
use super::flat::{Flat, Piece, Shared, same};
use super::primitive::Place;
use crate::comm::{Communicator, Label, Ticket};
use crate::error::Result;
use crate::layout::UnitLayout;
use crate::plan::Plan;
use crate::strategy::{Keep, Strategy};
use crate::world::World;
use burn::tensor::DType;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What all clones of a sharded model share.
#[derive(Debug)]
pub(crate) struct Sharding {
    pub(crate) world: World,
    pub(crate) strategy: Strategy,
    /// The ranks over which each unit is cut; this rank's number in it says which cut it owns.
    pub(crate) cut: Arc<Communicator>,
    /// The ranks that own the same cut.
    pub(crate) replicas: Arc<Communicator>,
    /// Where this rank's tensors lie.
    pub(crate) place: Place,
    units: Vec<Unit>,
    /// Gathered units that are kept until the step, with the pieces they were gathered from.
    kept: Mutex<Vec<Option<Kept>>>,
    session: Mutex<Option<Session>>,
    passes: AtomicU64,
    warned: AtomicBool,
}

/// A gathered unit, and the pieces it was gathered from.
type Kept = (Arc<[Piece]>, Shared);

/// One unit at run time.
#[derive(Debug)]
pub(crate) struct Unit {
    pub(crate) layout: UnitLayout,
    pub(crate) label: Label,
}

impl Unit {
    /// Whether this is what no inner unit claims.
    pub(crate) fn is_root(&self) -> bool {
        self.layout.path.is_empty()
    }
}

impl Sharding {
    /// Divides the world into the groups the strategy needs; collective.
    pub(crate) fn new(world: &World, strategy: Strategy, plan: &Plan) -> Result<Self> {
        let (rank, size, group) = (world.rank(), world.size(), plan.cut_over());
        let comm = world.comm();
        let (cut, replicas) = match group {
            1 => (Arc::new(comm.alone()), comm.clone()),
            _ if group == size => (comm.clone(), Arc::new(comm.alone())),
            _ => (
                Arc::new(comm.split(rank / group, rank)?),
                Arc::new(comm.split(rank % group, rank)?),
            ),
        };
        let unit = |layout: &UnitLayout| Unit {
            label: Label::new(layout.name.clone()),
            layout: layout.clone(),
        };
        Ok(Self {
            world: world.clone(),
            strategy,
            cut,
            replicas,
            place: Place::of(&world.device())?,
            kept: Mutex::new(vec![None; plan.units().len()]),
            units: plan.units().iter().map(unit).collect(),
            session: Mutex::new(None),
            passes: AtomicU64::new(0),
            warned: AtomicBool::new(false),
        })
    }

    pub(crate) fn unit(&self, index: usize) -> &Unit {
        &self.units[index]
    }

    pub(crate) fn units(&self) -> &[Unit] {
        &self.units
    }

    /// Whether every rank stores all of a unit.
    pub(crate) fn is_whole(&self, unit: usize) -> bool {
        self.units[unit].layout.is_whole()
    }

    /// Which of a unit's cuts this rank stores.
    pub(crate) fn owned(&self, unit: usize) -> usize {
        if self.is_whole(unit) {
            0
        } else {
            self.cut.rank()
        }
    }

    /// Whether a unit stays gathered between its forward and its backward.
    pub(crate) fn keeps(&self, unit: usize) -> bool {
        self.strategy.keep == Keep::Step || self.units[unit].is_root()
    }

    pub(crate) fn session(&self) -> MutexGuard<'_, Option<Session>> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of the next pass, in program order.
    pub(crate) fn next_pass(&self) -> u64 {
        self.passes.fetch_add(1, Ordering::Relaxed)
    }

    /// The type in which a unit is gathered for a pass and computed with.
    pub(crate) fn computed(&self, unit: usize) -> DType {
        let stored = self.units[unit].layout.dtype;
        self.strategy.precision.computed(stored)
    }

    /// Starts to gather a unit from its pieces, behind what was submitted before.
    pub(crate) fn gather(
        self: &Arc<Self>,
        unit: usize,
        pieces: Arc<[Piece]>,
        dtype: DType,
    ) -> Ticket<Coming> {
        let this = self.clone();
        self.world.submit(move || {
            let Unit { layout, label } = &this.units[unit];
            let mut all = Flat::zeros(layout.len(), dtype, &this.place);
            let rank = this.owned(unit);
            for (slot, piece) in pieces.iter().enumerate() {
                let start = rank * layout.cut + layout.piece_in_cut(slot, rank).start;
                all.put_piece(start, piece, layout.dtype);
            }
            match layout.is_whole() {
                true => Ok(all.into()),
                false => all.all_gather(&this.cut, label),
            }
        })
    }

    /// Gathers one parameter alone, for a `val()` outside of any pass of its unit.
    pub(crate) fn gather_one(
        self: &Arc<Self>,
        unit: usize,
        slot: usize,
        piece: Piece,
        dtype: DType,
    ) -> Ticket<Coming> {
        if !self.warned.swap(true, Ordering::Relaxed) && self.world.is_chief() {
            log::warn!(
                "{} is read outside of a `unit` call, so it is gathered alone and kept until \
                 backward: correct, but slower; wrap the forward of its module in burn_dist::unit",
                self.units[unit].layout.slots[slot].path
            );
        }
        let this = self.clone();
        self.world.submit(move || {
            let Unit { layout, label } = &this.units[unit];
            let (ranks, rank) = (this.cut.size(), this.cut.rank());
            // Ranks send equal amounts: as much as the largest piece.
            let most = (0..ranks)
                .map(|r| layout.piece(slot, r).len())
                .max()
                .unwrap_or(0);
            let mut padded = Flat::zeros(most * ranks, dtype, &this.place);
            padded.put_piece(rank * most, &piece, layout.dtype);
            let label = label.with_detail(layout.slots[slot].path.as_str());
            let padded = padded.all_gather(&this.cut, &label)?.arrive()?;
            let mut whole = Flat::zeros(layout.slots[slot].len, dtype, &this.place);
            for rank in 0..ranks {
                let to = layout.piece(slot, rank);
                let from = rank * most;
                whole.put_part(to.start, &padded, from..from + to.len());
            }
            Ok(whole.into())
        })
    }

    /// What a gather brings, for this thread to compute with.
    pub(crate) fn gathered(&self, ticket: Ticket<Coming>) -> Result<Shared> {
        let flat = self.world.waiting(|| ticket.wait())?.arrive()?;
        Ok(flat.share())
    }

    /// The kept buffer of a unit, if it was gathered from these pieces.
    pub(crate) fn kept(&self, unit: usize, pieces: &Arc<[Piece]>) -> Option<Shared> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        match &kept[unit] {
            Some((from, flat)) if same(from, pieces) => Some(flat.clone()),
            _ => {
                kept[unit] = None;
                None
            }
        }
    }

    /// Keeps a gathered unit until [`forget`](Self::forget).
    pub(crate) fn keep(&self, unit: usize, pieces: Arc<[Piece]>, flat: Shared) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept[unit] = Some((pieces, flat));
    }

    /// Lets all kept units go: the step is about to replace what they were gathered from.
    pub(crate) fn forget(&self) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter_mut().for_each(|k| *k = None);
    }
}
