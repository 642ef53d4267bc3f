//! Whether an optimizer is right on shards.
//!
//! Burn's optimizers are type-erased, so what one does cannot be read from it, but it can be
//! tried: a copy steps a few tiny parameters whole, another copy steps the same in two shards.
//! Element-wise optimizers agree bit for bit. Those that look at a whole tensor, such as LAMB's
//! trust ratio, Muon's matrix or a norm clipped per tensor, do not.

use crate::error::{Error, Result};
use crate::layout::shard_shape;
use crate::shard::model::{ShardedParam, Visit, walk};
use crate::shard::step::Trained;
use crate::unwind::try_quietly;
use crate::world::World;
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Tensor, TensorData};
use std::ops::Range;

/// Elements of a trial parameter, and where it is split: at a block, of shards that begin at blocks.
#[derive(Debug, Clone, Copy)]
struct Cut {
    len: usize,
    at: usize,
}

impl Cut {
    /// For shards that begin at multiples of so many elements.
    fn of(block: usize) -> Self {
        match block {
            1 => Self { len: 12, at: 5 },
            block => Self {
                len: 2 * block,
                at: block,
            },
        }
    }
}

/// The blocks of the optimizers in few bits.
const BLOCK: usize = 256;

const IN_BLOCKS: &str = "it keeps its states in blocks of 256 elements: shard the model with Strategy::block_aligned(256)";

const REMEDY: &str = "use an element-wise optimizer (AdamW, Adam, SGD, Lion, RMSProp) without norm \
                      clipping of its own, and clip with gradients.clip_norm";

impl World {
    /// Checks that an optimizer computes on shards what it would compute on whole parameters.
    ///
    /// Returns it unchanged. Where the strategy keeps parameters whole there is nothing to check.
    ///
    /// # Errors
    /// [`Error::Optimizer`] if it would not, with what to use instead; [`Error::Model`] if `model`
    /// was not sharded, or has a trainable parameter that no sharding holds.
    ///
    /// ```
    /// use burn::{grad_clipping::GradientClippingConfig, nn::LinearConfig, optim::AdamWConfig};
    /// use burn_dist::{Strategy, launch::Threads};
    ///
    /// Threads::new(2).run(|world| {
    ///     let model = LinearConfig::new(8, 4).init(&world.device());
    ///     let model = Strategy::fsdp().shard(model, &world)?;
    ///     let adamw = AdamWConfig::new();
    ///     world.optimizer(adamw.init(), &model)?;
    ///     let per_tensor = adamw.with_grad_clipping(Some(GradientClippingConfig::Norm(1.0)));
    ///     assert!(world.optimizer(per_tensor.init(), &model).is_err());
    ///     Ok(())
    /// })?;
    /// # Ok::<(), burn_dist::Error>(())
    /// ```
    pub fn optimizer<M: Module>(
        &self,
        optimizer: impl Into<ModuleOptimizer>,
        model: &M,
    ) -> Result<ModuleOptimizer> {
        let optimizer = optimizer.into();
        Trained::of(model)?;
        let mut trials = Trials::default();
        walk(model, &mut trials);
        let tried = |cut: Cut| {
            try_quietly(|| {
                let whole = trials.step(&optimizer, [0, cut.len].as_slice());
                let shards = trials.step(&optimizer, [0, cut.at, cut.len].as_slice());
                let mut pairs = whole.into_iter().zip(shards);
                pairs.position(|(whole, shards)| whole != shards)
            })
        };
        let problem = match tried(Cut::of(trials.block.unwrap_or(1))) {
            Ok(None) => return Ok(optimizer),
            Ok(Some(at)) => format!(
                "a step of {} whole differs from a step of its shards",
                trials.found[at].path
            ),
            Err(_) => "it panics on a small parameter of this model".to_string(),
        };
        let remedy = match tried(Cut::of(BLOCK)) {
            Ok(None) => IN_BLOCKS,
            _ => REMEDY,
        };
        let remedy = remedy.to_string();
        Err(Error::Optimizer { problem, remedy })
    }
}

/// The model's parameters that are stored in shards, each to be stood in for by a tiny one.
#[derive(Default)]
struct Trials {
    found: Vec<Trial>,
    /// The least of the blocks at whose multiples their shards begin.
    block: Option<usize>,
}

#[derive(Clone, Debug)]
struct Trial {
    path: String,
    id: ParamId,
    rank: usize,
}

impl Trials {
    /// Steps every stand-in, split at `bounds`, and returns all their elements.
    fn step(&self, optimizer: &ModuleOptimizer, bounds: &[usize]) -> Vec<Vec<f32>> {
        let mut all = vec![Vec::new(); self.found.len()];
        for pair in bounds.windows(2) {
            let part = &Part {
                elements: pair[0]..pair[1],
                is_whole: bounds.len() == 2,
            };
            let mut optimizer = optimizer.clone();
            let mut model = Tiny::new(&self.found, part);
            // Small numbers, then huge ones: a norm is clipped only where it is exceeded.
            for (step, scale) in [1.0, 0.1, 1e12].into_iter().enumerate() {
                let gradients = model.gradients(part, step, scale);
                model = optimizer.step(0.01, model, gradients);
            }
            for (all, tiny) in all.iter_mut().zip(&model.tensors) {
                all.extend(tiny.elements());
            }
        }
        all
    }
}

impl Visit for Trials {
    type Held = (ParamId, usize);

    fn hold<const D: usize>(&mut self, param: &Param<Tensor<D>>) -> Self::Held {
        (param.id, D)
    }

