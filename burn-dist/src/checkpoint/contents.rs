//! What a rank holds of a model, as a save sees it.

use super::manifest::Described;
use super::optimizer::{StateTensor, States, path_of};
use crate::error::{Error, Result};
use crate::file_type::file_type;
use crate::finite::is_finite;
use crate::shard::{Shard, ShardedParam, Sharding, Visit, not_sharded, walk};
use burn::module::{Module, Param};
use burn::tensor::{DType, Tensor};
use safetensors::tensor::TensorView;
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Where a rank's file keeps the numbers of the optimizer and the list of all that it keeps: one entry,
/// for the entries of a header come in an order that differs from run to run.
pub(super) const OPTIMIZER: &str = "optimizer";

/// What a rank holds of a model.
#[derive(Debug)]
pub(super) struct Contents {
    /// The strategies of the parts that the model was sharded in.
    pub(super) strategies: String,
    pub(super) parameters: Vec<Described>,
    /// Shards and running state, in the order of the model.
    pub(super) shards: Vec<Stored>,
    /// The path of each parameter's id.
    pub(super) paths: HashMap<u64, String>,
    /// Where each path is among the shards.
    positions: HashMap<String, usize>,
}

/// What a rank stores of one tensor of a model.
#[derive(Debug)]
pub(super) struct Stored {
    /// As in the file.
    pub(super) name: String,
    pub(super) path: String,
    pub(super) shard: Shard,
    pub(super) dtype: DType,
    pub(super) shape: Vec<usize>,
    /// Whether training changes it.
    changes: bool,
}

/// The elements of all shards, in their order; on the host.
pub(super) type Elements<'a> = Vec<Cow<'a, [u8]>>;

impl Contents {
    pub(super) fn of<M: Module>(model: &M) -> Result<Self> {
        let mut look = Look::default();
        walk(model, &mut look);
        if look.parts.is_empty() {
            return Err(not_sharded());
        }
        let strategies = look.parts.iter().map(|part| part.strategy.to_string());
        let shards = look.shards.into_iter().collect::<Result<Vec<_>>>()?;
        let positions = shards.iter().enumerate();
        let positions = positions
            .map(|(at, stored)| (stored.path.clone(), at))
            .collect();
        Ok(Self {
            strategies: strategies.collect::<Vec<_>>().join(" and "),
            parameters: look.parameters,
            shards,
            paths: look.paths,
            positions,
        })
    }

    /// The shape of this rank's shard of a parameter.
    pub(super) fn shape(&self, path: &str) -> Option<&Vec<usize>> {
        self.positions.get(path).map(|at| &self.shards[*at].shape)
    }

    pub(super) fn elements(&self) -> Result<Elements<'_>> {
        self.shards
            .iter()
            .map(|stored| stored.shard.read())
            .collect()
    }

    /// The first thing that is not finite, in the order of the model: see [`name`](Self::name).
    ///
    /// What is frozen may hold what it likes: no step has made it so.
    pub(super) fn not_finite(&self, elements: &Elements<'_>, states: &States) -> Option<usize> {
        let shards = self.shards.iter().zip(elements).enumerate();
        let shard = shards
            .filter(|(_, (stored, _))| stored.changes)
            .find(|(_, (stored, bytes))| !is_finite(bytes, stored.dtype))
            .map(|(at, _)| 2 * at);
        let state = |t: &StateTensor| {
            let at = self.positions.get(path_of(&t.name))?;
            (!is_finite(&t.bytes, t.dtype)).then_some(2 * at + 1)
        };
        shard
            .into_iter()
            .chain(states.tensors.iter().filter_map(state))
            .min()
    }

    /// What a number of [`not_finite`](Self::not_finite) means, on any rank.
    pub(super) fn name(&self, number: usize) -> String {
        let path = self
            .shards
            .get(number / 2)
            .map_or("this model", |stored| &stored.path);
        match number % 2 {
            0 => path.to_string(),
            _ => format!("the optimizer's state of {path}"),
        }
    }

    /// Writes this rank's file of a save, which others may read as far as the umask lets them.
    pub(super) fn write(
        &self,
        elements: &Elements<'_>,
        states: &States,
        path: &Path,
    ) -> Result<()> {
        let failed = |e: &dyn std::fmt::Display| Error::file(path, "to be written", e);
        let mut tensors = BTreeMap::new();
        for (stored, bytes) in self.shards.iter().zip(elements) {
            let len = bytes.len() / stored.dtype.size();
            let view = view(stored.dtype, vec![len], bytes, path)?;
            tensors.insert(stored.name.clone(), view);
        }
        for state in &states.tensors {
            let view = view(state.dtype, state.shape.clone(), &state.bytes, path)?;
            tensors.insert(format!("optimizer/{}", state.name), view);
        }
        // What there is, so that nothing can be missing later.
        let kept = (&states.scalars, states.kept(self));
        let kept = serde_json::to_string(&kept).map_err(|e| failed(&e))?;
        let header = HashMap::from([(OPTIMIZER.into(), kept)]);
        let write = || {
            // The crate writes to another file first, which nobody else may read, and renames it.
            let permissions = File::create(path)?.metadata()?.permissions();
            safetensors::serialize_to_file(tensors, Some(header), path)
                .map_err(io::Error::other)?;
            let file = File::open(path)?;
            file.set_permissions(permissions)?;
            file.sync_all()
        };
        write().map_err(|e| failed(&e))
    }
}

fn view<'a>(
    dtype: DType,
    shape: Vec<usize>,
    bytes: &'a [u8],
    path: &Path,
) -> Result<TensorView<'a>> {
    let known = file_type(dtype)
        .ok_or_else(|| Error::file(path, "float or integer tensors", dtype.name()))?;
    TensorView::new(known, shape, bytes).map_err(|e| Error::file(path, "whole tensors", e))
}

#[derive(Default)]
struct Look {
    /// What the model was sharded in.
    parts: Vec<Arc<Sharding>>,
    parameters: Vec<Described>,
    shards: Vec<Result<Stored>>,
    paths: HashMap<u64, String>,
}

/// A tensor before it is known whether it is sharded.
struct Held {
    id: u64,
    dtype: DType,
    shape: Vec<usize>,
    shard: Result<Shard>,
}

impl Held {
    fn stored(self, kind: &str, path: &str, changes: bool) -> Result<Stored> {
        Ok(Stored {
            name: format!("{kind}/{path}"),
            path: path.to_string(),
            shard: self.shard?,
            dtype: self.dtype,
            shape: self.shape,
            changes,
        })
    }
}

impl Visit for Look {
    type Held = Held;

    fn hold<const D: usize>(&mut self, param: &Param<Tensor<D>>) -> Held {
        let stored = param.base();
        Held {
            id: param.id.val(),
            dtype: stored.dtype(),
            shape: stored.dims().to_vec(),
            shard: Shard::of(stored),
        }
    }

    fn sharded(&mut self, path: &str, held: Held, identity: ShardedParam) {
        let ShardedParam {
            sharding,
            unit,
            slot,
        } = identity;
        let layout = &sharding.unit(unit).layout;
        let described = Described::new(path, layout, slot, sharding.shard_group.size());
        self.parameters.push(described);
        self.paths.insert(held.id, path.to_string());
        let trainable = layout.trainable;
        self.shards.push(held.stored("parameter", path, trainable));
        if !self.parts.iter().any(|part| Arc::ptr_eq(part, &sharding)) {
            self.parts.push(sharding);
        }
    }

    fn plain(&mut self, path: &str, held: Held) {
        self.shards.push(held.stored("state", path, true));
    }
}
