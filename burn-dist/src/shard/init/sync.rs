//! The broadcast of values that a model has before it is sharded, from rank 0, as DDP does.

use super::survey::Buffer;
use super::values::ValueSource;
use crate::comm::{Label, SpanMut};
use crate::error::{Error, Result};
use crate::noise::Noise;
use crate::shard::memory::{Shard, encode};
use crate::shard::model::{MapTensors, ShardedParam, VisitTensors, map_tensors, visit_tensors};
use crate::world::World;
use burn::module::{Module, Param};
use burn::tensor::quantization::QuantScheme;
use burn::tensor::{Bool, Bytes, DType, FloatDType, Int, Tensor, TensorData};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;

/// Bytes that are sent at once; a rank keeps no more than this beside its own shard.
const BLOCK: usize = 1 << 24;

/// A tensor whose values are to come from rank 0.
#[derive(Debug)]
pub(crate) struct SyncedTensor {
    path: String,
    /// The full shape and the type of what is stored, the same on all ranks.
    shape: Vec<usize>,
    dtype: DType,
    /// How it is quantized, and its own type.
    quantized: Option<(QuantScheme, DType)>,
    /// The elements that this rank stores.
    range: Range<usize>,
}

impl SyncedTensor {
    /// The shard that this rank stores of a parameter.
    pub(crate) fn shard(
        ShardedParam {
            sharding,
            unit,
            slot,
        }: &ShardedParam,
    ) -> Self {
        let layout = &sharding.unit(*unit).layout;
        let range = layout.shard_range(*slot, sharding.shard_rank(*unit));
        let slot = &layout.slots[*slot];
        Self {
            path: slot.path.clone(),
            shape: slot.stored_shape(),
            dtype: layout.dtype,
            quantized: slot.quantized.map(|scheme| (scheme, slot.dtype)),
            range,
        }
    }

    /// All of a buffer.
    pub(crate) fn buffer(buffer: &Buffer) -> Self {
        Self {
            path: buffer.path.clone(),
            shape: buffer.shape.clone(),
            dtype: buffer.dtype,
            quantized: None,
            range: 0..buffer.shape.iter().product(),
        }
    }
}

/// This rank's shards of the tensors that rank 0 has broadcast.
#[derive(Debug, Default)]
pub(crate) struct SyncedValues(BTreeMap<String, (SyncedTensor, Vec<u8>)>);

impl SyncedValues {
    /// Receives what is wanted from rank 0, in the order of the list. Collective.
    ///
    /// # Cost
    /// A broadcast of every tensor that is wanted, in blocks; none for an empty list.
    pub(crate) fn from_rank_0<M: Module>(
        world: &World,
        model: &M,
        wanted: Vec<SyncedTensor>,
        is_full: bool,
    ) -> Result<Self> {
        if wanted.is_empty() {
            return Ok(Self::default());
        }
        let mut values = BTreeMap::new();
        world.together("read the values that the model has already", || {
            if world.is_chief() {
                values = CollectValues::of(model, &wanted, is_full)?.found;
            }
            Ok([0; 2])
        })?;
        let mut received = BTreeMap::new();
        for wanted in wanted {
            let full = values.remove(&wanted.path);
            let full = full.as_ref().map(FullTensor::bytes).transpose()?;
            let shard = wanted.receive(world, full.as_deref())?;
            received.insert(wanted.path.clone(), (wanted, shard));
        }
        Ok(Self(received))
    }

    /// Replaces this rank's integers and booleans by rank 0's.
    pub(crate) fn fill<M: Module>(&self, model: M) -> M {
        if self.0.is_empty() {
            model
        } else {
            map_tensors(model, &mut FillIntegers { received: self })
        }
    }

    fn data(&self, path: &str) -> Option<TensorData> {
        let (wanted, bytes) = self.0.get(path)?;
        let bytes = Bytes::from_bytes_vec(bytes.clone());
        Some(TensorData::from_bytes(
            bytes,
            wanted.shape.clone(),
            wanted.dtype,
        ))
    }
}

