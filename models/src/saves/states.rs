//! The states of PyTorch's AdamW in a file, for Burn's.

use super::adamw::{AdamWSettings, DIMENSIONS, MAXIMUM, MOMENTS, PREFIX, STEPS, state_name};
use super::refused::refused;
use super::tensor_files::TensorFiles;
use super::transposed::transposed;
use burn::module::{Module, ModuleVisitor, Param, ParamGroup, ParamId};
use burn::optim::ModuleOptimizer;
use burn::tensor::{DType, Device, Tensor, TensorData};
use burn_dist::{Error, Result};
use burn_pack::{Scalar, Tensor as Packed, Writer};

/// A parameter that an optimizer steps.
#[derive(Debug, Clone)]
pub(super) struct Stepped {
    pub(super) path: String,
    id: u64,
    shape: Vec<usize>,
    dtype: DType,
}

impl Stepped {
    /// The float parameters of a plain model.
    pub(super) fn all<M: Module>(model: &M) -> Vec<Self> {
        let mut visit = Visit::default();
        model.visit(&mut visit);
        visit.found
    }
}

#[derive(Default)]
struct Visit {
    names: Vec<String>,
    found: Vec<Stepped>,
}

impl ModuleVisitor for Visit {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.names.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.names.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.found.push(Stepped {
            path: self.names.join("."),
            id: param.id.val(),
            shape: param.lazy_shape().to_vec(),
            dtype: param.val().dtype(),
        });
    }
}

/// The group of the parameters of which this says so; none if there are none.
pub(super) fn group<'a>(
    parameters: impl Iterator<Item = &'a Stepped>,
    is_in: impl Fn(&Stepped) -> bool,
) -> Option<ParamGroup> {
    let ids = parameters.filter(|parameter| is_in(parameter));
    let ids: Vec<ParamId> = ids.map(|parameter| ParamId::from(parameter.id)).collect();
    (!ids.is_empty()).then(|| ParamGroup::from_ids(ids))
}

/// The states of a file, as an optimizer takes them.
pub(super) struct States<'a> {
    files: &'a TensorFiles,
    settings: &'a AdamWSettings,
    tensors: Vec<Packed>,
    /// Of each parameter with states: its id, dimensions, steps and path.
    parameters: Vec<(u64, usize, usize, String)>,
    /// How many tensors of the file were read.
    used: usize,
}

impl<'a> States<'a> {
    pub(super) fn new(files: &'a TensorFiles, settings: &'a AdamWSettings) -> Self {
        Self {
            files,
            settings,
            tensors: Vec::new(),
            parameters: Vec::new(),
            used: 0,
        }
    }

    /// The names of the file's states.
    pub(super) fn names(files: &TensorFiles) -> impl Iterator<Item = &str> {
        files.names().filter(|name| name.starts_with(PREFIX))
    }

    /// Reads the states of a parameter that the file calls `name`, if it has some.
    ///
    /// # Errors
    /// [`Error::File`] for some without the others, and for another shape or a number that is none of steps.
    pub(super) fn read(&mut self, of: &Stepped, name: &str, transpose: bool) -> Result<()> {
        let has = |state: &str| self.files.shape(&state_name(state, name)).is_some();
        let wanted = MOMENTS
            .iter()
            .filter(|(state, _)| *state != MAXIMUM || self.settings.amsgrad);
        let wanted: Vec<_> = wanted.collect();
        let states = MOMENTS.iter().map(|(state, _)| *state).chain([STEPS.0]);
        let Some(found) = states.clone().find(|state| has(state)) else {
            return Ok(());
        };
        let lacking = wanted.iter().map(|(state, _)| *state).chain([STEPS.0]);
        if let Some(lacking) = lacking.clone().find(|state| !has(state)) {
            let expected = format!(
                "{} beside {}",
                state_name(lacking, name),
                state_name(found, name)
            );
            return Err(Error::file(self.files.path(), expected, "none"));
        }
        check_type(of)?;
        for (state, field) in wanted {
            let data = self.moment(of, &state_name(state, name), transpose)?;
            let bytes = data.into_bytes();
            let (id, shape) = (of.id, of.shape.clone());
            let name = format!("{id}.{field}");
            self.tensors
                .push(Packed::new(name, of.dtype, shape, Some(id), bytes));
            self.used += 1;
        }
        let steps = self.steps(&state_name(STEPS.0, name))?;
        self.used += 1;
        self.parameters
            .push((of.id, of.shape.len(), steps, of.path.clone()));
        Ok(())
    }

