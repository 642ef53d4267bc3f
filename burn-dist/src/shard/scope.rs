//! The boundary of a unit: where its parameters come and go.

use super::activations::{Activations, Tokens};
use super::flat::{Piece, Shared, same};
use super::full;
use super::pass::Pass;
use super::sharded::{Identity, Visit, walk};
use super::sharding::Sharding;
use crate::comm::Ticket;
use crate::error::Result;
use crate::unwind::or_raise;
use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use burn_flex::FlexTensor;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Runs a module's forward as one unit: its parameters are gathered together before and let go
/// after.
///
/// Write it in a model where the forward of a block is called, and once around the whole forward,
/// for what no block claims and so that the next block can be gathered ahead. On a module that is
/// not sharded it only calls `f`.
///
/// `f` has to be repeatable, so that recomputing activations can be added without changing models:
/// everything that takes gradients comes through `inputs`, and random numbers come out the same
/// again.
///
/// ```
/// use burn::{nn::LinearConfig, tensor::{Device, Tensor}};
/// use burn_dist::unit;
///
/// let device = Device::flex();
/// let layer = LinearConfig::new(4, 2).init(&device);
/// let y = unit(&layer, Tensor::<2>::ones([3, 4], &device), |layer, x| layer.forward(x));
/// assert_eq!(y.dims(), [3, 2]);
/// ```
///
/// # Panics
/// Inside a sharded model, if a collective fails. [`World::run`](crate::World::run), a backward
/// pass and the launchers turn that into an `Err`.
///
/// # Source
/// PyTorch: `fully_shard(block)`.
pub fn unit<M, I, O, F>(module: &M, inputs: I, f: F) -> O
where
    M: Module,
    I: Activations,
    O: Activations,
    F: Fn(&M, I) -> O + Send + 'static,
{
    let _scope = Scope::open(module, &inputs);
    f(module, inputs)
}

/// A unit whose closure is running.
struct Open {
    pass: Arc<Pass>,
    token: Tensor<1>,
}

/// What the outermost call saw, to gather units before they are reached.
struct Forecast {
    sharding: Arc<Sharding>,
    /// Units not reached yet, in the order of the module.
    ahead: VecDeque<(usize, Arc<[Piece]>)>,
    /// The one whose gather was started.
    coming: Option<(usize, Arc<[Piece]>, Ticket<Shared>)>,
    /// The latest pass that backward will gather again.
    last: Option<Arc<Pass>>,
}

thread_local! {
    static OPEN: RefCell<Vec<Open>> = const { RefCell::new(Vec::new()) };
    static FORECAST: RefCell<Option<Forecast>> = const { RefCell::new(None) };
}

/// Closes what one `unit` call opened, also when the closure unwinds.
struct Scope {
    opened: usize,
    outermost: bool,
}

impl Scope {
    fn open<M: Module>(module: &M, inputs: &impl Activations) -> Self {
        let seen = or_raise(Seen::look(module));
        let mut scope = Self {
            opened: 0,
            outermost: false,
        };
        let Some(sharding) = &seen.sharding else {
            return scope;
        };
        scope.outermost = FORECAST.with_borrow_mut(|f| {
            let first = f.is_none();
            if first {
                *f = Some(Forecast::new(sharding.clone(), &seen));
            }
            first
        });
        for (unit, pieces) in seen.own() {
            if is_open(sharding, unit, &pieces) {
                continue;
            }
            let coming = forecast(|f| f.arrive(sharding, unit, &pieces)).flatten();
            let pass = Arc::new(Pass::new(sharding.clone(), unit, pieces, coming));
            pass.start();
            let mut tokens = Tokens::new(pass.clone());
            inputs.show(&mut tokens);
            let token = tokens.finish();
            if pass.returns() {
                forecast(|f| pass.follow(f.last.replace(pass.clone())));
            }
            OPEN.with_borrow_mut(|open| open.push(Open { pass, token }));
            scope.opened += 1;
        }
        forecast(Forecast::start_next);
        scope
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        for _ in 0..self.opened {
            if let Some(open) = OPEN.with_borrow_mut(Vec::pop) {
                open.pass.close();
            }
        }
        if self.outermost
            && let Some(forecast) = FORECAST.take()
        {
            forecast.close();
        }
    }
}

