//! What a model is made of, found out without initialising a parameter.

use crate::error::{Error, Result};
use crate::layout::Parameter;
use burn::module::{Module, ModuleVisitor, Param, ParamId, Reparameterization, Reparameterizer};
use burn::tensor::{DType, Device, Tensor};
use std::collections::{BTreeSet, HashMap};

/// Burn layers that read the shape of the stored weight, which is a piece's here.
const READ_STORED_SHAPE: [&str; 3] = ["BatchNorm", "RmsNorm", "PositionWiseFeedForward"];

/// The parameters of `model` in module order, each with its unit.
///
/// # Errors
/// [`Error::Model`] for what cannot be sharded, naming the paths.
pub(crate) fn parameters<M: Module>(
    model: &M,
    patterns: Option<&[String]>,
    cut: bool,
) -> Result<Vec<Parameter>> {
    let mut survey = Survey {
        patterns,
        ..Survey::default()
    };
    model.visit(&mut survey);
    survey.refuse(cut)?;
    // Running state drops a reparameterization that it is given; a parameter keeps it.
    let mut marked = Marked::default();
    model
        .clone()
        .apply_reparameterization(Mark)
        .visit(&mut marked);
    let is_parameter = |p: &Parameter| marked.paths.contains(&p.path);
    Ok(survey.found.into_iter().filter(is_parameter).collect())
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

fn matches(pattern: &str, path: &[String]) -> bool {
    let names: Vec<&str> = pattern.split('.').collect();
    names.len() == path.len() && names.iter().zip(path).all(|(n, p)| *n == "*" || n == p)
}

#[derive(Default)]
struct Survey<'a> {
    patterns: Option<&'a [String]>,
    path: Vec<String>,
    /// For each name of the path, whether it is an element of a vector.
    elements: Vec<bool>,
    found: Vec<Parameter>,
    ids: HashMap<ParamId, Vec<String>>,
    reparameterized: Vec<String>,
    shape_readers: BTreeSet<String>,
}

impl Survey<'_> {
    fn refuse(&self, cut: bool) -> Result<()> {
        if !self.reparameterized.is_empty() {
            return Err(Error::model(
                self.reparameterized.join(", "),
                "already carries a reparameterization (LoRA, or an earlier shard)",
                "call materialize() first, or shard the plain model",
            ));
        }
        if let Some(paths) = self.ids.values().find(|paths| paths.len() > 1) {
            return Err(Error::model(
                paths.join(", "),
                "are one parameter stored in several fields",
                "keep it in one field and read that from both places",
            ));
        }
        if cut && !self.shape_readers.is_empty() {
            let paths: Vec<&str> = self.shape_readers.iter().map(String::as_str).collect();
            return Err(Error::model(
                paths.join(", "),
                "reads the shape of its stored weight, which is a piece here",
                "use LayerNorm for RmsNorm, GroupNorm for BatchNorm and two Linear for \
                 PositionWiseFeedForward, or a strategy that keeps parameters whole (ddp)",
            ));
        }
        Ok(())
    }
}

impl ModuleVisitor for Survey<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        let layer = container.strip_prefix("Struct:");
        if layer.is_some_and(|layer| READ_STORED_SHAPE.contains(&layer)) {
            self.shape_readers.insert(self.path.join("."));
        }
        if container == "Reparameterization" {
            self.reparameterized.push(self.path.join("."));
        }
        self.path.push(name.to_string());
        self.elements.push(matches!(container, "Vec" | "Array"));
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
        self.elements.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let path = self.path.join(".");
        self.ids.entry(param.id).or_default().push(path.clone());
        self.found.push(Parameter {
            unit: unit_of(&self.path, &self.elements, self.patterns),
            path,
            shape: param.lazy_shape().to_vec(),
            dtype: dtype(param),
            trainable: trainable(param),
        });
    }
}

/// The type a parameter has, or will be initialised with.
fn dtype<const D: usize>(param: &Param<Tensor<D>>) -> DType {
    match param.is_initialized() {
        true => param.base().dtype(),
        false => param.lazy_device().settings().float_dtype.into(),
    }
}

/// Whether a parameter takes gradients, asked without initialising it: Burn makes a value that is
/// loaded into a parameter take gradients as the parameter would.
fn trainable<const D: usize>(param: &Param<Tensor<D>>) -> bool {
    if param.is_initialized() && param.base().is_autodiff() {
        return param.is_require_grad();
    }
    let device = Device::flex().autodiff();
    let tiny = Tensor::<D>::zeros([1; D], &device);
    let id = param.id;
    param.clone().transform_for_load(tiny, id).is_require_grad()
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