impl SyncedTensor {
    /// This rank's elements as bytes; `full` are all of them, on rank 0.
    fn receive(&self, world: &World, full: Option<&[u8]>) -> Result<Vec<u8>> {
        let size = self.dtype.size();
        let all = self.shape.iter().product::<usize>() * size;
        let mine = self.range.start * size..self.range.end * size;
        let mut shard = vec![0; mine.len()];
        let label = Label::new("values of rank 0").with_detail(self.path.as_str());
        let mut block = vec![0u8; BLOCK.min(all)];
        for start in (0..all).step_by(BLOCK) {
            let end = (start + BLOCK).min(all);
            let block = &mut block[..end - start];
            if let Some(full) = full {
                block.copy_from_slice(&full[start..end]);
            }
            world
                .comm()
                .broadcast(&label, 0, SpanMut::of(&mut *block))?;
            let (from, to) = (start.max(mine.start), end.min(mine.end));
            if from < to {
                shard[from - mine.start..to - mine.start]
                    .copy_from_slice(&block[from - start..to - start]);
            }
        }
        Ok(shard)
    }
}

impl ValueSource for SyncedValues {
    fn has(&self, path: &str) -> bool {
        self.0.contains_key(path)
    }

    fn is_quantized(&self, path: &str) -> bool {
        let wanted = self.0.get(path);
        wanted.is_some_and(|(wanted, _)| wanted.quantized.is_some())
    }

    fn read(&self, path: &str, range: Range<usize>, _: DType, into: &mut [u8]) {
        if let Some((wanted, bytes)) = self.0.get(path) {
            debug_assert_eq!(wanted.range, range);
            into.copy_from_slice(bytes);
        }
    }
}

/// Values from files where they have them, and else from rank 0.
pub(crate) struct InitialValues<'a> {
    pub(crate) files: Option<&'a dyn ValueSource>,
    pub(crate) received: &'a SyncedValues,
}

impl<'a> InitialValues<'a> {
    /// The source of the values at `path`; `None` if they are to be drawn.
    pub(crate) fn of(&self, path: &str) -> Option<&'a dyn ValueSource> {
        let files = self.files.filter(|files| files.has(path));
        let received = || {
            self.received
                .has(path)
                .then_some(self.received as &dyn ValueSource)
        };
        files.or_else(received)
    }
}

/// Initialises those of the parameters at `paths` that are lazy on rank 0.
///
/// Each has a seed of its own, so that its values do not depend on which others were initialised before.
pub(crate) fn draw<M: Module>(model: &M, paths: &BTreeSet<String>, world: &World, number: u64) {
    let mut draw = Draw {
        paths,
        world,
        number,
    };
    visit_tensors(model, &mut draw);
}

struct Draw<'a> {
    paths: &'a BTreeSet<String>,
    world: &'a World,
    number: u64,
}

impl VisitTensors for Draw<'_> {
    fn float<const D: usize>(&mut self, path: &str, param: &Param<Tensor<D>>) {
        if self.paths.contains(path) && !param.is_initialized() {
            let mut site = DefaultHasher::new();
            path.hash(&mut site);
            let noise = Noise::new(self.world.seed(), self.number, 0);
            self.world.device().seed(noise.number(site.finish() as u32));
            // The value is shared with every clone of the parameter.
            let _ = param.base();
        }
    }
}

/// Collects rank 0's values of the wanted tensors, in the type in which they are stored.
struct CollectValues {
    wanted: BTreeMap<String, (DType, Option<QuantScheme>)>,
    /// Parameters are stored in the type they have, not in that of a precision policy.
    is_full: bool,
    found: BTreeMap<String, FullTensor>,
    result: Result<()>,
}

/// All elements of a tensor of rank 0.
enum FullTensor {
    Float(Box<Shard>),
    /// Integers or booleans.
    Other(TensorData),
    /// Of a quantized parameter.
    Quantized(Vec<u8>),
}

impl FullTensor {
    fn bytes(&self) -> Result<Cow<'_, [u8]>> {
        match self {
            Self::Float(shard) => shard.read(),
            Self::Other(data) => Ok(data.as_bytes().into()),
            Self::Quantized(bytes) => Ok(bytes.into()),
        }
    }
}

