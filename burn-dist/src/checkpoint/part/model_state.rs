//! The tensors that a rank stores of a model, each with its place in the whole tensor.

use super::places::{places, share};
use crate::checkpoint::format::{Kind, TensorFacts};
use crate::error::Result;
use crate::quantization;
use crate::shard::{
    Shard, ShardedParam, Sharding, StoredShards, Visit, VisitTensors, is_trainable, visit_tensors,
    walk,
};
use burn::module::{Module, Param};
use burn::tensor::{Bool, DType, Int, Tensor, TensorData};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

/// What a rank stores of a model, or all of a model that is on one device.
#[derive(Debug)]
pub(in crate::checkpoint) struct ModelState {
    /// The strategies of the parts that the model was sharded in.
    pub(in crate::checkpoint) strategies: String,
    /// The parts, by their paths in the model.
    parts: Vec<(String, Arc<Sharding>)>,
    /// Forwards that each part had run in training, by its path.
    pub(in crate::checkpoint) forwards: BTreeMap<String, u64>,
    /// Floats in module order, then integers and booleans.
    pub(in crate::checkpoint) tensors: Vec<StoredTensor>,
    /// The path of each parameter's id.
    pub(in crate::checkpoint) paths: HashMap<u64, String>,
    /// The index in `tensors` of each path.
    positions: HashMap<String, usize>,
}

/// The part of a tensor that a rank stores.
#[derive(Debug)]
pub(in crate::checkpoint) struct StoredTensor {
    pub(in crate::checkpoint) facts: TensorFacts,
    pub(in crate::checkpoint) dtype: DType,
    pub(in crate::checkpoint) shard: Shard,
    /// The shape in which it is stored.
    pub(in crate::checkpoint) stored_shape: Vec<usize>,
    /// Its elements, by their numbers in the whole tensor.
    pub(in crate::checkpoint) stored: Range<usize>,
    /// Those of them that this rank writes, so that each element is written by one rank.
    pub(in crate::checkpoint) written: Range<usize>,
    /// Where its optimizer's states are, if one rank steps it whole.
    pub(in crate::checkpoint) owned: Option<OwnedState>,
}

/// What a rank has to do with the states of a parameter that one of the ranks that share it steps whole.
#[derive(Debug, Clone, Copy)]
pub(in crate::checkpoint) struct OwnedState {
    /// Whether it is this rank that has them, whole.
    pub(in crate::checkpoint) is_here: bool,
    /// Whether it is this rank that writes them: the owner of the first replica.
    pub(in crate::checkpoint) is_written: bool,
}

impl ModelState {
    /// What this rank stores of a sharded model, which is `rank` of `ranks`.
    ///
    /// # Errors
    /// [`Error::Model`](crate::Error::Model) if it is not sharded, [`Error::Config`](crate::Error::Config) for a
    /// tensor on a device that the engine does not support.
    pub(in crate::checkpoint) fn of<M: Module>(
        model: &M,
        (rank, ranks): (usize, usize),
    ) -> Result<Self> {
        // Fails for a model that is not sharded.
        StoredShards::of_sharded(model)?;
        Self::find(model, (rank, ranks))
    }

    /// All of a model that one device has.
    pub(in crate::checkpoint) fn of_plain<M: Module>(model: &M) -> Result<Self> {
        Self::find(model, (0, 1))
    }

    fn find<M: Module>(model: &M, of: (usize, usize)) -> Result<Self> {
        let mut found = FindTensors {
            of,
            parts: Vec::new(),
            tensors: Vec::new(),
            paths: HashMap::new(),
        };
        walk(model, &mut found);
        visit_tensors(model, &mut found);
        let strategies = found
            .parts
            .iter()
            .map(|(_, part)| part.strategy.to_string());
        let tensors = found.tensors.into_iter().collect::<Result<Vec<_>>>()?;
        let positions = tensors.iter().enumerate();
        let positions = positions
            .map(|(at, stored)| (stored.facts.name.clone(), at))
            .collect();
        Ok(Self {
            strategies: strategies.collect::<Vec<_>>().join(" and "),
            forwards: found
                .parts
                .iter()
                .map(|(path, part)| (path.clone(), part.forwards()))
                .collect(),
            parts: found.parts,
            tensors,
            paths: found.paths,
            positions,
        })
    }

    /// Goes on counting the forwards of each part. One that was sharded with others goes on from the largest of
    /// their counts: none of what it drew comes again.
    pub(in crate::checkpoint) fn set_forwards(&self, saved: &BTreeMap<String, u64>) {
        let most = saved.values().copied().max().unwrap_or_default();
        for (path, part) in &self.parts {
            part.set_forwards(saved.get(path).copied().unwrap_or(most));
        }
    }

    /// The tensor of a name.
    pub(in crate::checkpoint) fn tensor(&self, name: &str) -> Option<&StoredTensor> {
        self.positions.get(name).map(|at| &self.tensors[*at])
    }

    /// The place of a tensor in module order.
    pub(in crate::checkpoint) fn position(&self, name: &str) -> Option<usize> {
        self.positions.get(name).copied()
    }
}

impl StoredTensor {
    /// The bytes of what this rank writes in those of all that it stores.
    pub(in crate::checkpoint) fn written_bytes(&self, size: usize) -> Range<usize> {
        let from = self.stored.start;
        (self.written.start - from) * size..(self.written.end - from) * size
    }
}

