//! The assignment of a checkpoint's tensors to a model's parameters, before any of them is read.

use super::files::{StoredTensor, Weights};
use super::report::{Mismatch, Report};
use crate::error::{Error, Result};
use crate::shard::{ShardedParam, ValueSource, Visit, walk};
use burn::module::{Module, Param};
use burn::tensor::{DType, Tensor};
use std::collections::{BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// The tensor of a checkpoint for each parameter that will be read.
#[derive(Debug)]
pub(super) struct Matching<'a> {
    weights: &'a Weights,
    found: HashMap<String, MatchedTensor<'a>>,
    report: Report,
    read_bytes: AtomicU64,
}

#[derive(Debug)]
struct MatchedTensor<'a> {
    stored: &'a StoredTensor,
    dtype: DType,
    transposed: bool,
}

impl<'a> Matching<'a> {
    /// # Errors
    /// [`Error::Model`] for a shape that differs where none may, for a parameter that is not there where
    /// none may be missing, and if nothing fits at all; [`Error::File`] for a tensor that is no float.
    pub(super) fn new<M: Module>(weights: &'a Weights, model: &M) -> Result<Self> {
        let source = weights.path().display().to_string();
        let mut matching = Self {
            weights,
            found: HashMap::new(),
            report: Report {
                source: source.clone(),
                ..Report::default()
            },
            read_bytes: AtomicU64::new(0),
        };
        let mut taken = BTreeSet::new();
        let mut first = None;
        for (path, shape) in shapes(model) {
            if let Some(name) = matching.assign(&path, &shape)? {
                taken.insert(name);
            }
            first.get_or_insert(path);
        }
        let all = weights.tensors().map(|(name, _)| name);
        let unused = all.filter(|name| !taken.contains(name));
        matching.report.unused = unused.map(String::from).collect();
        match first {
            Some(first) if matching.found.is_empty() => {
                let wanted = weights.naming.of(&first).map_or(first.clone(), |n| n.name);
                let other = weights.tensors().next().map_or("nothing", |(name, _)| name);
                Err(Error::model(
                    first,
                    format!(
                        "no parameter of this model is in {source}: looked for names such as \
                         {wanted}, found {other}"
                    ),
                    "open the weights of the same kind of model, or name them with Weights::named",
                ))
            }
            _ => matching.check_missing().map(|()| matching),
        }
    }

    /// Refuses a checkpoint that lacks parameters, unless that was allowed: a model whose body is initialised
    /// anew would train from random weights without a warning.
    fn check_missing(&self) -> Result<()> {
        let weights = self.weights;
        let may_differ =
            |path: &String| weights.may_differ.iter().any(|module| inside(path, module));
        let lacking: Vec<&String> = self
            .report
            .missing
            .iter()
            .filter(|p| !may_differ(p))
            .collect();
        let Some(first) = lacking.first().filter(|_| !weights.may_lack) else {
            return Ok(());
        };
        let wanted = weights.naming.of(first);
        let name = wanted.map_or("a name of its own".into(), |name| name.name);
        Err(Error::model(
            first.as_str(),
            format!(
                "and {} more parameter(s) are not in {}: looked for {name}",
                lacking.len() - 1,
                self.report.source
            ),
            "configure the model as the weights are, list what may be drawn anew with \
             Weights::may_differ, or allow all of it with Weights::may_lack_parameters",
        ))
    }

    /// Finds the tensor of one parameter, and returns its name.
    fn assign(&mut self, path: &str, shape: &[usize]) -> Result<Option<&'a str>> {
        let weights = self.weights;
        let Some(wanted) = weights.naming.of(path) else {
            self.report.missing.push(path.into());
            return Ok(None);
        };
        let found = wanted.spellings().find_map(|name| weights.entry(name));
        if found.is_none() {
            wanted
                .spellings()
                .try_for_each(|name| weights.check_listed(name))?;
        }
        let Some((name, stored)) = found else {
            self.report.missing.push(path.into());
            return Ok(None);
        };
        let expected = wanted.shape_in_file(shape);
        if stored.shape != expected {
            let mismatch = Mismatch {
                path: path.into(),
                name: name.into(),
                expected,
                found: stored.shape.clone(),
            };
            if !weights.may_differ.iter().any(|module| inside(path, module)) {
                return Err(Error::model(
                    path,
                    format!(
                        "wants {:?}, but {name} in {} is {:?}",
                        mismatch.expected, self.report.source, mismatch.found
                    ),
                    "configure the model as the weights are, or let this parameter be drawn anew \
                     with Weights::may_differ",
                ));
            }
            self.report.mismatched.push(mismatch);
            return Ok(Some(name));
        }
        let found = MatchedTensor {
            stored,
            dtype: weights.dtype(name, stored)?,
            transposed: wanted.transposed,
        };
        self.report.applied.push(path.into());
        self.found.insert(path.into(), found);
        Ok(Some(name))
    }

    /// A hash of everything that will be read, to be compared among ranks.
    pub(super) fn fingerprint(&self) -> u64 {
        let mut hash = DefaultHasher::new();
        for path in &self.report.applied {
            path.hash(&mut hash);
            format!("{:?}", self.found.get(path)).hash(&mut hash);
        }
        hash.finish()
    }

    pub(super) fn into_report(self) -> Report {
        Report {
            read_bytes: self.read_bytes.into_inner(),
            ..self.report
        }
    }
}

impl ValueSource for Matching<'_> {
    fn has(&self, path: &str) -> bool {
        self.found.contains_key(path)
    }

    fn read(&self, path: &str, range: Range<usize>, dtype: DType, into: &mut [u8]) {
        let Some(found) = self.found.get(path) else {
            return;
        };
        let bytes = range.len() * found.dtype.size();
        self.read_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.weights
            .elements(found.stored, found.dtype, found.transposed)
            .copy(range, dtype, into);
    }
}

/// True if a parameter is at `module` or below it.
fn inside(path: &str, module: &str) -> bool {
    path.strip_prefix(module)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Path and shape of every float tensor, in module order, without drawing any.
fn shapes<M: Module>(model: &M) -> Vec<(String, Vec<usize>)> {
    #[derive(Default)]
    struct Shapes(Vec<(String, Vec<usize>)>);
    impl Visit for Shapes {
        type Held = Vec<usize>;

        fn hold<const D: usize>(&mut self, param: &Param<Tensor<D>>) -> Vec<usize> {
            param.lazy_shape().to_vec()
        }

        fn sharded(&mut self, path: &str, shape: Vec<usize>, _: ShardedParam) {
            self.plain(path, shape);
        }

        fn plain(&mut self, path: &str, shape: Vec<usize>) {
            self.0.push((path.into(), shape));
        }
    }
    let mut shapes = Shapes::default();
    walk(model, &mut shapes);
    shapes.0
}
