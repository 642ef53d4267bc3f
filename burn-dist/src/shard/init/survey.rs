//! What a model is made of, found out without initialising a parameter.

use super::adapters;
use super::stored_whole::{self, Reader, StoredWhole};
use crate::error::{Error, Result};
use crate::layout::Parameter;
use crate::lora;
use crate::pattern::{ROOT, lies_in, matches, names_unit};
use crate::quantization;
use crate::shard::model::is_trainable;
use crate::strategy::Strategy;
use burn::module::{Module, ModuleVisitor, Param, ParamId, Reparameterization, Reparameterizer};
use burn::tensor::{Bool, DType, Int, Tensor};
use std::collections::{BTreeSet, HashMap};

/// What a model stores.
#[derive(Debug)]
pub(crate) struct Surveyed {
    /// The parameters in module order, each with its unit.
    pub(crate) parameters: Vec<Parameter>,
    /// Running state, and tensors of integers and booleans: every rank stores all of them.
    pub(crate) buffers: Vec<Buffer>,
    /// The paths of what has a value already.
    pub(crate) valued: BTreeSet<String>,
    /// The paths of the parameters that the strategy was told to leave alone.
    pub(crate) ignored: BTreeSet<String>,
    /// What every rank stores whole for the sake of the layer that reads it.
    pub(crate) whole: StoredWhole,
    /// The paths of weights that have adapters of Burn's `apply_lora`.
    pub(crate) applied: BTreeSet<String>,
    /// The paths of the weights of linear layers.
    pub(crate) linear: BTreeSet<String>,
    /// What identifies each parameter.
    pub(crate) ids: HashMap<String, ParamId>,
}

impl Surveyed {
    /// The paths of weights that have adapters already, and of their factors.
    pub(crate) fn of_adapters(&self) -> impl Iterator<Item = String> {
        let all = |path: &String| {
            let factors = ["a", "b"].map(|name| lora::factor_path(path, name));
            factors.into_iter().chain([path.clone()])
        };
        self.applied.iter().flat_map(all)
    }
}

/// A stored tensor that is not sharded.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Buffer {
    pub(crate) path: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) dtype: DType,
}

/// What `model` stores, found out without initialising a parameter.
///
/// # Errors
/// [`Error::Model`] for what cannot be sharded, naming the paths.
pub(crate) fn survey<M: Module>(
    model: &M,
    strategy: &Strategy,
    is_sharded: bool,
) -> Result<Surveyed> {
    let mut survey = Survey {
        strategy,
        is_sharded,
        path: Vec::new(),
        elements: Vec::new(),
        readers: Vec::new(),
        found: Vec::new(),
        integers: Vec::new(),
        valued: BTreeSet::new(),
        ids: HashMap::new(),
        reparameterized: Vec::new(),
        applied: BTreeSet::new(),
        read: HashMap::new(),
        keeps_shape: BTreeSet::new(),
        already_quantized: Vec::new(),
        layers: Vec::new(),
        linear: BTreeSet::new(),
    };
    model.visit(&mut survey);
    survey.refuse()?;
    survey.check_patterns()?;
    // Running state drops a reparameterization that it is given; a parameter keeps it.
    let mut marked = Marked::default();
    model
        .clone()
        .apply_reparameterization(Mark)
        .visit(&mut marked);
    // Burn puts adapters back over what is attached to a parameter that has some.
    let is_parameter =
        |p: &Parameter| marked.paths.contains(&p.path) || survey.applied.contains(&p.path);
    let (found, state): (Vec<_>, Vec<_>) = survey.found.into_iter().partition(is_parameter);
    let is_ignored = |p: &Parameter| {
        let path: Vec<String> = p.path.split('.').map(String::from).collect();
        let mut patterns = strategy.ignored.iter();
        patterns.any(|pattern| lies_in(pattern, &path))
    };
    let (ignored, found): (Vec<_>, Vec<_>) = found.into_iter().partition(is_ignored);
    let whole = StoredWhole::of(&found, &survey.read);
    let found = match &strategy.lora {
        Some(lora) => {
            let is_whole =
                |unit: &str, elements| is_sharded && strategy.is_persistent(unit, elements);
            let is_quantizable =
                |path: &str| survey.linear.contains(path) && !survey.keeps_shape.contains(path);
            adapters::add(lora, found, &survey.linear, is_quantizable, is_whole)?
        }
        None => found,
    };
    check_quantized(&found, &ignored)?;
    if let (Some(state), false) = (state.first(), strategy.precision.is_full()) {
        return Err(Error::model(
            &state.path,
            "is running state, which Burn computes with in the type it is stored in",
            "use Precision::full(), or layers without running state (LayerNorm, GroupNorm)",
        ));
    }
    let running = state.into_iter().map(|p| Buffer {
        path: p.path,
        shape: p.shape,
        dtype: p.dtype,
    });
    Ok(Surveyed {
        parameters: found,
        buffers: running.chain(survey.integers).collect(),
        valued: survey.valued,
        ignored: ignored.into_iter().map(|p| p.path).collect(),
        whole,
        applied: survey.applied,
        linear: survey.linear,
        ids: survey
            .ids
            .into_iter()
            .flat_map(|(id, paths)| paths.into_iter().map(move |path| (path, id)))
            .collect(),
    })
}

