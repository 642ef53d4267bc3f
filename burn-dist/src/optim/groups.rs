//! The parameters of a model that train, as groups are made of them: with path, full shape and layer.

use crate::error::{Error, Result};
use crate::pattern::lies_in;
use crate::shard::{ShardedParam, Visit, is_trainable, walk};
use burn::module::{Module, ModuleVisitor, Param, ParamGroup};
use burn::tensor::Tensor;
use std::collections::BTreeMap;

/// The trainable parameters of a model, sharded or not, from which groups are made for Burn's `with_group`.
///
/// Nothing is communicated, and nothing initialised. Groups name exact paths, so they serve the model before and after
/// it is sharded, and a save that is resumed.
///
/// ```
/// use burn_dist::nn::LinearConfig;
/// use burn_dist::optim::{AdamWConfig, Groups};
/// use burn_dist::prelude::*;
///
/// Threads::new(2).run(|world| {
///     let model = LinearConfig::new(8, 4).init(&world.device());
///     let model = Strategy::fsdp().shard(model, &world)?;
///     let groups = Groups::of(&model)?;
///     assert_eq!(groups.parameters()[0].shape(), [8, 4]); // not that of the shard
///
///     let decayed = AdamWConfig::new().with_weight_decay(0.05);
///     let undecayed = decayed.clone().with_weight_decay(0.0).build();
///     let adamw = decayed.init().with_group(groups.no_decay().group(), undecayed, None);
///     world.optimizer(adamw, &model)?;
///     Ok(())
/// })?;
/// # Ok::<(), burn_dist::Error>(())
/// ```
///
/// # Source
/// PyTorch: the `params` of an optimizer as a list of dicts; Hugging Face: `Trainer.get_decay_parameter_names`;
/// timm: `param_groups_weight_decay`, `param_groups_layer_decay`.
#[derive(Debug, Clone)]
pub struct Groups {
    parameters: Vec<GroupedParameter>,
}

/// A parameter as groups see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupedParameter {
    path: String,
    shape: Vec<usize>,
    layer: String,
}

impl GroupedParameter {
    /// Its path in the model, such as `blocks.2.norm.gamma`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Its full shape, whatever this rank stores of it.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The name of the struct that it is a field of, such as `LayerNorm`.
    pub fn layer(&self) -> &str {
        &self.layer
    }

    /// Whether a pattern names it, or a module it lies in; `*` stands for one name, as for [`Groups::at`].
    pub fn lies_in(&self, pattern: &str) -> bool {
        let names: Vec<String> = self.path.split('.').map(String::from).collect();
        lies_in(pattern, &names)
    }
}

impl Groups {
    /// The trainable parameters of a model, in its order.
    ///
    /// # Errors
    /// [`Error::Model`] if it has none.
    pub fn of<M: Module>(model: &M) -> Result<Self> {
        let mut layers = Layers::default();
        model.visit(&mut layers);
        let mut find = Find {
            layers: layers.found,
            found: Vec::new(),
        };
        walk(model, &mut find);
        if find.found.is_empty() {
            return Err(Error::model(
                "the model",
                "has no parameter that takes gradients, so there are no groups",
                "make groups before all of it is frozen",
            ));
        }
        Ok(Self {
            parameters: find.found,
        })
    }

    /// All of them, in the order of the model.
    pub fn parameters(&self) -> &[GroupedParameter] {
        &self.parameters
    }

    /// Those for which `choose` says so: all matrices, a part of the model, a layer of one's own.
    pub fn filter(&self, choose: impl Fn(&GroupedParameter) -> bool) -> ParamGroup {
        let chosen = self.parameters.iter().filter(|p| choose(p));
        let paths: Vec<&str> = chosen.map(GroupedParameter::path).collect();
        ParamGroup::from_paths(paths)
    }

