//! What one call of `Strategy::shard` made, on one rank: its units and its groups of ranks.

use super::owners::Owners;
use super::session::BackwardSession;
use super::unsharded::Unsharded;
use crate::comm::{Communicator, Label};
use crate::error::Result;
use crate::layout::UnitLayout;
use crate::noise::Noise;
use crate::plan::Plan;
use crate::shard::memory::{Residence, only_on_host};
use crate::strategy::{Reshard, Strategy};
use crate::world::World;
use burn::tensor::DType;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

/// What all clones of a sharded model share.
#[derive(Debug)]
pub(crate) struct Sharding {
    pub(crate) world: World,
    pub(crate) strategy: Strategy,
    /// The ranks over which each unit is sharded; this rank's number in it says which shard it owns.
    pub(crate) shard_group: Arc<Communicator>,
    /// The ranks that own the same shards.
    pub(crate) replica_group: Arc<Communicator>,
    /// The ranks over which backward gathers a unit again, where those are fewer.
    pub(super) regather_group: Option<Arc<Communicator>>,
    /// The memory that this rank's tensors lie in.
    pub(crate) residence: Residence,
    units: Vec<Unit>,
    /// The paths of the running state of the module that was sharded.
    buffers: Vec<String>,
    unsharded: Mutex<Unsharded>,
    session: Mutex<Option<BackwardSession>>,
    open: Mutex<OpenPasses>,
    /// The threads in which a forward of this model is going on, once for each open pass.
    forward: Mutex<Vec<ThreadId>>,
    passes: AtomicU64,
    /// Forwards in training mode whose layers drew from coordinates of this model's.
    forwards: AtomicU64,
    steps: AtomicU64,
    /// Which parameters are stepped whole, and by whom.
    pub(crate) owners: Owners,
    /// By unit, whether it was compared with plain Burn.
    checked: Vec<AtomicBool>,
    /// Whether the warning about a parameter that is gathered alone was given.
    pub(super) warned: AtomicBool,
}

/// The passes in training mode of this step whose backward has not come, by unit.
///
/// Passes are counted where the program runs them, not where a tape drops them: when that happens may
/// differ between ranks, and what ranks reduce may not.
#[derive(Debug)]
struct OpenPasses {
    step: u64,
    units: Vec<usize>,
}

/// One unit at run time.
#[derive(Debug)]
pub(crate) struct Unit {
    pub(crate) layout: UnitLayout,
    pub(crate) label: Label,
    /// Whether ranks may lack gradients of it that others have.
    pub(super) is_absent: bool,
    /// Whether its gradients are reduced together with those of others that are stored whole.
    pub(super) is_joined: bool,
}

impl Unit {
    /// Whether this is what no inner unit claims.
    pub(crate) fn is_root(&self) -> bool {
        self.layout.path.is_empty()
    }