/// Returns if what is quantized is frozen, is stored by the engine, and is a whole number of blocks.
fn check_quantized(found: &[Parameter], ignored: &[Parameter]) -> Result<()> {
    for parameter in found {
        let Some(scheme) = &parameter.quantized else {
            continue;
        };
        quantization::check(scheme, &parameter.path, &parameter.shape)?;
        if parameter.trainable {
            return Err(Error::model(
                &parameter.path,
                "is quantized and takes gradients, which would have to be those of its codes",
                "freeze it, or train adapters beside it with Strategy::lora",
            ));
        }
    }
    match ignored.iter().find(|p| p.quantized.is_some()) {
        None => Ok(()),
        Some(parameter) => Err(Error::model(
            &parameter.path,
            "is quantized, and Strategy::ignore leaves it alone, so that it could be neither saved nor compared",
            "leave it out of the Quantizer's group, or do not ignore it",
        )),
    }
}

/// The unit of the parameter at `path`: the innermost of its ancestors that matches.
fn unit_of(path: &[String], elements: &[bool], patterns: Option<&[String]>) -> String {
    let is_unit = |depth: usize| match patterns {
        None => elements[depth - 1],
        Some(patterns) => patterns.iter().any(|p| matches(p, &path[..depth])),
    };
    // A parameter is no module: an element of a vector of parameters is not a unit.
    let inside = 1..path.len();
    inside
        .rev()
        .find(|depth| is_unit(*depth))
        .map_or(String::new(), |d| path[..d].join("."))
}

struct Survey<'a> {
    strategy: &'a Strategy,
    /// Whether parameters are sharded at all, so that replicated ones are exceptions.
    is_sharded: bool,
    path: Vec<String>,
    /// For each name of the path, whether it is an element of a vector.
    elements: Vec<bool>,
    /// For each name of the path, the layer that reads stored shapes of which it is a field.
    readers: Vec<Option<&'static Reader>>,
    found: Vec<Parameter>,
    /// Tensors of integers and booleans.
    integers: Vec<Buffer>,
    valued: BTreeSet<String>,
    ids: HashMap<ParamId, Vec<String>>,
    reparameterized: Vec<String>,
    /// The paths of weights that have adapters of Burn's.
    applied: BTreeSet<String>,
    /// For each tensor of a layer that reads stored shapes, the layer and its path.
    read: HashMap<String, (&'static Reader, Vec<String>)>,
    /// The paths of what a layer reads the stored shape of, or is said to.
    keeps_shape: BTreeSet<String>,
    /// The paths of tensors that were quantized before.
    already_quantized: Vec<String>,
    /// For each name of the path, whether it is a field of a linear layer.
    layers: Vec<bool>,
    /// The paths of the weights of linear layers.
    linear: BTreeSet<String>,
}

impl Survey<'_> {
    /// A tensor that draws nothing, so that asking for its type may as well initialise it.
    fn buffer(&mut self, shape: Vec<usize>, dtype: DType) {
        let path = self.path.join(".");
        self.valued.insert(path.clone());
        self.integers.push(Buffer { path, shape, dtype });
    }

    /// Whether one of the patterns names this tensor or a module it lies in.
    fn is_in(&self, patterns: &[String]) -> bool {
        patterns.iter().any(|pattern| lies_in(pattern, &self.path))
    }

    fn refuse(&self) -> Result<()> {
        if !self.reparameterized.is_empty() {
            return Err(Error::model(
                self.reparameterized.join(", "),
                "already carries a reparameterization (of an earlier shard, or of one's own)",
                "shard the plain model, or merge what it carries first with materialize()",
            ));
        }
        let mut already_quantized = self.already_quantized.iter();
        if let Some(path) = already_quantized.find(|path| self.keeps_shape.contains(*path)) {
            return Err(Error::model(
                path,
                "is quantized, and its layer reads the shape of what is stored, which is then that of bytes",
                "leave it out of the Quantizer's group, or let Strategy::lora quantize (LoraConfig::quantize_base)",
            ));
        }
        if let Some(paths) = self.ids.values().find(|paths| paths.len() > 1) {
            return Err(Error::model(
                paths.join(", "),
                "are one parameter stored in several fields",
                "keep it in one field and read that from both places",
            ));
        }
        Ok(())
    }

    /// The first few units, for a message.
    fn some_units(&self) -> String {
        const MOST: usize = 8;
        let mut units: Vec<&str> = Vec::new();
        for Parameter { unit, .. } in &self.found {
            let unit = if unit.is_empty() { ROOT } else { unit };
            if !units.contains(&unit) {
                units.push(unit);
            }
        }
        let more = if units.len() > MOST { ", .." } else { "" };
        units.truncate(MOST);
        units.join(", ") + more
    }

    /// A pattern with a slip of the pen would silently put everything into the root.
    fn check_patterns(&self) -> Result<()> {
        let names = |path: &str| path.split('.').map(String::from).collect::<Vec<_>>();
        let paths: Vec<Vec<String>> = self.found.iter().map(|p| names(&p.path)).collect();
        let is_hit = |pattern: &str| {
            let mut all = paths.iter();
            all.any(|path| (1..path.len()).any(|depth| matches(pattern, &path[..depth])))
        };
        let expected = "the path of a module with parameters, * for any one name";
        let units = self.strategy.units.iter().flatten();
        if let Some(pattern) = units.into_iter().find(|p| !is_hit(p)) {
            return Err(Error::config("unit pattern", expected, pattern));
        }
        let is_hit = |pattern: &str| {
            let mut found = self.found.iter();
            found.any(|parameter| names_unit(pattern, &parameter.unit))
        };
        if let Some(pattern) = self.strategy.absent.iter().find(|p| !is_hit(p)) {
            let expected = format!(
                "the path of a unit, * for any one name (this model's units: {})",
                self.some_units()
            );
            return Err(Error::config(
                "pattern of absent gradients",
                expected,
                pattern,
            ));
        }
        let is_hit = |pattern: &str| paths.iter().any(|path| lies_in(pattern, path));
        let mut parts = self
            .strategy
            .ignored
            .iter()
            .chain(&self.strategy.replicated);
        match parts.find(|p| !is_hit(p)) {
            None => Ok(()),
            Some(pattern) => {
                let expected = format!("{expected}, or of a parameter");
                Err(Error::config(
                    "pattern to ignore or replicate",
                    expected,
                    pattern,
                ))
            }
        }
    }
}

