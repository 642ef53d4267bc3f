//! Learning rates that fall from the output of a model to its input.

use super::groups::Groups;
use crate::error::{Error, Result};
use burn::lr_scheduler::module_lr_scheduler::{ModuleLearningRate, ModuleLrScheduler};
use burn::module::ParamGroup;
use std::collections::BTreeMap;

/// A factor of the learning rate for each depth of a model; made by [`Groups::layer_decay`].
///
/// ```
/// use burn::nn::{Linear, LinearConfig};
/// use burn::optim::AdamWConfig;
/// use burn::module::Module;
/// use burn::tensor::Tensor;
/// use burn_dist::optim::Groups;
/// use burn_dist::prelude::*;
///
/// #[derive(Module, Debug)]
/// struct Net {
///     blocks: Vec<Linear>,
///     head: Linear,
/// }
///
/// Threads::new(2).run(|world| {
///     let linear = || LinearConfig::new(4, 4).init(&world.device());
///     let net = Net { blocks: vec![linear(), linear()], head: linear() };
///     let mut net = Strategy::fsdp().shard(net, &world)?;
///     let groups = Groups::of(&net)?;
///     let rates = groups.layer_decay(0.75, groups.block_depths("blocks.*")?)?;
///
///     let mut optim = world.optimizer(AdamWConfig::new().init(), &net)?;
///     let x = Tensor::<2>::ones([2, 4], &world.device());
///     let y = net.blocks.iter().fold(x, |x, block| block.forward(x));
///     let grads = world.backward(net.head.forward(y).mean(), &net)?;
///     net = optim.step(rates.at(1e-3), net, grads.into_params()); // the head at 1e-3, the blocks below it
/// #   drop(net);
///     Ok(())
/// })?;
/// # Ok::<(), burn_dist::Error>(())
/// ```
///
/// # Source
/// Clark et al., *ELECTRA*, 2020; Bao et al., *BEiT*, 2021; timm: `param_groups_layer_decay`.
#[derive(Clone, Debug, Default)]
pub struct LayerDecay {
    /// Without those whose factor is 1.
    factors: Vec<(ParamGroup, f64)>,
}

impl LayerDecay {
    /// The same rate for all parameters.
    pub fn none() -> Self {
        Self::default()
    }

    /// The rates of a step, given the highest one, for [`ModuleOptimizer::step`](burn::optim::ModuleOptimizer::step).
    ///
    /// A pure function of the rate, such as [`Schedule::at`](crate::training::Schedule::at) gives for a step: nothing
    /// of it is saved. Weights decay by their own rate.
    pub fn at(&self, rate: f64) -> ModuleLearningRate {
        let all = ModuleLrScheduler::new(rate);
        let groups = self.factors.iter();
        let mut all = groups.fold(all, |all, (group, factor)| {
            all.with_group(group.clone(), rate * factor)
        });
        all.step()
    }
}

impl Groups {
    /// Rates that fall by `decay` for each depth below the deepest: by `decay` to the power of that distance.
    ///
    /// `depth_of` says how far from the input the parameter at a path is; [`block_depths`](Self::block_depths) knows it
    /// for a list of blocks.
    ///
    /// # Errors
    /// [`Error::Config`] unless `decay` is above 0 and at most 1.
    pub fn layer_decay(&self, decay: f64, depth_of: impl Fn(&str) -> usize) -> Result<LayerDecay> {
        if !(decay > 0.0 && decay <= 1.0) {
            let expected = "a number above 0 and at most 1";
            return Err(Error::config("layer decay", expected, decay));
        }
        let mut depths: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
        for parameter in self.parameters() {
            let path = parameter.path();
            depths.entry(depth_of(path)).or_default().push(path);
        }
        let deepest = depths.keys().next_back().copied().unwrap_or_default();
        let below = depths.into_iter().filter(|(depth, _)| *depth < deepest);
        let factor = |depth: usize| decay.powi((deepest - depth).try_into().unwrap_or(i32::MAX));
        let factors = below.map(|(depth, paths)| (ParamGroup::from_paths(paths), factor(depth)));
        Ok(LayerDecay {
            factors: factors.collect(),
        })
    }

    /// The depths of a model with a list of blocks, for [`layer_decay`](Self::layer_decay): 0 before the first block in
    /// the order of the model's fields, then a number for each block, and behind the blocks one more.
    ///
    /// `blocks` is the pattern of the blocks' paths, such as `encoder.blocks.*`.
    ///
    /// # Errors
    /// [`Error::Model`] if no trainable parameter lies in such a block, with the nearest path.
    ///
    /// # Source
    /// timm: `group_matcher` with `param_groups_layer_decay`, where embeddings are layer 0 and the head is the last.
    pub fn block_depths(&self, blocks: &str) -> Result<impl Fn(&str) -> usize + use<>> {
        let depth = blocks.split('.').count();
        let mut known: BTreeMap<String, usize> = BTreeMap::new();
        let mut depths: BTreeMap<String, usize> = BTreeMap::new();
        for parameter in self.parameters() {
            let path = parameter.path();
            let number = if parameter.lies_in(blocks) {
                let block: Vec<&str> = path.split('.').take(depth).collect();
                let next = known.len() + 1;
                *known.entry(block.join(".")).or_insert(next)
            } else if known.is_empty() {
                0
            } else {
                // One more than the last block, however many follow.
                usize::MAX
            };
            depths.insert(path.into(), number);
        }
        if known.is_empty() {
            return Err(self.unknown(blocks));
        }
        let behind = known.len() + 1;
        Ok(move |path: &str| depths.get(path).map_or(behind, |&depth| depth.min(behind)))
    }
}
