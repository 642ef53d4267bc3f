//! Adapters from PEFT's files into a sharded model.

use super::super::files::{StoredTensor, Weights};
use super::super::name::{Name, Naming};
use super::config::AdapterConfig;
use super::{base, names};
use crate::error::{Error, Result};
use crate::layout::UnitLayout;
use crate::lora::{self, LoraConfig};
use crate::shard::{MapTensors, ShardedParam, StoredShards, Visit, map_tensors, walk};
use crate::world::World;
use burn::module::{Module, Param};
use burn::tensor::{DType, Tensor, TensorData};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;

/// Low-rank adapters on disk, as Python's PEFT and [`World::export_adapters`] write them.
#[derive(Debug)]
pub struct Adapters {
    weights: Weights,
    naming: Naming,
    config: AdapterConfig,
    any_base: bool,
}

impl Adapters {
    /// Opens `adapter_model.safetensors` and `adapter_config.json` in a folder.
    ///
    /// # Errors
    /// [`Error::File`] if either is missing or damaged, and for adapters that are no LoRA, or a variant of it that computes
    /// something else.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let config = AdapterConfig::read(folder)?;
        let file = folder.join("adapter_model.safetensors");
        if !file.is_file() {
            let found = if folder.join("adapter_model.bin").is_file() {
                "adapter_model.bin, which is a pickle: save it again with safe_serialization=True"
            } else {
                "no such file"
            };
            return Err(Error::file(&file, "the adapters", found));
        }
        Ok(Self {
            weights: Weights::open(file)?,
            naming: Naming::default(),
            config,
            any_base: false,
        })
    }

    /// Sets the names of a model's *weights*, as [`Weights::named`] does; the names of the adapters follow.
    pub fn named<N: Into<Name>>(
        mut self,
        naming: impl Fn(&str) -> Option<N> + Send + Sync + 'static,
    ) -> Self {
        self.naming = Naming::new(naming);
        self
    }

    /// Accepts a model with other frozen weights than those that the adapters were trained beside.
    ///
    /// Only [`World::export_adapters`] notes those; of files from PEFT they are not known.
    pub fn for_any_base(mut self) -> Self {
        self.any_base = true;
        self
    }

    /// The configuration under which a model has these adapters, by the paths of the plain model.
    ///
    /// # Errors
    /// [`Error::File`] if no tensor here is beside one of the model's parameters.
    pub fn config<M: Module>(&self, model: &M) -> Result<LoraConfig> {
        let paths = paths(model);
        let has = |name: Name| {
            name.spellings()
                .any(|name| self.weights.entry(name).is_some())
        };
        let mut config = LoraConfig::new(self.config.rank, self.config.alpha);
        for path in &paths {
            for name in self.spellings(path) {
                if has(names::factor(&name.name, "a")) {
                    config.targets.push(path.clone());
                } else if has(names::saved(&name)) {
                    config.modules_to_save.push(path.clone());
                }
            }
        }
        if !config.targets.is_empty() {
            return Ok(config);
        }
        let mut tensors = self.weights.tensors();
        let example = tensors.next().map_or("nothing", |(name, _)| name);
        let expected = "adapters beside the parameters of this model (are they named as in these files? see \
                        Adapters::named)";
        Err(Error::file(self.weights.path(), expected, example))
    }

    /// The names of a weight, each alone.
    fn spellings(&self, path: &str) -> Vec<Name> {
        let Some(name) = self.naming.of(path) else {
            return Vec::new();
        };
        let each = |spelling: &str| Name {
            name: spelling.into(),
            others: Vec::new(),
            transposed: name.transposed,
        };
        name.spellings().map(each).collect()
    }

    /// The tensor of a parameter that trains, with its name, and whether it lies transposed.
    fn find(&self, path: &str) -> Option<(&str, &StoredTensor, Name)> {
        let (weight, factor) = match lora::factor(path) {
            Some((weight, factor)) => (weight, Some(factor)),
            None => (path, None),
        };
        self.spellings(weight).into_iter().find_map(|name| {
            let name = match factor {
                Some(factor) => names::factor(&name.name, factor),
                None => names::saved(&name),
            };
            let (found, stored) = self.weights.entry(&name.name)?;
            Some((found, stored, name))
        })
    }

    /// Where this rank's shard of each parameter of a unit that trains comes from.
    fn targets<'a>(&'a self, stored: &StoredShards) -> Result<BTreeMap<String, Target<'a>>> {
        let (mut targets, mut taken) = (BTreeMap::new(), BTreeSet::new());
        for unit in &stored.units {
            let layout = unit.layout();
            if !layout.trainable {
                continue;
            }
            let whole = &unit.sharding.unit(unit.number).layout;
            let rank = unit.sharding.shard_rank(unit.number);
            let present = unit.shards.iter().enumerate().filter(|(_, s)| s.is_some());
            for ((number, _), slot) in present.zip(&layout.slots) {
                let (name, target) = self.target(
                    &slot.path,
                    &slot.shape,
                    whole,
                    whole.shard_range(number, rank),
                )?;
                taken.insert(name);
                targets.insert(slot.path.clone(), target);
            }
        }
        let mut names = self.weights.tensors().map(|(name, _)| name);
        match names.find(|name| !taken.contains(name)) {
            None => Ok(targets),
            Some(unused) => {
                let expected =
                    "nothing but the adapters of this model (shard it with Adapters::config)";
                Err(Error::file(self.weights.path(), expected, unused))
            }
        }
    }

    fn target<'a>(
        &'a self,
        path: &str,
        shape: &[usize],
        layout: &UnitLayout,
        range: Range<usize>,
    ) -> Result<(&'a str, Target<'a>)> {
        let Some((name, tensor, wanted)) = self.find(path) else {
            return Err(Error::model(
                path,
                format!("trains, and is not in {}", self.weights.path().display()),
                "shard the model with the adapters' own configuration, Adapters::config",
            ));
        };
        let expected = wanted.shape_in_file(shape);
        if tensor.shape != expected {
            let found = format!("wants {expected:?}, but {name} is {:?}", tensor.shape);
            let remedy = "shard the model with the adapters' own configuration, Adapters::config, and take the base that \
                          they were made for";
            return Err(Error::model(path, found, remedy));
        }
        let target = Target {
            tensor,
            from: self.weights.dtype(name, tensor)?,
            transposed: wanted.transposed,
            range,
            dtype: layout.dtype,
        };
        Ok((name, target))
    }

    /// # Errors
    /// [`Error::Config`] if the model multiplies its adapters by something else.
    fn check_scale(&self, stored: &StoredShards) -> Result<()> {
        let theirs = self.config.alpha / self.config.rank as f64;
        for sharding in stored.shardings() {
            let Some(lora) = &sharding.strategy.lora else {
                return Err(Error::model(
                    "this model",
                    "has no adapters to load",
                    "shard it with Strategy::lora(adapters.config(&model)?)",
                ));
            };
            if lora.scale() != theirs {
                let expected = format!(
                    "{theirs}, alpha / rank of {}",
                    self.weights.path().display()
                );
                return Err(Error::config(
                    "scale of the adapters",
                    expected,
                    lora.scale(),
                ));
            }
        }
        Ok(())
    }
}