impl ModuleVisitor for Survey<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.readers.push(stored_whole::reader(container));
        match (container, name) {
            ("Reparameterization", lora::NAME) => {
                self.applied.insert(self.path.join("."));
            }
            ("Reparameterization", _) => self.reparameterized.push(self.path.join(".")),
            _ => {}
        }
        self.path.push(name.to_string());
        self.elements.push(matches!(container, "Vec" | "Array"));
        self.layers
            .push(name == "weight" && container == "Struct:Linear");
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
        self.elements.pop();
        self.readers.pop();
        self.layers.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let path = self.path.join(".");
        let (dtype, quantized) = match dtype(param) {
            DType::QFloat(scheme) => {
                self.already_quantized.push(path.clone());
                (default_dtype(param), Some(scheme))
            }
            dtype => (dtype, None),
        };
        if self.layers.last() == Some(&true) {
            self.linear.insert(path.clone());
        }
        self.ids.entry(param.id).or_default().push(path.clone());
        if param.is_initialized() {
            self.valued.insert(path.clone());
        }
        let reader = self.readers.iter().position(Option::is_some);
        if reader.is_some() || self.is_in(&self.strategy.replicated) {
            self.keeps_shape.insert(path.clone());
        }
        if let Some(depth) = reader.filter(|_| self.is_sharded)
            && let Some(layer) = self.readers[depth]
        {
            let layer = (layer, self.path[..depth].to_vec());
            self.read.insert(path.clone(), layer);
        }
        let unit = unit_of(&self.path, &self.elements, self.strategy.units.as_deref());
        let shape = param.lazy_shape().to_vec();
        let is_whole = reader.is_some()
            || self.is_in(&self.strategy.replicated)
            || self.strategy.is_persistent(&unit, shape.iter().product());
        self.found.push(Parameter {
            unit,
            path,
            shape,
            dtype: self.strategy.precision.stored(dtype),
            quantized,
            trainable: is_trainable(param),
            replicated: self.is_sharded && is_whole,
        });
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        self.buffer(param.lazy_shape().to_vec(), param.base().dtype());
    }

    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
        self.buffer(param.lazy_shape().to_vec(), param.base().dtype());
    }
}

/// The type a parameter has, or will be initialised with.
fn dtype<const D: usize>(param: &Param<Tensor<D>>) -> DType {
    if param.is_initialized() {
        param.base().dtype()
    } else {
        default_dtype(param)
    }
}

/// The float type of the device that a parameter lies on.
fn default_dtype<const D: usize>(param: &Param<Tensor<D>>) -> DType {
    param.lazy_device().settings().float_dtype.into()
}

/// Carries nothing: shows which float tensors keep a reparameterization.
#[derive(Module, Debug)]
struct Marker;

impl Reparameterization for Marker {
    const NAME: &'static str = "marker";

    fn apply<const D: usize>(&self, base: Tensor<D>) -> Tensor<D> {
        base
    }
}

struct Mark;

impl Reparameterizer for Mark {
    type Reparam = Marker;

    fn reparameterize<const D: usize>(
        &mut self,
        _: &str,
        param: Param<Tensor<D>>,
    ) -> (Param<Tensor<D>>, Option<Marker>) {
        (param, Some(Marker))
    }
}

#[derive(Default)]
struct Marked {
    path: Vec<String>,
    paths: BTreeSet<String>,
}

impl ModuleVisitor for Marked {
    fn enter_module(&mut self, name: &str, _: &str) {
        if name == Marker::NAME {
            self.paths.insert(self.path.join("."));
        }
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }
}