    /// Those at these paths.
    ///
    /// A pattern is the path of a module or a parameter, in which `*` stands for one name, as in
    /// [`Strategy::replicate`](crate::Strategy::replicate).
    ///
    /// # Errors
    /// [`Error::Model`] for a pattern that names no trainable parameter, with the nearest path.
    pub fn at(&self, patterns: impl IntoIterator<Item = impl AsRef<str>>) -> Result<ParamGroup> {
        let found = self.paths(patterns)?;
        Ok(self.filter(|parameter| found.contains(&parameter.path())))
    }

    /// The paths that patterns name, each of which names one at least.
    pub(super) fn paths(
        &self,
        patterns: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<Vec<&str>> {
        let mut all = Vec::new();
        for pattern in patterns {
            let pattern = pattern.as_ref();
            let named = self.parameters.iter().filter(|p| p.lies_in(pattern));
            let before = all.len();
            all.extend(named.map(GroupedParameter::path));
            if all.len() == before {
                return Err(self.unknown(pattern));
            }
        }
        Ok(all)
    }

    /// The error for a pattern that names nothing.
    pub(super) fn unknown(&self, pattern: &str) -> Error {
        // A pattern may mean a module, so it is compared with as many names of each path.
        let depth = pattern.split('.').count();
        let start = |path: &str| -> String {
            let names: Vec<&str> = path.split('.').take(depth).collect();
            names.join(".")
        };
        let paths = self.parameters.iter().map(|p| start(&p.path));
        let nearest = paths.min_by_key(|path| strsim::levenshtein(pattern, path));
        Error::model(
            pattern,
            "names no parameter of this model that takes gradients",
            format!(
                "the nearest path is {}; * stands for one name",
                nearest.unwrap_or_default()
            ),
        )
    }
}

/// Finds the struct that each float parameter is a field of.
#[derive(Default)]
struct Layers {
    names: Vec<String>,
    kinds: Vec<String>,
    found: BTreeMap<String, String>,
}

impl ModuleVisitor for Layers {
    fn enter_module(&mut self, name: &str, kind: &str) {
        self.names.push(name.to_string());
        self.kinds.push(kind.to_string());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.names.pop();
        self.kinds.pop();
    }

    fn visit_float<const D: usize>(&mut self, _: &Param<Tensor<D>>) {
        let kinds = self.kinds.iter().rev();
        // A parameter may be an element of a list in the struct.
        let layer = kinds
            .filter_map(|kind| kind.split_once(':'))
            .map(|(_, name)| name);
        let layer = layer.map(String::from).next().unwrap_or_default();
        self.found.insert(self.names.join("."), layer);
    }
}

struct Find {
    layers: BTreeMap<String, String>,
    found: Vec<GroupedParameter>,
}

impl Find {
    fn add(&mut self, path: &str, shape: Vec<usize>) {
        self.found.push(GroupedParameter {
            path: path.into(),
            shape,
            layer: self.layers.get(path).cloned().unwrap_or_default(),
        });
    }
}

impl Visit for Find {
    /// The shape of what is stored, and whether it takes gradients.
    type Held = (Vec<usize>, bool);

    fn hold<const D: usize>(&mut self, param: &Param<Tensor<D>>) -> Self::Held {
        (param.lazy_shape().to_vec(), is_trainable(param))
    }

    fn sharded(&mut self, path: &str, _: Self::Held, param: ShardedParam) {
        let layout = &param.sharding.unit(param.unit).layout;
        if layout.trainable {
            self.add(path, layout.slots[param.slot].shape.clone());
        }
    }

    fn plain(&mut self, path: &str, (shape, trainable): Self::Held) {
        if trainable {
            self.add(path, shape);
        }
    }

    fn ignored(&mut self, _: &str, _: Self::Held) {}
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use burn::nn::{Embedding, EmbeddingConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig};
    use burn::tensor::Device;

    #[derive(Module, Debug)]
    struct Net {
        words: Embedding,
        blocks: Vec<Linear>,
        norm: LayerNorm,
        scales: Vec<Param<Tensor<1>>>,
    }