impl World {
    /// Gives a model that was sharded with [`Adapters::config`] these adapters. Each rank reads its own shards. Collective.
    ///
    /// # Errors
    /// [`Error::Model`] for a parameter that is not in the files, or has another shape or rank there, by its path;
    /// [`Error::File`] for a tensor that the model has no place for, and for adapters of other frozen weights; [`Error::Config`] for
    /// another `alpha / rank`. What fails on one rank fails on all, and nothing is changed.
    pub fn load_adapters<M: Module>(&self, model: M, adapters: &Adapters) -> Result<M> {
        const WHAT: &str = "load the adapters";
        adapters.weights.agree(self)?;
        let stored = StoredShards::of_sharded(&model)?;
        let mut targets = None;
        self.together(WHAT, || {
            adapters.check_scale(&stored)?;
            targets = Some(adapters.targets(&stored)?);
            Ok([0; 2])
        })?;
        let noted = adapters.weights.metadata.get(base::KEY);
        if let (Some(noted), false) = (noted, adapters.any_base) {
            let ours = base::digest(self, &stored)?;
            if ours != *noted {
                let expected = "adapters for the frozen weights of this model (Adapters::for_any_base accepts others)";
                let found = format!(
                    "those for weights with the digest {noted}, where the model's is {ours}"
                );
                return Err(Error::file(adapters.weights.path(), expected, found));
            }
        }
        drop(stored);
        let targets = targets.unwrap_or_default();
        Ok(map_tensors(model, &mut Fill { adapters, targets }))
    }
}

/// What a stored shard is read from.
#[derive(Debug)]
struct Target<'a> {
    tensor: &'a StoredTensor,
    from: DType,
    transposed: bool,
    range: Range<usize>,
    dtype: DType,
}

struct Fill<'a> {
    adapters: &'a Adapters,
    targets: BTreeMap<String, Target<'a>>,
}

impl MapTensors for Fill<'_> {
    fn float<const D: usize>(&mut self, path: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(target) = self.targets.get(path) else {
            return param;
        };
        let dtype = target.dtype;
        let mut bytes = vec![0; target.range.len() * dtype.size()];
        let weights = &self.adapters.weights;
        weights
            .elements(target.tensor, target.from, target.transposed)
            .copy(target.range.clone(), dtype, &mut bytes);
        param.map(|old| {
            let takes_gradients = old.is_require_grad();
            let data = TensorData::from_bytes_vec(bytes, old.shape(), dtype);
            let new = Tensor::from_data(data, (&old.device().inner(), dtype));
            if old.device().is_autodiff() {
                Tensor::from_inner(new).set_require_grad(takes_gradients)
            } else {
                new
            }
        })
    }
}

/// The paths of a plain model's float tensors.
fn paths<M: Module>(model: &M) -> Vec<String> {
    #[derive(Default)]
    struct Paths(Vec<String>);
    impl Visit for Paths {
        type Held = ();

        fn hold<const D: usize>(&mut self, _: &Param<Tensor<D>>) {}

        fn sharded(&mut self, path: &str, (): (), _: ShardedParam) {
            self.0.push(path.into());
        }

        fn plain(&mut self, path: &str, (): ()) {
            self.0.push(path.into());
        }
    }
    let mut paths = Paths::default();
    walk(model, &mut paths);
    paths.0
}