struct FindTensors {
    /// This rank among all.
    of: (usize, usize),
    parts: Vec<(String, Arc<Sharding>)>,
    tensors: Vec<Result<StoredTensor>>,
    paths: HashMap<u64, String>,
}

/// A tensor of which is not known yet if it is sharded.
struct VisitedTensor {
    id: u64,
    trainable: bool,
    dtype: DType,
    shape: Vec<usize>,
    shard: Result<Shard>,
}

impl VisitedTensor {
    fn stored(
        self,
        name: &str,
        shape: Vec<usize>,
        kind: Kind,
        stored: Range<usize>,
        written: Range<usize>,
    ) -> Result<StoredTensor> {
        Ok(StoredTensor {
            facts: TensorFacts {
                name: name.to_string(),
                shape,
                dtype: self.dtype.name().to_string(),
                kind,
                quantized: None,
            },
            dtype: self.dtype,
            shard: self.shard?,
            stored_shape: self.shape,
            stored,
            written,
            owned: None,
        })
    }

    /// A tensor that this rank has all of.
    fn whole(self, name: &str, kind: Kind, of: (usize, usize)) -> Result<StoredTensor> {
        let shape = self.shape.clone();
        let len = shape.iter().product();
        self.stored(name, shape, kind, 0..len, share(len, of))
    }
}

impl Visit for FindTensors {
    type Held = VisitedTensor;

    fn hold<const D: usize>(&mut self, param: &Param<Tensor<D>>) -> VisitedTensor {
        let stored = param.base();
        VisitedTensor {
            id: param.id.val(),
            trainable: is_trainable(param),
            dtype: stored.dtype(),
            shape: stored.dims().to_vec(),
            shard: Shard::of(stored),
        }
    }

    fn sharded(&mut self, path: &str, held: VisitedTensor, identity: ShardedParam) {
        let ShardedParam {
            sharding,
            unit,
            slot,
        } = identity;
        let layout = &sharding.unit(unit).layout;
        let replica = if layout.is_replicated() {
            self.of
        } else {
            let replicas = &sharding.replica_group;
            (replicas.rank(), replicas.size())
        };
        let (stored, written) = places(layout, slot, sharding.shard_rank(unit), replica);
        let kind = kind(layout.trainable);
        let shape = layout.slots[slot].stored_shape();
        // The layout's paths begin at the module that was sharded, which may be a part of the model.
        let inner = &layout.slots[slot].path;
        let outer = path.strip_suffix(inner.as_str()).unwrap_or_default();
        self.paths.insert(held.id, path.to_string());
        let owned = sharding.owners.of(unit, slot).map(|owner| {
            let is_here = owner == sharding.shard_group.rank();
            OwnedState {
                is_here,
                is_written: is_here && sharding.replica_group.rank() == 0,
            }
        });
        let held = VisitedTensor {
            dtype: layout.dtype,
            ..held
        };
        let tensor = held.stored(path, shape, kind, stored, written);
        let parameter = &layout.slots[slot];
        let quantized = parameter.quantized.as_ref().map(|scheme| {
            let (scheme, dtype) = (quantization::name(scheme), parameter.dtype.name());
            format!("quantized from {:?} {dtype} as {scheme}", parameter.shape)
        });
        let tensor = tensor.map(|tensor| StoredTensor {
            owned,
            facts: TensorFacts {
                quantized,
                ..tensor.facts
            },
            ..tensor
        });
        self.tensors.push(tensor);
        if !self.parts.iter().any(|(_, p)| Arc::ptr_eq(p, &sharding)) {
            let outer = outer.trim_end_matches('.').to_string();
            self.parts.push((outer, sharding));
        }
    }

    fn plain(&mut self, path: &str, held: VisitedTensor) {
        let kind = if held.trainable {
            self.paths.insert(held.id, path.to_string());
            Kind::Trainable
        } else {
            Kind::Buffer
        };
        self.tensors.push(held.whole(path, kind, self.of));
    }

    fn ignored(&mut self, path: &str, held: VisitedTensor) {
        let tensor = held.whole(path, Kind::Frozen, self.of);
        self.tensors.push(tensor);
    }
}

impl FindTensors {
    /// A tensor of integers or booleans, which rank 0 writes.
    fn other(&mut self, path: &str, data: &TensorData) {
        let (dtype, shape) = (data.dtype(), data.shape().to_vec());
        let len: usize = shape.iter().product();
        self.tensors.push(Ok(StoredTensor {
            facts: TensorFacts {
                name: path.to_string(),
                shape: shape.clone(),
                dtype: dtype.name().to_string(),
                kind: Kind::Buffer,
                quantized: None,
            },
            dtype,
            shard: Shard::of_bytes(data.as_bytes().to_vec()),
            stored_shape: shape,
            stored: 0..len,
            written: 0..if self.of.0 == 0 { len } else { 0 },
            owned: None,
        }));
    }
}

impl VisitTensors for FindTensors {
    fn int<const D: usize>(&mut self, path: &str, param: &Param<Tensor<D, Int>>) {
        self.other(path, &param.base().into_data());
    }

    fn bool<const D: usize>(&mut self, path: &str, param: &Param<Tensor<D, Bool>>) {
        self.other(path, &param.base().into_data());
    }
}

fn kind(trainable: bool) -> Kind {
    if trainable {
        Kind::Trainable
    } else {
        Kind::Frozen
    }
}