impl CollectValues {
    fn of<M: Module>(model: &M, wanted: &[SyncedTensor], is_full: bool) -> Result<Self> {
        let wanted = wanted.iter().map(|w| {
            let (scheme, dtype) = w.quantized.map_or((None, w.dtype), |(s, d)| (Some(s), d));
            (w.path.clone(), (dtype, scheme))
        });
        let mut values = Self {
            wanted: wanted.collect(),
            is_full,
            found: BTreeMap::new(),
            result: Ok(()),
        };
        visit_tensors(model, &mut values);
        std::mem::replace(&mut values.result, Ok(())).map(|()| values)
    }

    /// Adds a tensor if it is wanted; `read` returns its elements in the type in which it is stored.
    fn add(
        &mut self,
        path: &str,
        read: impl FnOnce(DType, Option<QuantScheme>) -> Result<FullTensor>,
    ) {
        if let Some((dtype, scheme)) = self.wanted.get(path).copied() {
            match read(dtype, scheme) {
                Ok(full) => drop(self.found.insert(path.into(), full)),
                Err(error) => self.result = Err(error),
            }
        }
    }
}

impl VisitTensors for CollectValues {
    fn float<const D: usize>(&mut self, path: &str, param: &Param<Tensor<D>>) {
        let is_full = self.is_full;
        self.add(path, |dtype, scheme| {
            if let Some(scheme) = &scheme {
                let bytes = quantized(path, param.base(), is_full, dtype, scheme)?;
                return Ok(FullTensor::Quantized(bytes));
            }
            let stored = as_stored(path, param.base(), is_full, dtype)?;
            Ok(FullTensor::Float(Box::new(Shard::of(stored)?)))
        });
    }

    fn int<const D: usize>(&mut self, path: &str, param: &Param<Tensor<D, Int>>) {
        self.add(path, |_, _| Ok(FullTensor::Other(param.base().into_data())));
    }

    fn bool<const D: usize>(&mut self, path: &str, param: &Param<Tensor<D, Bool>>) {
        self.add(path, |_, _| Ok(FullTensor::Other(param.base().into_data())));
    }
}

/// Replaces a model's integers and booleans by those that were received.
struct FillIntegers<'a> {
    received: &'a SyncedValues,
}

impl MapTensors for FillIntegers<'_> {
    fn int<const D: usize>(
        &mut self,
        path: &str,
        param: Param<Tensor<D, Int>>,
    ) -> Param<Tensor<D, Int>> {
        match self.received.data(path) {
            Some(data) => param.map(|old| Tensor::from_data(data, (&old.device(), old.dtype()))),
            None => param,
        }
    }

    fn bool<const D: usize>(
        &mut self,
        path: &str,
        param: Param<Tensor<D, Bool>>,
    ) -> Param<Tensor<D, Bool>> {
        match self.received.data(path) {
            Some(data) => param.map(|old| Tensor::from_data(data, &old.device())),
            None => param,
        }
    }
}

/// The bytes of a parameter of type `dtype` that is to be quantized, or is.
pub(super) fn quantized<const D: usize>(
    path: &str,
    full: Tensor<D>,
    is_full_precision: bool,
    dtype: DType,
    scheme: &QuantScheme,
) -> Result<Vec<u8>> {
    let full = if let DType::QFloat(_) = full.dtype() {
        full
    } else {
        as_stored(path, full, is_full_precision, dtype)?
    };
    encode(path, full, scheme)
}

/// A whole tensor in the type `dtype` in which it is to be stored: under a precision policy that is
/// f32, whatever the model came in.
pub(super) fn as_stored<const D: usize>(
    path: &str,
    full: Tensor<D>,
    is_full_precision: bool,
    dtype: DType,
) -> Result<Tensor<D>> {
    let full = if is_full_precision {
        full
    } else {
        full.cast(FloatDType::F32)
    };
    if full.dtype() == dtype {
        Ok(full)
    } else {
        Err(Error::model(
            path,
            format!(
                "was initialised as {} on a device whose floats are {}",
                full.dtype().name(),
                dtype.name()
            ),
            "initialise it before sharding, or set the device's float type",
        ))
    }
}