    fn moment(&self, of: &Stepped, name: &str, transpose: bool) -> Result<TensorData> {
        let data = self.files.read(name)?;
        let mut shape = of.shape.clone();
        if transpose {
            shape.reverse();
        }
        if data.shape().to_vec() != shape || !data.dtype().is_float() {
            let expected = format!("{name} of shape {shape:?}, of a float type");
            let found = format!("{:?} {}", data.shape().to_vec(), data.dtype().name());
            return Err(Error::file(self.files.path(), expected, found));
        }
        Ok(turned(data, transpose).convert_dtype(of.dtype))
    }

    fn steps(&self, name: &str) -> Result<usize> {
        let data = self.files.read(name)?;
        let numbers: Vec<f64> = data.iter::<f64>().collect();
        match numbers[..] {
            // Beyond this, an i32 has no such number, and Burn computes with one.
            [steps] if steps >= 0.0 && steps.fract() == 0.0 && steps < f64::from(i32::MAX) => {
                Ok(steps as usize)
            }
            _ => {
                let expected = format!("{name}: one number of steps");
                let found = format!("{} numbers, {:?}", numbers.len(), numbers.first());
                Err(Error::file(self.files.path(), expected, found))
            }
        }
    }

    /// Gives the states to an optimizer.
    ///
    /// # Errors
    /// [`Error::File`] for a state of the file that was not read: of an unknown kind, or of a parameter that is not there.
    pub(super) fn load(self, optimizer: ModuleOptimizer) -> Result<ModuleOptimizer> {
        let all = Self::names(self.files).count();
        if self.used != all {
            let known = |name: &&str| {
                let rest = name.strip_prefix(PREFIX).unwrap_or(name);
                let kinds = MOMENTS.iter().map(|(state, _)| *state).chain([STEPS.0]);
                let mut kinds = kinds.filter(|kind| *kind != MAXIMUM || self.settings.amsgrad);
                kinds.any(|kind| rest.strip_prefix(kind).is_some_and(|r| r.starts_with('.')))
            };
            let odd = Self::names(self.files).find(|name| !known(name));
            let found = odd.map_or_else(
                || format!("{} more, of parameters that it has not", all - self.used),
                String::from,
            );
            let kinds = if self.settings.amsgrad {
                "exp_avg, exp_avg_sq, max_exp_avg_sq"
            } else {
                "exp_avg, exp_avg_sq"
            };
            let expected =
                format!("of an optimizer nothing but {kinds} and step of the file's parameters");
            return Err(Error::file(self.files.path(), expected, found));
        }
        let mut writer = Writer::new(self.tensors);
        for (id, dimensions, steps, path) in self.parameters {
            writer = writer
                .with_metadata(&id.to_string(), &path)
                .with_scalar(&format!("{id}.{DIMENSIONS}"), Scalar::from(dimensions))
                .with_scalar(&format!("{id}.{}", STEPS.1), Scalar::from(steps));
        }
        let failed = |e: &dyn std::fmt::Display| {
            Error::file(self.files.path(), "states that Burn's AdamW can load", e)
        };
        let record = writer.into_bytes().map_err(|e| failed(&e))?;
        optimizer.from_bytes(record).map_err(|e| failed(&e))
    }
}

/// The elements, transposed if they lie so in the file.
pub(super) fn turned(data: TensorData, transpose: bool) -> TensorData {
    match (transpose, &data.shape().to_vec()[..]) {
        (true, &[rows, columns]) => {
            let (dtype, bytes) = (data.dtype(), data.as_bytes());
            let bytes = transposed(bytes, [rows, columns], dtype.size());
            TensorData::from_bytes_vec(bytes, [columns, rows], dtype)
        }
        _ => data,
    }
}

/// Refuses a parameter whose states Burn would load in another type than its own.
fn check_type(of: &Stepped) -> Result<()> {
    let loaded: DType = Device::default().settings().float_dtype.into();
    if of.dtype == loaded {
        return Ok(());
    }
    let (dtype, other) = (of.dtype.name(), loaded.name());
    Err(refused(
        &of.path,
        format!("is {dtype}, and Burn would load its moments as {other}"),
        format!("hold it in {other}, or call Device::default().configure(...) first"),
    ))
}
