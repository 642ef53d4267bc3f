//! A model and its optimizer at one moment.
//!
//! In the memory of the process nothing is copied: a snapshot shares the elements, and what training changes
//! meanwhile it writes to other memory. So a snapshot costs at most this rank's shard once more, and costs it in the
//! first step after it. From a GPU's memory the shard is copied to the host.

use super::contents::{RankModel, RankStates, RankTensor};
use super::model_state::{ModelState, StoredTensor};
use super::optimizer_state::{OptimizerState, StateTensor, check_parameters, path_of};
use super::trial;
use crate::checkpoint::format::{
    DataWriter, Kind, OptimizerBehaviour, TensorFacts, model_tensor, optimizer_tensor,
};
use crate::error::Result;
use crate::shard::{Replicas, StoredShards};
use burn::module::{Module, ParamId};
use burn::optim::ModuleOptimizer;
use std::collections::BTreeMap;
use std::fmt;

/// Bytes of the model whose optimizer's states are read at a time.
const AT_A_TIME: usize = 1 << 20;

/// Bytes of a header for a tensor beside its name, at most.
const HEADER_ENTRY: usize = 120;

/// A model, and its optimizer if it is saved with one.
#[derive(Debug)]
pub(in crate::checkpoint) struct Snapshot {
    pub(in crate::checkpoint) name: String,
    pub(in crate::checkpoint) model: ModelState,
    pub(in crate::checkpoint) replicas: Replicas,
    optimizer: Option<OptimizerSnapshot>,
}

/// An optimizer at one moment.
struct OptimizerSnapshot {
    held: Held,
    trial: Trial,
}

/// The trial of an optimizer, which takes a moment and so waits until the snapshot is written.
enum Trial {
    Awaited(Box<dyn Fn() -> Result<Option<OptimizerBehaviour>> + Send>),
    Done(Option<OptimizerBehaviour>),
}

/// Where the states are.
enum Held {
    /// In the optimizer.
    Shared(ModuleOptimizer),
    /// Copied from a device.
    Copied(Vec<OptimizerState>),
}

impl fmt::Debug for OptimizerSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OptimizerSnapshot")
    }
}

/// What of a model or its optimizer is not finite: a number that means the same on all ranks.
pub(in crate::checkpoint) type NotFinite = Option<usize>;

