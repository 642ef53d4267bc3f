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
use std::collections::HashMap;
use std::ops::Range;
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
    /// The paths of the running state of the module that was sharded.
    buffers: Vec<String>,
    kept: Mutex<Kept>,
    session: Mutex<Option<Session>>,
    passes: AtomicU64,
    steps: AtomicU64,
    warned: AtomicBool,
}

/// What was gathered and stays until the backward pass or the step, with the pieces that it was gathered
/// from.
///
/// Several forwards may come before a backward, or none ever: all of them use what is here, instead of
/// each keeping a buffer of its own alive.
#[derive(Debug)]
struct Kept {
    units: Vec<Option<(Arc<[Piece]>, Shared)>>,
    /// Parameters that were gathered alone: of which unit and slot, and in which type.
    alone: HashMap<(usize, usize, &'static str), (Piece, Shared)>,
}

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
    pub(crate) fn new(
        world: &World,
        strategy: Strategy,
        plan: &Plan,
        buffers: Vec<String>,
    ) -> Result<Self> {
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
            kept: Mutex::new(Kept {
                units: vec![None; plan.units().len()],
                alone: HashMap::new(),
            }),
            units: plan.units().iter().map(unit).collect(),
            buffers,
            session: Mutex::new(None),
            passes: AtomicU64::new(0),
            steps: AtomicU64::new(0),
            warned: AtomicBool::new(false),
        })
    }

    pub(crate) fn unit(&self, index: usize) -> &Unit {
        &self.units[index]
    }

    pub(crate) fn units(&self) -> &[Unit] {
        &self.units
    }

    /// The paths of running state in a model in which the parameter `slot` of `unit` has this path.
    pub(crate) fn buffers_beside(
        &self,
        path: &str,
        unit: usize,
        slot: usize,
    ) -> impl Iterator<Item = String> {
        let inner = &self.units[unit].layout.slots[slot].path;
        let outer = path.strip_suffix(inner.as_str()).unwrap_or_default();
        self.buffers
            .iter()
            .map(move |path| format!("{outer}{path}"))
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

    /// Where the piece that this rank stores of a parameter lies in what it stores of the unit.
    pub(crate) fn piece_in_cut(&self, unit: usize, slot: usize) -> Range<usize> {
        self.units[unit].layout.piece_in_cut(slot, self.owned(unit))
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

    /// Whether replicas are to be compared in the step that ends now.
    pub(crate) fn is_check_due(&self) -> bool {
        let steps = self.steps.fetch_add(1, Ordering::Relaxed) + 1;
        let every = self.strategy.check_every as u64;
        every > 0 && steps.is_multiple_of(every)
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
        let mut kept = self.all_kept();
        match &kept.units[unit] {
            Some((from, flat)) if same(from, pieces) => Some(flat.clone()),
            _ => {
                kept.units[unit] = None;
                None
            }
        }
    }

    /// Keeps a gathered unit until [`forget`](Self::forget) or [`let_go`](Self::let_go).
    pub(crate) fn keep(&self, unit: usize, pieces: Arc<[Piece]>, flat: Shared) {
        self.all_kept().units[unit] = Some((pieces, flat));
    }

    /// The kept buffer of a parameter that was gathered alone, if it was from this piece and in this
    /// type.
    pub(crate) fn kept_alone(
        &self,
        unit: usize,
        slot: usize,
        piece: &Piece,
        dtype: DType,
    ) -> Option<Shared> {
        let kept = self.all_kept();
        let (from, flat) = kept.alone.get(&(unit, slot, dtype.name()))?;
        from.is(piece).then(|| flat.clone())
    }

    /// Keeps a parameter that was gathered alone, as [`keep`](Self::keep) does a unit.
    pub(crate) fn keep_alone(
        &self,
        unit: usize,
        slot: usize,
        piece: Piece,
        dtype: DType,
        flat: Shared,
    ) {
        let key = (unit, slot, dtype.name());
        self.all_kept().alone.insert(key, (piece, flat));
    }

    /// Lets what is kept of a unit go: its gradients are being reduced.
    pub(crate) fn let_go(&self, unit: usize) {
        let mut kept = self.all_kept();
        kept.units[unit] = None;
        kept.alone.retain(|(of, ..), _| *of != unit);
    }

    /// Lets all that is kept go: the step is about to replace what it was gathered from.
    pub(crate) fn forget(&self) {
        let mut kept = self.all_kept();
        kept.units.iter_mut().for_each(|k| *k = None);
        kept.alone.clear();
    }

    fn all_kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
