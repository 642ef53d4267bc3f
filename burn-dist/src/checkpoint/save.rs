//! What is saved together.

use super::format::UserState;
use super::part::Snapshot;
use crate::error::{Error, Result};
use crate::optim::Ema;
use crate::world::World;
use burn::module::Module;
use burn::optim::ModuleOptimizer;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// The parts of one save, each with a name: models with or without their optimizers, and states.
///
/// All are committed together, or none. Give it to [`Checkpointer::save`](super::Checkpointer::save) or
/// [`save_in_background`](super::Checkpointer::save_in_background); what they take of the parts, they take at the call.
///
/// ```
/// use burn::{nn::LinearConfig, optim::AdamWConfig};
/// use burn_dist::checkpoint::Save;
/// use burn_dist::prelude::*;
///
/// # let folder = tempfile::tempdir().unwrap();
/// # let folder = folder.path();
/// Threads::new(2).run(|world| {
///     let layer = || LinearConfig::new(8, 4).init(&world.device());
///     let generator = Strategy::fsdp().shard(layer(), &world)?;
///     let critic = Strategy::fsdp().shard(layer(), &world)?;
///     let optim = world.optimizer(AdamWConfig::new().init(), &generator)?;
///     let mut saves = world.checkpointer(folder)?;
///     let save = Save::new(100)
///         .model("generator", &generator, &optim)
///         .weights("critic", &critic)
///         .state("epoch", &3)
///         .metric("loss", 0.25);
///     saves.save(save)
/// })?;
/// # Ok::<(), burn_dist::Error>(())
/// ```
#[must_use]
pub struct Save<'a> {
    step: Option<u64>,
    parts: Vec<Part<'a>>,
    states: Vec<(String, State<'a>)>,
    metrics: Vec<(String, f64)>,
}

/// A model with its name, and how a snapshot of it and its optimizer is taken.
struct Part<'a> {
    name: String,
    take: Take<'a>,
}

/// Takes a snapshot of this name, on this rank of so many.
type Take<'a> = Box<dyn FnOnce(&str, (usize, usize)) -> Result<Snapshot> + 'a>;

/// Writes a state down.
type State<'a> = Box<dyn FnOnce(&Path) -> Result<UserState> + 'a>;

impl fmt::Debug for Save<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Save")
            .field("step", &self.step)
            .field("parts", &self.names())
            .finish_non_exhaustive()
    }
}

/// What a save has of a rank, before it is written.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) step: Option<u64>,
    pub(super) snapshots: Vec<Snapshot>,
    /// On rank 0.
    pub(super) states: BTreeMap<String, UserState>,
    pub(super) metrics: BTreeMap<String, f64>,
    /// The names of all parts, for a comparison of ranks.
    pub(super) names: Vec<String>,
}

impl<'a> Save<'a> {
    /// A save of this step, from which it has its name; nothing is in it yet.
    pub fn new(step: u64) -> Self {
        Self {
            step: Some(step),
            ..Self::unnumbered()
        }
    }

    /// A save whose step is the number of saves of its run before it.
    pub(super) fn unnumbered() -> Self {
        Self {
            step: None,
            parts: Vec::new(),
            states: Vec::new(),
            metrics: Vec::new(),
        }
    }

    /// With a sharded model, its running state, and the optimizer that steps it.
    pub fn model<M: Module + 'static>(
        self,
        name: impl Into<String>,
        model: &'a M,
        optimizer: &'a ModuleOptimizer,
    ) -> Self {
        self.part(name, move |name, of| {
            Snapshot::of(name, model, Some(optimizer), of)
        })
    }

    /// With a sharded model without an optimizer: a teacher, an average of weights.
    pub fn weights<M: Module + 'static>(self, name: impl Into<String>, model: &'a M) -> Self {
        self.part(name, move |name, of| Snapshot::of(name, model, None, of))
    }

    /// With a moving average of a model: its parameters as [`weights`](Self::weights), and how often it was updated as a
    /// [`state`](Self::state), both of this name.
    pub fn average<M: Module + 'static>(
        self,
        name: impl Into<String>,
        average: &'a Ema<M>,
    ) -> Self {
        let name = name.into();
        self.weights(name.clone(), average.model())
            .state(name, average.progress())
    }

    /// With anything that serde can write as JSON: the epoch, a schedule, a loss scaler.
    ///
    /// Only rank 0's is kept, exactly: infinities and all bits of a float come back.
    pub fn state(mut self, name: impl Into<String>, state: &'a impl Serialize) -> Self {
        let write = move |folder: &Path| UserState::of(state, folder);
        self.states.push((name.into(), Box::new(write)));
        self
    }

    /// With the value of a metric, the same on all ranks, by which [`Keep::best`](super::Keep::best) chooses.
    pub fn metric(mut self, name: impl Into<String>, value: f64) -> Self {
        self.metrics.push((name.into(), value));
        self
    }

    fn part(
        mut self,
        name: impl Into<String>,
        take: impl FnOnce(&str, (usize, usize)) -> Result<Snapshot> + 'a,
    ) -> Self {
        self.parts.push(Part {
            name: name.into(),
            take: Box::new(take),
        });
        self
    }

    fn names(&self) -> Vec<String> {
        let models = self.parts.iter().map(|part| format!("model {}", part.name));
        let states = self.states.iter();
        let states = states.map(|(name, _)| format!("state {name}"));
        let metrics = self.metrics.iter();
        let metrics = metrics.map(|(name, _)| format!("metric {name}"));
        models.chain(states).chain(metrics).collect()
    }

    /// Takes what this rank has of the parts.
    ///
    /// # Errors
    /// [`Error::Config`] for two parts of one kind and name, and for a name that no file can have.
    pub(super) fn take(self, world: &World, folder: &Path) -> Result<Taken> {
        let names = self.names();
        check(&names)?;
        let of = (world.rank(), world.size());
        let take = |part: Part<'a>| (part.take)(&part.name, of);
        let snapshots = self.parts.into_iter().map(take).collect::<Result<_>>()?;
        let states = if world.is_chief() {
            let states = self.states.into_iter();
            let states = states.map(|(name, write)| Ok((name, write(folder)?)));
            states.collect::<Result<_>>()?
        } else {
            BTreeMap::new()
        };
        Ok(Taken {
            step: self.step,
            snapshots,
            states,
            metrics: self.metrics.into_iter().collect(),
            names,
        })
    }
}

/// Refuses names that would be confused.
fn check(names: &[String]) -> Result<()> {
    for (at, name) in names.iter().enumerate() {
        if names[..at].contains(name) {
            let found = format!("two of {name}");
            return Err(Error::config("the parts of a save", "one of a name", found));
        }
        let (_, own) = name.split_once(' ').unwrap_or_default();
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if own.is_empty() || !own.chars().all(plain) {
            let expected = "letters, digits, '-', '_' and '.'";
            return Err(Error::config(
                "the name of a part",
                expected,
                format!("{own:?}"),
            ));
        }
    }
    Ok(())
}