/// Whether a pass of this unit over these very pieces is open; a clone's may be others.
fn is_open(sharding: &Arc<Sharding>, unit: usize, pieces: &[Piece]) -> bool {
    let is_same = |o: &Open| {
        o.pass.unit == unit
            && Arc::ptr_eq(&o.pass.sharding, sharding)
            && same(&o.pass.pieces, pieces)
    };
    OPEN.with_borrow(|open| open.iter().any(is_same))
}

fn forecast<T>(f: impl FnOnce(&mut Forecast) -> T) -> Option<T> {
    FORECAST.with_borrow_mut(|forecast| forecast.as_mut().map(f))
}

impl Forecast {
    fn new(sharding: Arc<Sharding>, seen: &Seen) -> Self {
        let cut = |(unit, _): &(usize, _)| !sharding.is_whole(*unit);
        let ahead = seen.complete().filter(cut).collect();
        Self {
            sharding,
            ahead,
            coming: None,
            last: None,
        }
    }

    /// `unit` is reached: its gather, if the guess was right.
    fn arrive(
        &mut self,
        sharding: &Arc<Sharding>,
        unit: usize,
        pieces: &Arc<[Piece]>,
    ) -> Option<Ticket<Shared>> {
        // Another model within the forward of this one is not in the forecast.
        if !Arc::ptr_eq(sharding, &self.sharding) {
            return None;
        }
        if let Some(at) = self.ahead.iter().position(|(u, _)| *u == unit) {
            self.ahead.drain(..=at);
        }
        match self.coming.take() {
            Some((u, from, ticket)) if u == unit && same(&from, pieces) => Some(ticket),
            wrong => {
                self.coming = wrong;
                self.drop_guess();
                None
            }
        }
    }

    /// Waits for a gather that nobody needs. Every rank made this guess and drops it here; a
    /// gather that is still going on could come between other collectives on one rank only.
    fn drop_guess(&mut self) {
        if let Some((_, _, ticket)) = self.coming.take() {
            // If it failed, so will the next collective, which can say so.
            let _ = self.sharding.world.waiting(|| ticket.wait());
        }
    }

    /// The forward is over.
    fn close(mut self) {
        self.drop_guess();
    }

    /// Starts the gather of the unit that should come next.
    fn start_next(&mut self) {
        if self.coming.is_none()
            && let Some((unit, pieces)) = self.ahead.pop_front()
            && self.sharding.kept(unit, &pieces).is_none()
        {
            let ticket = self.sharding.gather(unit, pieces.clone());
            self.coming = Some((unit, pieces, ticket));
        }
    }
}

/// The units of a module and the pieces it stores of them now.
struct Seen {
    sharding: Option<Arc<Sharding>>,
    units: BTreeMap<usize, Vec<Option<Piece>>>,
    result: Result<()>,
}

impl Seen {
    fn look<M: Module>(module: &M) -> Result<Self> {
        let mut seen = Self {
            sharding: None,
            units: BTreeMap::new(),
            result: Ok(()),
        };
        walk(module, &mut seen);
        seen.result.clone().map(|()| seen)
    }

    /// The units that lie wholly in the module.
    fn complete(&self) -> impl Iterator<Item = (usize, Arc<[Piece]>)> + '_ {
        self.units.iter().filter_map(|(unit, pieces)| {
            let pieces: Option<Arc<[Piece]>> = pieces.iter().cloned().collect();
            pieces.map(|pieces| (*unit, pieces))
        })
    }

    /// The unit that the module itself is, in all its parts; not the units inside it.
    fn own(&self) -> Vec<(usize, Arc<[Piece]>)> {
        let Some(sharding) = &self.sharding else {
            return Vec::new();
        };
        let path = |unit: usize| sharding.unit(unit).layout.path.as_str();
        let depth = |unit: usize| {
            path(unit)
                .split('.')
                .filter(|name| !name.is_empty())
                .count()
        };
        let Some(shallowest) = self.units.keys().map(|u| depth(*u)).min() else {
            return Vec::new();
        };
        let own: Vec<_> = self
            .complete()
            .filter(|(u, _)| depth(*u) == shallowest)
            .collect();
        // Several side by side are the units of inner calls; this module only contains them.
        match own
            .windows(2)
            .all(|pair| path(pair[0].0) == path(pair[1].0))
        {
            true => own,
            false => Vec::new(),
        }
    }
}