impl Snapshot {
    /// What this rank, `of.0` of `of.1`, has of a sharded model and its optimizer.
    ///
    /// # Errors
    /// [`Error::Model`](crate::Error::Model) if the model is not sharded, or the optimizer has states of another.
    pub(in crate::checkpoint) fn of<M: Module + 'static>(
        name: &str,
        model: &M,
        optimizer: Option<&ModuleOptimizer>,
        of: (usize, usize),
    ) -> Result<Self> {
        let state = ModelState::of(model, of)?;
        let optimizer = match optimizer {
            None => None,
            Some(optimizer) => {
                check_parameters(optimizer, &state.paths)?;
                let (copy, model, paths) = (optimizer.clone(), model.clone(), state.paths.clone());
                Some(OptimizerSnapshot {
                    held: Held::Shared(optimizer.clone()),
                    trial: Trial::Awaited(Box::new(move || trial::observe(&copy, &model, &paths))),
                })
            }
        };
        Ok(Self {
            name: name.into(),
            model: state,
            replicas: Replicas::of(&StoredShards::of_sharded(model)?),
            optimizer,
        })
    }

    /// Copies to the host what lies on a device, where training would change it.
    pub(in crate::checkpoint) fn hold(&mut self) -> Result<()> {
        let mut is_device = false;
        for tensor in &mut self.model.tensors {
            if tensor.shard.host_bytes().is_none() {
                is_device = true;
                tensor.shard = tensor.shard.on_host()?;
            }
        }
        if !is_device {
            return Ok(());
        }
        self.replicas.read()?;
        if let Some(optimizer) = &mut self.optimizer {
            optimizer.trial = Trial::Done(optimizer.trial.result()?);
            let mut all = Vec::new();
            optimizer.states(&self.model, |states| {
                all.push(states);
                Ok(())
            })?;
            optimizer.held = Held::Copied(all);
        }
        Ok(())
    }

    /// An upper bound of the bytes that this part needs in the header of the rank's file; only where an optimizer
    /// keeps more of a parameter than in its trial it is none.
    pub(in crate::checkpoint) fn header(&self, behaviour: Option<&OptimizerBehaviour>) -> usize {
        let entry = |name: usize| name + self.name.len() + HEADER_ENTRY;
        let tensors = self.model.tensors.iter().map(|stored| {
            let path = &stored.facts.name;
            let fields = behaviour.and_then(|behaviour| behaviour.kept(path));
            let states = fields.into_iter().flatten();
            let states = states.map(|field| entry(path.len() + field.len()));
            entry(path.len()) + states.sum::<usize>()
        });
        tensors.sum()
    }

    /// The behaviour of the optimizer; none if there is no optimizer, or it panicked in the trial.
    pub(in crate::checkpoint) fn behaviour(&self) -> Result<Option<OptimizerBehaviour>> {
        match &self.optimizer {
            None => Ok(None),
            Some(optimizer) => optimizer.trial.result(),
        }
    }

    /// Writes what this rank writes of it; also returns the first tensor that is not finite, in module order.
    ///
    /// Frozen parameters are not looked at: no training step has changed them.
    pub(in crate::checkpoint) fn write(
        &self,
        behaviour: Option<OptimizerBehaviour>,
        out: &mut DataWriter,
    ) -> Result<(RankModel, NotFinite)> {
        let mut first: NotFinite = None;
        let mut note = |number: usize| {
            if first.is_none_or(|first| number < first) {
                first = Some(number);
            }
        };
        let mut tensors = Vec::new();
        for (at, stored) in self.model.tensors.iter().enumerate() {
            let bytes = stored.shard.read()?;
            let bytes = &bytes[stored.written_bytes(stored.dtype.size())];
            if !bytes.is_empty() {
                let name = model_tensor(&self.name, &stored.facts.name);
                let finite = out.put(name, stored.dtype, bytes)?;
                if !finite && stored.facts.kind != Kind::Frozen {
                    note(2 * at);
                }
            }
            tensors.push(RankTensor::new(stored.facts.clone(), &stored.written));
        }
        let mut optimizer = None;
        if let Some(snapshot) = &self.optimizer {
            let mut states = RankStates {
                behaviour,
                ..RankStates::default()
            };
            snapshot.states(&self.model, |read| {
                read.check_types()?;
                for state in &read.tensors {
                    let path = path_of(&state.name);
                    let Some(stored) = self.model.tensor(path) else {
                        continue;
                    };
                    let (tensor, finite) = self.write_state(stored, state, out)?;
                    states.tensors.push(tensor);
                    if let Some(at) = self.model.position(path).filter(|_| !finite) {
                        note(2 * at + 1);
                    }
                }
                states.scalars.extend(read.scalars);
                Ok(())
            })?;
            optimizer = Some(states);
        }
        let model = RankModel {
            strategy: self.model.strategies.clone(),
            forwards: self.model.forwards.clone(),
            tensors,
            optimizer,
        };
        Ok((model, first))
    }

    fn write_state(
        &self,
        stored: &StoredTensor,
        state: &StateTensor,
        out: &mut DataWriter,
    ) -> Result<(RankTensor, bool)> {
        let facts = |shape: &[usize]| TensorFacts {
            name: state.name.clone(),
            shape: shape.to_vec(),
            dtype: state.dtype.name().to_string(),
            kind: Kind::State,
            quantized: None,
        };
        let name = optimizer_tensor(&self.name, &state.name);
        // All of a state of what a rank steps whole is there.
        if let Some(owned) = stored.owned {
            let len: usize = state.shape.iter().product();
            let is_written = owned.is_written && len > 0;
            let finite = !is_written || out.put(name, state.dtype, &state.bytes)?;
            let written = 0..if is_written { len } else { 0 };
            return Ok((RankTensor::new(facts(&state.shape), &written), finite));
        }
        // A state of the shape of what it is kept of has an element for each of the parameter's.
        if state.shape == stored.stored_shape {
            let bytes = &state.bytes[stored.written_bytes(state.dtype.size())];
            let finite = bytes.is_empty() || out.put(name, state.dtype, bytes)?;
            let tensor = RankTensor::new(facts(&stored.facts.shape), &stored.written);
            return Ok((tensor, finite));
        }
        // Any other is of the whole parameter, and written by the rank that writes its first element.
        let len: usize = state.shape.iter().product();
        let is_mine = stored.written.contains(&0);
        let is_written = is_mine && len > 0;
        let finite = !is_written || out.put(name, state.dtype, &state.bytes)?;
        let written = 0..if is_mine { len } else { 0 };
        Ok((RankTensor::new(facts(&state.shape), &written), finite))
    }

    /// The name of what a number of [`write`](Self::write) means.
    pub(in crate::checkpoint) fn not_finite_name(&self, number: usize) -> String {
        let stored = self.model.tensors.get(number / 2);
        let path = stored.map_or("this model", |stored| &stored.facts.name);
        if number.is_multiple_of(2) {
            path.to_string()
        } else {
            format!("the optimizer's state of {path}")
        }
    }
}

impl Trial {
    fn result(&self) -> Result<Option<OptimizerBehaviour>> {
        match self {
            Self::Awaited(observe) => observe(),
            Self::Done(behaviour) => Ok(behaviour.clone()),
        }
    }
}

impl OptimizerSnapshot {
    /// Hands on the states, those of a few parameters at a time.
    fn states(
        &self,
        model: &ModelState,
        mut each: impl FnMut(OptimizerState) -> Result<()>,
    ) -> Result<()> {
        let optimizer = match &self.held {
            Held::Shared(optimizer) => optimizer,
            Held::Copied(all) => return all.iter().cloned().try_for_each(each),
        };
        let sizes: BTreeMap<&str, usize> = model
            .tensors
            .iter()
            .map(|tensor| (tensor.facts.name.as_str(), tensor.shard.size()))
            .collect();
        // In the order of the paths, so that a file comes out the same again.
        let mut ids: Vec<(&str, u64)> = model
            .paths
            .iter()
            .map(|(id, p)| (p.as_str(), *id))
            .collect();
        ids.sort_unstable();
        let (mut some, mut bytes) = (Vec::new(), 0);
        for (path, id) in ids {
            some.push(ParamId::from(id));
            bytes += sizes.get(path).copied().unwrap_or_default();
            if bytes >= AT_A_TIME {
                let ids = std::mem::take(&mut some);
                each(OptimizerState::of_some(optimizer, ids, &model.paths)?)?;
                bytes = 0;
            }
        }
        each(OptimizerState::of_some(optimizer, some, &model.paths)?)
    }
}