    /// Whether its gradients are reduced behind a backward instead of during it.
    pub(super) fn is_deferred(&self) -> bool {
        self.layout.trainable && (self.is_absent || self.is_joined)
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
        let residence = Residence::of(&world.device())?;
        if strategy.quantized_gathers.is_some() && residence.is_device() {
            return Err(only_on_host("quantized_gathers"));
        }
        if plan.units().iter().any(UnitLayout::is_quantized) && residence.is_device() {
            return Err(only_on_host("LoraConfig::quantize_base"));
        }
        let (rank, size, group) = (world.rank(), world.size(), plan.shard_group_size());
        let comm = world.comm();
        let (shard_group, replica_group) = match group {
            1 => (Arc::new(comm.alone()), comm.clone()),
            _ if group == size => (comm.clone(), Arc::new(comm.alone())),
            _ => (
                Arc::new(comm.split(rank / group, rank)?),
                Arc::new(comm.split(rank % group, rank)?),
            ),
        };
        let regather = strategy.regather_group_size(group);
        let regather_group = if regather == group {
            None
        } else {
            Some(Arc::new(comm.split(rank / regather, rank)?))
        };
        let unit = |layout: &UnitLayout| Unit {
            label: Label::new(layout.name.clone()),
            layout: layout.clone(),
            is_absent: strategy.is_absent(&layout.path),
            is_joined: plan.is_joined(layout),
        };
        let units = plan.units().iter().map(unit).collect();
        Ok(Self {
            world: world.clone(),
            strategy,
            shard_group,
            replica_group,
            regather_group,
            residence,
            unsharded: Mutex::new(Unsharded::new(plan.units().len())),
            units,
            buffers,
            session: Mutex::new(None),
            open: Mutex::new(OpenPasses {
                step: 0,
                units: vec![0; plan.units().len()],
            }),
            forward: Mutex::new(Vec::new()),
            passes: AtomicU64::new(0),
            forwards: AtomicU64::new(0),
            steps: AtomicU64::new(0),
            owners: Owners::default(),
            checked: plan
                .units()
                .iter()
                .map(|_| AtomicBool::new(false))
                .collect(),
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
    pub(crate) fn is_replicated(&self, unit: usize) -> bool {
        self.units[unit].layout.is_replicated()
    }

    /// Whether a unit is to be compared with plain Burn, and was not yet.
    pub(crate) fn is_unchecked(&self, unit: usize) -> bool {
        self.strategy.check_units == Some(true) && !self.checked[unit].load(Ordering::Relaxed)
    }

    /// Notes that a unit needs no further check.
    pub(crate) fn set_checked(&self, unit: usize) {
        self.checked[unit].store(true, Ordering::Relaxed);
    }

    /// Whether this rank is the first of those that store the same part of a unit.
    pub(crate) fn is_counted_here(&self, unit: usize) -> bool {
        let is_first = !self.is_replicated(unit) || self.shard_group.rank() == 0;
        is_first && self.replica_group.rank() == 0
    }

    /// The number of the shard that this rank stores of a unit.
    pub(crate) fn shard_rank(&self, unit: usize) -> usize {
        if self.is_replicated(unit) {
            0
        } else {
            self.shard_group.rank()
        }
    }

    /// Where this rank's shard of a parameter lies in its shard of the unit.
    pub(crate) fn slot_in_shard(&self, unit: usize, slot: usize) -> Range<usize> {
        let layout = &self.units[unit].layout;
        layout.slot_in_shard(slot, self.shard_rank(unit))
    }

    /// Whether a unit stays unsharded between its forward and its backward.
    pub(crate) fn keeps_unsharded(&self, unit: usize) -> bool {
        let Unit { is_absent, .. } = self.units[unit];
        // Whether backward asks for a unit in which ranks branch may differ between them, and a gather may not.
        let stays = is_absent || self.units[unit].is_root();
        stays || self.strategy.reshard() != Reshard::AfterForward
    }

    /// The backward pass that is going on, if there is one.
    pub(crate) fn session(&self) -> MutexGuard<'_, Option<BackwardSession>> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The gathered buffers that outlive a pass.
    pub(super) fn unsharded(&self) -> MutexGuard<'_, Unsharded> {
        self.unsharded
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of the next pass, in program order.
    pub(crate) fn next_pass(&self) -> u64 {
        self.passes.fetch_add(1, Ordering::Relaxed)
    }

    /// What the layers draw from in the next forward in training mode.
    pub(crate) fn next_forward(&self) -> Noise {
        self.world
            .noise(self.forwards.fetch_add(1, Ordering::Relaxed))
    }

    /// How many forwards there were, which a save keeps.
    pub(crate) fn forwards(&self) -> u64 {
        self.forwards.load(Ordering::Relaxed)
    }

    /// Goes on counting where a saved run was.
    pub(crate) fn set_forwards(&self, forwards: u64) {
        self.forwards.store(forwards, Ordering::Relaxed);
    }

    /// Notes a pass of a unit in training mode, of which a backward may come; the number of the step.
    pub(crate) fn pass_opened(&self, unit: usize) -> u64 {
        let mut open = self.open_passes();
        open.units[unit] += 1;
        open.step
    }

    /// Notes that backward has gone through a pass that was opened in `step`.
    pub(crate) fn pass_closed(&self, unit: usize, step: u64) {
        let mut open = self.open_passes();
        if open.step == step {
            open.units[unit] = open.units[unit].saturating_sub(1);
        }
    }

    /// Notes that a pass is open in this thread.
    pub(crate) fn enter_forward(&self) {
        self.forward_threads().push(thread::current().id());
    }

    /// Notes that a pass is no longer open in this thread.
    pub(crate) fn leave_forward(&self) {
        let mut threads = self.forward_threads();
        let this = thread::current().id();
        if let Some(at) = threads.iter().rposition(|thread| *thread == this) {
            threads.remove(at);
        }
    }

    /// Whether passes are open, but none in this thread.
    pub(crate) fn is_forward_elsewhere(&self) -> bool {
        let threads = self.forward_threads();
        !threads.is_empty() && !threads.contains(&thread::current().id())
    }

    fn forward_threads(&self) -> MutexGuard<'_, Vec<ThreadId>> {
        self.forward.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether more gradients of a unit may come in this step's backward passes.
    pub(crate) fn has_open_passes(&self, unit: usize) -> bool {
        self.open_passes().units[unit] > 0
    }

    /// Ends a step: gradients of its passes that come later belong to the next one.
    pub(crate) fn end_step(&self) {
        let mut open = self.open_passes();
        open.step += 1;
        open.units.fill(0);
    }

    fn open_passes(&self) -> MutexGuard<'_, OpenPasses> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether replicas are to be compared in the step that ends now.
    pub(crate) fn is_check_due(&self) -> bool {
        let steps = self.steps.fetch_add(1, Ordering::Relaxed) + 1;
        let every = self.strategy.check_every as u64;
        every > 0 && steps.is_multiple_of(every)
    }

    /// The type in which a unit is gathered for a pass and, unless it is quantized, computed with.
    pub(crate) fn param_dtype(&self, unit: usize) -> DType {
        let stored = self.units[unit].layout.dtype;
        self.strategy.precision.computed(stored)
    }
}