impl Visit for Seen {
    type Held = Result<Piece>;

    fn hold<const D: usize>(&mut self, param: &Param<Tensor<D>>) -> Result<Piece> {
        Piece::of(param.base())
    }

    fn sharded(&mut self, _: &str, held: Result<Piece>, identity: Identity) {
        let sharding = self
            .sharding
            .get_or_insert_with(|| identity.sharding.clone());
        // A module of several sharded models is the unit of none.
        if !Arc::ptr_eq(sharding, &identity.sharding) {
            return;
        }
        let slots = sharding.unit(identity.unit).layout.slots.len();
        let pieces = self
            .units
            .entry(identity.unit)
            .or_insert_with(|| vec![None; slots]);
        match held {
            Ok(piece) => pieces[identity.slot] = Some(piece),
            Err(error) => self.result = Err(error),
        }
    }
}

/// Where the full value of a parameter comes from.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// The pass of its unit.
    Pass(Arc<Pass>),
    /// No pass is open: itself alone.
    Alone(Identity),
    /// An export is going on, which gathers unit by unit.
    Export(Identity),
}

impl Source {
    pub(crate) fn view(&self, slot: usize, base: FlexTensor) -> Result<FlexTensor> {
        match self {
            Self::Pass(pass) => pass.view(slot, base),
            Self::Export(identity) => full::take(identity),
            Self::Alone(identity) if identity.sharding.is_whole(identity.unit) => Ok(base),
            Self::Alone(Identity { sharding, unit, .. }) => {
                let piece = Piece::of_primitive(base);
                let ticket = sharding.gather_one(*unit, slot, piece);
                let whole = sharding.world.waiting(|| ticket.wait())?;
                Ok(whole.view(0, &sharding.unit(*unit).layout.slots[slot].shape))
            }
        }
    }

    pub(crate) fn view_again(&self, slot: usize, base: FlexTensor) -> Result<FlexTensor> {
        match self {
            Self::Pass(pass) => pass.view_again(slot, base),
            _ => self.view(slot, base),
        }
    }

    /// Whether the full value stays until backward anyway.
    pub(crate) fn keeps(&self) -> bool {
        match self {
            Self::Pass(pass) => pass.keeps() || pass.sharding.is_whole(pass.unit),
            _ => true,
        }
    }

    pub(crate) fn collect(&self, slot: usize, gradient: FlexTensor) -> Result<()> {
        match self {
            Self::Pass(pass) => pass.collect(slot, gradient),
            Self::Alone(Identity { sharding, unit, .. })
            | Self::Export(Identity { sharding, unit, .. }) => {
                sharding.collect_alone(*unit, slot, gradient)
            }
        }
    }
}

/// Where `param.val()` of the parameter that stores `base` finds its value now, and the token that
/// orders it.
pub(crate) fn source<const D: usize>(
    identity: &Identity,
    base: &Tensor<D>,
) -> Result<(Source, Tensor<1>)> {
    let piece = Piece::of(base.clone())?;
    let pass = OPEN.with_borrow(|open| {
        // A clone of the model, such as a moving average, may store something else.
        let same = |o: &&Open| {
            o.pass.unit == identity.unit
                && Arc::ptr_eq(&o.pass.sharding, &identity.sharding)
                && o.pass.pieces[identity.slot].is(&piece)
        };
        let found = open.iter().rev().find(same);
        found.map(|o| (Source::Pass(o.pass.clone()), o.token.clone()))
    });
    Ok(pass.unwrap_or_else(|| {
        let token = Tensor::zeros([1], &Device::flex());
        match full::is_exporting() {
            true => (Source::Export(identity.clone()), token),
            false => (Source::Alone(identity.clone()), token),
        }
    }))
}
