//! Putting saved states into an optimizer.

use super::optimizer_state::{OptimizerState, check_type, failed};
use super::scalar::scalar;
use crate::error::{Error, Result};
use burn::optim::ModuleOptimizer;
use burn::tensor::{Bytes, DType};
use burn_pack::{Tensor, Writer};
use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

/// The states that an optimizer is to get, whose elements are read when it takes them.
#[derive(Debug, Default)]
pub(in crate::checkpoint) struct StatesToLoad {
    pub(in crate::checkpoint) tensors: Vec<StateToLoad>,
    /// As in [`OptimizerState`].
    pub(in crate::checkpoint) scalars: BTreeMap<String, String>,
}

/// A tensor of an optimizer's state.
#[derive(Debug, Clone)]
pub(in crate::checkpoint) struct StateToLoad {
    /// Parameter path and field.
    pub(in crate::checkpoint) name: String,
    pub(in crate::checkpoint) dtype: DType,
    pub(in crate::checkpoint) shape: Vec<usize>,
}

/// Writes the elements of the tensor with this number to the buffer.
pub(in crate::checkpoint) trait ReadState: Send {
    fn read(&mut self, number: usize, into: &mut [u8]) -> Result<()>;
}

/// Elements that tell one another apart, for a trial.
struct Counted;

impl ReadState for Counted {
    fn read(&mut self, number: usize, into: &mut [u8]) -> Result<()> {
        let bytes = into.iter_mut().enumerate();
        bytes.for_each(|(at, byte)| *byte = (number * 7 + at) as u8 % 100 + 1);
        Ok(())
    }
}

impl StatesToLoad {
    /// Loads the states into an optimizer whose parameters have these paths.
    ///
    /// # Errors
    /// [`Error::Config`] naming a state that this optimizer would not take as it is; what `read` fails with.
    pub(in crate::checkpoint) fn restore(
        self,
        optimizer: ModuleOptimizer,
        paths: &HashMap<u64, String>,
        read: impl ReadState + 'static,
    ) -> Result<ModuleOptimizer> {
        for tensor in &self.tensors {
            check_type(&tensor.name, tensor.dtype)?;
        }
        let ids = paths.iter().map(|(id, path)| (path.clone(), *id)).collect();
        self.try_small(&optimizer, paths, &ids)?;
        self.into_optimizer(optimizer, &ids, read)
    }

    /// Loads states of these names and types but of one element each, and looks whether all came through: that
    /// decides for the large ones, which would have to be copied out of the optimizer again.
    fn try_small(
        &self,
        optimizer: &ModuleOptimizer,
        paths: &HashMap<u64, String>,
        ids: &HashMap<String, u64>,
    ) -> Result<()> {
        let small = Self {
            tensors: self.tensors.iter().map(StateToLoad::small).collect(),
            scalars: self.scalars.clone(),
        };
        let wanted = small.contents()?;
        let load = || small.into_optimizer(optimizer.clone(), ids, Counted);
        let what = "the optimizer's saved states";
        let loaded = catch_unwind(AssertUnwindSafe(load)).unwrap_or_else(|_| {
            let expected = "states that this optimizer can load";
            Err(Error::config(what, expected, "some at which Burn panics"))
        })?;
        let found = contents(&OptimizerState::of(&loaded, paths)?);
        let mut names = wanted.keys().chain(found.keys());
        match names.find(|name| wanted.get(*name) != found.get(*name)) {
            None => Ok(()),
            Some(name) => {
                let expected = "states that this optimizer takes as they are";
                let found = format!("{name}, which it does not");
                Err(Error::config(what, expected, found))
            }
        }
    }

    /// As [`contents`], of the elements of a trial.
    fn contents(&self) -> Result<BTreeMap<String, String>> {
        let tensors = self.tensors.iter().enumerate().map(|(number, tensor)| {
            let mut bytes = vec![0; tensor.size()];
            Counted.read(number, &mut bytes)?;
            let name = tensor.name.clone();
            Ok((name, content(tensor.dtype, &tensor.shape, &bytes)))
        });
        let tensors = tensors.collect::<Result<Vec<_>>>()?.into_iter();
        Ok(tensors.chain(self.scalars.clone()).collect())
    }

    /// Loads the states into an optimizer whose parameters have these ids.
    fn into_optimizer(
        self,
        optimizer: ModuleOptimizer,
        ids: &HashMap<String, u64>,
        read: impl ReadState + 'static,
    ) -> Result<ModuleOptimizer> {
        let id_of = |name: &str| -> Result<(u64, String)> {
            let (path, field) = name.split_once('/').unwrap_or((name, ""));
            let id = ids.get(path).ok_or_else(|| {
                Error::model(
                    path,
                    "has a saved optimizer state",
                    "load into the model it was saved from",
                )
            })?;
            Ok((*id, format!("{id}.{field}")))
        };
        let reader = Reader::new(read);
        let mut tensors = Vec::new();
        for (number, state) in self.tensors.into_iter().enumerate() {
            let (id, name) = id_of(&state.name)?;
            let (len, reader) = (state.size(), reader.clone());
            // Each goes from the file to its place in the record, and is not in memory a second time.
            let read = move || reader.read(number, len);
            let (dtype, shape) = (state.dtype, state.shape);
            tensors.push(Tensor::deferred(name, dtype, shape, Some(id), len, read));
        }
        let mut writer = Writer::new(tensors);
        for (path, id) in ids {
            writer = writer.with_metadata(&id.to_string(), path);
        }
        for (name, text) in &self.scalars {
            let value = scalar(text).ok_or_else(|| failed(format!("{name} = {text}")))?;
            writer = writer.with_scalar(&id_of(name)?.1, value);
        }
        // Burn's own `into_bytes` would copy the whole record to memory that is aligned.
        let words = writer.size().map_err(failed)?.div_ceil(8);
        let mut record = Bytes::from_elems(vec![0u64; words]);
        let written = writer.write_into(&mut record);
        reader.failure()?;
        written.map_err(failed)?;
        optimizer.from_bytes(record).map_err(failed)
    }
}

/// Reads for a writer that knows its own errors only, and keeps ours.
struct Reader<R>(Arc<Mutex<(R, Result<()>)>>);

impl<R> Clone for Reader<R> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<R: ReadState> Reader<R> {
    fn new(read: R) -> Self {
        Self(Arc::new(Mutex::new((read, Ok(())))))
    }

    fn read(&self, number: usize, len: usize) -> std::result::Result<Bytes, burn_pack::Error> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = vec![0; len];
        match inner.0.read(number, &mut bytes) {
            Ok(()) => Ok(Bytes::from_bytes_vec(bytes)),
            Err(error) => {
                let told = burn_pack::Error::IoError(error.to_string());
                inner.1 = Err(error);
                Err(told)
            }
        }
    }

    fn failure(&self) -> Result<()> {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.1.clone()
    }
}

/// The type, dimensions and elements of every state.
fn contents(states: &OptimizerState) -> BTreeMap<String, String> {
    let tensors = states.tensors.iter();
    let tensors = tensors.map(|t| (t.name.clone(), content(t.dtype, &t.shape, &t.bytes)));
    tensors.chain(states.scalars.clone()).collect()
}

fn content(dtype: DType, shape: &[usize], bytes: &[u8]) -> String {
    format!("{} {shape:?} {bytes:?}", dtype.name())
}

impl StateToLoad {
    fn size(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.size()
    }

    /// One of the same name, type and dimensions, with a single element.
    fn small(&self) -> Self {
        Self {
            shape: vec![1; self.shape.len()],
            ..self.clone()
        }
    }
}
