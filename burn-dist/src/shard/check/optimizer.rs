//! Whether an optimizer is right on shards.
//!
//! Burn's optimizers are type-erased, so what one does cannot be read from it, but it can be
//! tried: a copy steps a few tiny parameters whole, another copy steps the same in two shards.
//! Element-wise optimizers agree bit for bit. Those that look at a whole tensor, such as LAMB's
//! trust ratio, Muon's matrix or a norm clipped per tensor, do not.

use super::imitation::{Imitation, Stand};
use crate::error::{Error, Result};
use crate::layout::shard_shape;
use crate::shard::model::{ShardedParam, Visit, walk};
use crate::shard::step::Trained;
use crate::unwind::try_quietly;
use crate::world::World;
use burn::module::{Module, Param, ParamId};
use burn::optim::{GradientsParams, ModuleOptimizer, OptimizerRecord};
use burn::tensor::{Device, Tensor, TensorData};
use std::collections::BTreeMap;
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

/// The elements of a trial parameter that are stepped together.
#[derive(Debug)]
struct Part {
    elements: Range<usize>,
    is_whole: bool,
}

/// The blocks of the optimizers in few bits.
const BLOCK: usize = 256;

const IN_BLOCKS: &str = "it keeps its states in blocks of 256 elements: shard the model with Strategy::block_aligned(256)";

const REMEDY: &str = "step it with world.stepper, which steps such parameters whole, or use an \
                      element-wise optimizer (AdamW, Adam, SGD, Lion, RMSProp) without norm clipping \
                      of its own, and clip with gradients.clip_norm";

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
        let trained = Trained::of(model)?;
        let trials = Trials::of(model);
        let problem = match trials.differ(&optimizer)?.first() {
            None => {
                // What is right on shards needs no owners.
                let shardings = trained.shardings.iter();
                shardings.for_each(|sharding| sharding.owners.set(BTreeMap::new()));
                return Ok(optimizer);
            }
            Some(trial) => format!(
                "a step of {} whole differs from a step of its shards",
                trial.path
            ),
        };
        let in_blocks = trials.differ_at(Cut::of(BLOCK), &optimizer)?.is_empty();
        let remedy = if in_blocks { IN_BLOCKS } else { REMEDY };
        let remedy = remedy.to_string();
        Err(Error::Optimizer { problem, remedy })
    }
}

/// The model's parameters that are stored in shards, each to be stood in for by a tiny one.
#[derive(Default)]
pub(crate) struct Trials {
    found: Vec<Trial>,
    /// The least of the blocks at whose multiples their shards begin.
    block: Option<usize>,
}

/// A parameter that is stood in for.
#[derive(Clone, Debug)]
pub(crate) struct Trial {
    pub(crate) path: String,
    pub(crate) param: ShardedParam,
    id: ParamId,
    rank: usize,
}

impl Trials {
    /// One for each parameter of a model that is stored in shards.
    pub(crate) fn of<M: Module>(model: &M) -> Self {
        let mut trials = Self::default();
        walk(model, &mut trials);
        trials
    }

    /// The parameters that an optimizer, whatever states it has, steps to other values whole than on shards.
    ///
    /// # Errors
    /// [`Error::Optimizer`] if it panics on a small parameter.
    pub(crate) fn differ(&self, optimizer: &ModuleOptimizer) -> Result<Vec<&Trial>> {
        self.differ_at(Cut::of(self.block.unwrap_or(1)), optimizer)
    }

    /// The same for parameters that are cut there.
    fn differ_at(&self, cut: Cut, optimizer: &ModuleOptimizer) -> Result<Vec<&Trial>> {
        // The states are those of other shapes.
        let optimizer = optimizer.clone().load_record(OptimizerRecord::default());
        let tried = try_quietly(|| {
            let whole = self.step(&optimizer, [0, cut.len].as_slice());
            let shards = self.step(&optimizer, [0, cut.at, cut.len].as_slice());
            let pairs = whole.into_iter().zip(shards).zip(&self.found);
            let differ = pairs.filter(|((whole, shards), _)| whole != shards);
            differ.map(|(_, trial)| trial).collect()
        });
        tried.map_err(|_| Error::Optimizer {
            problem: "it panics on a small parameter of this model".to_string(),
            remedy: REMEDY.to_string(),
        })
    }

    /// Steps every stand-in, split at `bounds`, and returns all their elements.
    fn step(&self, optimizer: &ModuleOptimizer, bounds: &[usize]) -> Vec<Vec<f32>> {
        let mut all = vec![Vec::new(); self.found.len()];
        for pair in bounds.windows(2) {
            let part = &Part {
                elements: pair[0]..pair[1],
                is_whole: bounds.len() == 2,
            };
            let mut optimizer = optimizer.clone();
            let mut model = self.imitation(part);
            // Small numbers, then larger and huge ones: a norm is clipped only where it is exceeded, that of Adafactor's update
            // where gradients grow, each by another factor.
            for (step, scale) in [1.0, 0.1, 3.0, 1e12].into_iter().enumerate() {
                let gradients = self.gradients(part, step, scale);
                model = optimizer.step(0.01, model, gradients);
            }
            for (all, tiny) in all.iter_mut().zip(model.tensors()) {
                all.extend(tiny.elements());
            }
        }
        all
    }

    fn imitation(&self, part: &Part) -> Imitation {
        let mut model = Imitation::default();
        for trial in &self.found {
            let f = |at| wave(at, 0);
            let stand = match trial.rank {
                0 | 1 => Stand::of(trial.id, tiny::<1>(part, f)),
                2 => Stand::of(trial.id, tiny::<2>(part, f)),
                3 => Stand::of(trial.id, tiny::<3>(part, f)),
                _ => Stand::of(trial.id, tiny::<4>(part, f)),
            };
            model.add(&trial.path, stand);
        }
        model
    }

    fn gradients(&self, part: &Part, step: usize, scale: f32) -> GradientsParams {
        let mut gradients = GradientsParams::new();
        let f = |at| scale * wave(at, step + 1);
        for trial in &self.found {
            match trial.rank {
                0 | 1 => gradients.register(trial.id, tiny::<1>(part, f)),
                2 => gradients.register(trial.id, tiny::<2>(part, f)),
                3 => gradients.register(trial.id, tiny::<3>(part, f)),
                _ => gradients.register(trial.id, tiny::<4>(part, f)),
            }
        }
        gradients
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
            self.found.push(Trial {
                path: path.to_string(),
                param: sharded,
                id,
                rank,
            });
        }
    }
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