    fn sharded(&mut self, path: &str, (id, rank): Self::Held, sharded: ShardedParam) {
        if !sharded.sharding.is_replicated(sharded.unit) {
            let block = sharded.sharding.strategy.block;
            self.block = Some(self.block.map_or(block, |least| least.min(block)));
            let path = path.to_string();
            self.found.push(Trial { path, id, rank });
        }
    }
}

/// A module with the paths, ids and ranks of the model, but tiny tensors.
#[derive(Clone, Debug)]
struct Tiny {
    trials: Vec<Trial>,
    tensors: Vec<Stand>,
}

#[derive(Clone, Debug)]
enum Stand {
    One(Param<Tensor<1>>),
    Two(Param<Tensor<2>>),
    Three(Param<Tensor<3>>),
    Four(Param<Tensor<4>>),
}

/// The elements of a trial parameter that are stepped together.
#[derive(Debug)]
struct Part {
    elements: Range<usize>,
    is_whole: bool,
}

fn wave(at: usize, phase: usize) -> f32 {
    ((at * 7 + phase * 3 + 1) as f32).sin()
}

fn tiny<const D: usize>(part: &Part, f: impl Fn(usize) -> f32) -> Tensor<D> {
    let (len, values) = (part.elements.len(), part.elements.clone().map(f));
    let values: Vec<f32> = values.collect();
    // A whole matrix is a real one, for optimizers that treat matrices in their own way.
    let shape = match (part.is_whole, D) {
        (true, 2..) => {
            let mut shape = vec![1; D];
            (shape[0], shape[1]) = (4, len / 4);
            shape
        }
        _ => shard_shape(len, D),
    };
    Tensor::from_data(TensorData::new(values, shape), &Device::flex())
}

fn param<const D: usize>(id: ParamId, part: &Part) -> Param<Tensor<D>> {
    let tensor = Tensor::from_inner(tiny(part, |at| wave(at, 0)));
    Param::initialized(id, tensor.require_grad())
}

impl Tiny {
    fn new(trials: &[Trial], part: &Part) -> Self {
        let stand = |t: &Trial| match t.rank {
            0 | 1 => Stand::One(param(t.id, part)),
            2 => Stand::Two(param(t.id, part)),
            3 => Stand::Three(param(t.id, part)),
            _ => Stand::Four(param(t.id, part)),
        };
        Self {
            tensors: trials.iter().map(stand).collect(),
            trials: trials.to_vec(),
        }
    }

    fn gradients(&self, part: &Part, step: usize, scale: f32) -> GradientsParams {
        let mut gradients = GradientsParams::new();
        let f = |at| scale * wave(at, step + 1);
        for stand in &self.tensors {
            match stand {
                Stand::One(p) => gradients.register(p.id, tiny::<1>(part, f)),
                Stand::Two(p) => gradients.register(p.id, tiny::<2>(part, f)),
                Stand::Three(p) => gradients.register(p.id, tiny::<3>(part, f)),
                Stand::Four(p) => gradients.register(p.id, tiny::<4>(part, f)),
            }
        }
        gradients
    }

    fn under<T>(trial: &Trial, enter: impl FnOnce(&[&str]) -> T) -> T {
        enter(&trial.path.split('.').collect::<Vec<_>>())
    }
}

impl Stand {
    fn elements(&self) -> Vec<f32> {
        let data = match self {
            Self::One(p) => p.val().into_data(),
            Self::Two(p) => p.val().into_data(),
            Self::Three(p) => p.val().into_data(),
            Self::Four(p) => p.val().into_data(),
        };
        data.iter::<f32>().collect()
    }
}

impl Module for Tiny {
    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        for (trial, stand) in self.trials.iter().zip(&self.tensors) {
            Self::under(trial, |path| {
                path.iter()
                    .for_each(|name| visitor.enter_module(name, "Struct:Tiny"));
                match stand {
                    Stand::One(p) => visitor.visit_float(p),
                    Stand::Two(p) => visitor.visit_float(p),
                    Stand::Three(p) => visitor.visit_float(p),
                    Stand::Four(p) => visitor.visit_float(p),
                }
                path.iter()
                    .rev()
                    .for_each(|name| visitor.exit_module(name, "Struct:Tiny"));
            });
        }
    }

    fn map<M: ModuleMapper>(mut self, mapper: &mut M) -> Self {
        let mapped = self.trials.iter().zip(self.tensors).map(|(trial, stand)| {
            Self::under(trial, |path| {
                path.iter()
                    .for_each(|name| mapper.enter_module(name, "Struct:Tiny"));
                let stand = match stand {
                    Stand::One(p) => Stand::One(mapper.map_float(p)),
                    Stand::Two(p) => Stand::Two(mapper.map_float(p)),
                    Stand::Three(p) => Stand::Three(mapper.map_float(p)),
                    Stand::Four(p) => Stand::Four(mapper.map_float(p)),
                };
                path.iter()
                    .rev()
                    .for_each(|name| mapper.exit_module(name, "Struct:Tiny"));
                stand
            })
        });
        self.tensors = mapped.collect();
        self
    }

    fn collect_devices(&self, devices: Vec<Device>) -> Vec<Device> {
        devices
    }

    fn fork(self, _: &Device) -> Self {
        self
    }

    fn to_device(self, _: &Device) -> Self {
        self
    }

    fn train(self) -> Self {
        self
    }

    fn valid(&self) -> Self {
        self.clone()
    }

    fn materialize(self) -> Self {
        self
    }
}