    fn net(device: &Device) -> Net {
        let linear = |_| LinearConfig::new(4, 4).init(device);
        Net {
            words: EmbeddingConfig::new(6, 4).init(device),
            blocks: (0..2).map(linear).collect(),
            norm: LayerNormConfig::new(4).init(device),
            scales: vec![Param::from_data([1.0], device)],
        }
    }

    fn paths(groups: &Groups, group: &ParamGroup) -> Vec<String> {
        let id = burn::module::ParamId::from(1);
        let all = groups.parameters().iter().map(GroupedParameter::path);
        let of_group = all.filter(|path| group.matches(&id, Some(path)));
        of_group.map(String::from).collect()
    }

    #[test]
    fn parameters_are_told_by_path_shape_and_layer() {
        let device = Device::flex().autodiff();
        let groups = Groups::of(&net(&device)).unwrap();
        let of = |path: &str| {
            let found = groups.parameters().iter().find(|p| p.path() == path);
            let found = found.unwrap();
            (found.shape().to_vec(), found.layer().to_string())
        };
        assert_eq!(of("words.weight"), (vec![6, 4], "Embedding".into()));
        assert_eq!(of("blocks.1.bias"), (vec![4], "Linear".into()));
        assert_eq!(of("norm.gamma"), (vec![4], "LayerNorm".into()));
        assert_eq!(of("scales.0"), (vec![1], "Net".into()));
    }

    #[test]
    fn nothing_decays_that_the_field_exempts() {
        let groups = Groups::of(&net(&Device::flex().autodiff())).unwrap();
        let small = [
            "blocks.0.bias",
            "blocks.1.bias",
            "norm.gamma",
            "norm.beta",
            "scales.0",
        ];
        assert_eq!(paths(&groups, &groups.no_decay().group()), small);
        let more = groups.no_decay().embeddings().at(["blocks.0"]).unwrap();
        let mut all = vec!["words.weight", "blocks.0.weight"];
        all.extend(small);
        assert_eq!(paths(&groups, &more.group()), all);
    }

    #[test]
    fn a_pattern_of_nothing_names_the_nearest_path() {
        let groups = Groups::of(&net(&Device::flex().autodiff())).unwrap();
        let error = |pattern: &str| groups.at([pattern]).unwrap_err().to_string();
        assert!(
            error("block.*").contains("nearest path is blocks.0;"),
            "{}",
            error("block.*")
        );
        assert!(error("norm.gama").contains("norm.gamma"));
        let error = groups.block_depths("bloks.*").err().unwrap().to_string();
        assert!(
            error.contains("bloks.*") && error.contains("blocks.0"),
            "{error}"
        );
    }

    #[test]
    fn rates_fall_from_the_output_to_the_input() {
        let groups = Groups::of(&net(&Device::flex().autodiff())).unwrap();
        let depths = groups.block_depths("blocks.*").unwrap();
        let rates = groups.layer_decay(0.5, depths).unwrap();
        let id = burn::module::ParamId::from(1);
        let rate = |path| rates.at(0.8).lr_from_param(id, Some(path));
        assert_eq!(rate("norm.gamma"), 0.8);
        assert_eq!(rate("blocks.1.weight"), 0.4);
        assert_eq!(rate("blocks.0.bias"), 0.2);
        assert_eq!(rate("words.weight"), 0.1);
        assert_eq!(rates.at(0.8).base(), 0.8);
        for decay in [0.0, -1.0, 1.5, f64::NAN] {
            let error = groups.layer_decay(decay, |_| 0).unwrap_err();
            assert!(matches!(error, Error::Config { .. }), "{error}");
        }
    }

    #[test]
    fn a_frozen_model_has_no_groups() {
        let frozen = net(&Device::flex().autodiff()).no_grad();
        assert!(matches!(Groups::of(&frozen), Err(Error::Model { .. })));
    }
}
