//! An exponential moving average of a model's parameters.

use crate::error::{Error, Result};
use crate::shard::{MapTensors, VisitTensors, is_trainable, map_tensors, visit_tensors};
use burn::module::{Module, Param};
use burn::tensor::{Bool, DType, Int, Tensor};
use serde::{Deserialize, Serialize};
use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};

/// A moving average of the parameters of a model, of which each rank has that of its own shards.
///
/// The average is a model too, sharded as the one it follows: [`model`](Self::model) is evaluated, saved, exported and
/// gathered as any other, while training goes on with its own. It begins as the model is, and parameters that train move
/// by `1 - rate` of the way to the model's with every update; all else, running state included, is the model's.
///
/// # Cost
/// No traffic. One shard more in memory, in the type of the parameters (f32 under any [`Precision`](crate::Precision)),
/// and one pass over it an update.
///
/// ```
/// use burn::{nn::LinearConfig, optim::AdamWConfig, tensor::Tensor};
/// use burn_dist::checkpoint::{Save, Which};
/// use burn_dist::optim::Ema;
/// use burn_dist::prelude::*;
///
/// # let folder = tempfile::tempdir().unwrap();
/// # let folder = folder.path();
/// Threads::new(2).run(|world| {
///     let layer = || LinearConfig::new(8, 4).init(&world.device());
///     let mut model = Strategy::fsdp().shard(layer(), &world)?;
///     let mut optim = world.optimizer(AdamWConfig::new().init(), &model)?;
///     let mut ema = Ema::new(&model, 0.999)?.with_warmup();
///     for _ in 0..3 {
///         let x = Tensor::<2>::ones([2, 8], &world.device());
///         let grads = world.backward(model.forward(x).mean(), &model)?;
///         model = optim.step(0.1, model, grads.into_params());
///         ema.update(&model)?; // after each step that was taken
///     }
///     let x = Tensor::<2>::ones([2, 8], &world.device());
///     let averaged = ema.model().forward(x.clone()); // evaluate with the average
///     assert_ne!(averaged.into_data(), model.forward(x).into_data());
///
///     let save = Save::new(3).model("model", &model, &optim).average("ema", &ema);
///     world.checkpointer(folder)?.save(save)?; // all or nothing
///     let fresh = Ema::new(&Strategy::zero1().shard(layer(), &world)?, 0.999)?.with_warmup();
///     let ema = world.open_save(folder, Which::Latest)?.average("ema", fresh)?;
///     assert_eq!(ema.updates(), 3);
///     Ok(())
/// })?;
/// # Ok::<(), burn_dist::Error>(())
/// ```
///
/// # Source
/// PyTorch: `swa_utils.AveragedModel` with `get_ema_multi_avg_fn`, whose formula this is; timm: `ModelEmaV3`; the warm-up
/// is that of TensorFlow's `ExponentialMovingAverage(num_updates=..)`.
#[derive(Debug, Clone)]
pub struct Ema<M> {
    average: M,
    /// The paths of what is averaged.
    averaged: BTreeSet<String>,
    rate: f64,
    has_warmup: bool,
    progress: EmaProgress,
}

/// What a save keeps of an average beside its parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EmaProgress {
    updates: u64,
}

impl<M: Module> Ema<M> {
    /// An average that begins as `model` is, and keeps `rate` of itself at an update, such as 0.999.
    ///
    /// # Errors
    /// [`Error::Config`] unless `rate` is from 0 to below 1; [`Error::Model`] for a model of which nothing trains, and
    /// for parameters stored in half precision, in which the average would stand still.
    pub fn new(model: &M, rate: f64) -> Result<Self> {
        if !(0.0..1.0).contains(&rate) {
            let expected = "a number from 0 to below 1";
            return Err(Error::config("the rate of an average", expected, rate));
        }
        let mut find = Find::default();
        visit_tensors(model, &mut find);
        if let Some((path, dtype)) = find.refused {
            return Err(Error::model(
                path,
                format!(
                    "is stored as {}, in which an average stands still",
                    dtype.name()
                ),
                "hold the model in f32 (Strategy::precision computes in another type)",
            ));
        }
        if find.averaged.is_empty() {
            return Err(Error::model(
                "the model",
                "has no parameter that takes gradients, so there is nothing to average",
                "make the average of a model of which something trains",
            ));
        }
        Ok(Self {
            average: model.clone(),
            averaged: find.averaged,
            rate,
            has_warmup: false,
            progress: EmaProgress { updates: 0 },
        })
    }

    /// The same with a rate of `min(rate, (1 + t) / (10 + t))` at the update after `t` others, so that the first
    /// parameters are soon forgotten.
    #[must_use]
    pub fn with_warmup(mut self) -> Self {
        self.has_warmup = true;
        self
    }

    /// Moves the average to the parameters after a step that was taken: not one that a loss scaler has skipped.
    ///
    /// All ranks update as often.
    ///
    /// # Errors
    /// [`Error::Model`] for another model than that of the average.
    pub fn update(&mut self, model: &M) -> Result<()> {
        let mut read = Read::default();
        visit_tensors(model, &mut read);
        let mut update = Update {
            model: read.stored,
            averaged: &self.averaged,
            moved: 1.0 - self.next_rate(),
            differs: None,
        };
        let average = map_tensors(self.average.clone(), &mut update);
        let left = update.model.into_keys().next();
        if let Some(path) = update.differs.or(left) {
            return Err(Error::model(
                path,
                "is not in both the model and its average, with the same shape",
                "update an average with the model that it was made of, on the same ranks",
            ));
        }
        self.average = average;
        self.progress.updates += 1;
        Ok(())
    }

    /// How much of itself the average keeps at the next update.
    pub fn next_rate(&self) -> f64 {
        let t = self.progress.updates as f64;
        if self.has_warmup {
            self.rate.min((1.0 + t) / (10.0 + t))
        } else {
            self.rate
        }
    }

    /// How often it was updated.
    pub fn updates(&self) -> u64 {
        self.progress.updates
    }

    /// The averaged model: sharded as the model is, and with its running state.
    pub fn model(&self) -> &M {
        &self.average
    }

    /// The same, for an export or the next training.
    pub fn into_model(self) -> M {
        self.average
    }

    pub(crate) fn progress(&self) -> &EmaProgress {
        &self.progress
    }

    /// With the average and the updates of a save.
    pub(crate) fn resumed(self, average: M, progress: EmaProgress) -> Self {
        Self {
            average,
            progress,
            ..self
        }
    }
}

/// Finds what is averaged, and the first parameter that cannot be.
#[derive(Default)]
struct Find {
    averaged: BTreeSet<String>,
    refused: Option<(String, DType)>,
}

impl VisitTensors for Find {
    fn float<const D: usize>(&mut self, path: &str, param: &Param<Tensor<D>>) {
        if !is_trainable(param) {
            return;
        }
        let dtype = param.base().dtype();
        if !matches!(dtype, DType::F32 | DType::F64) {
            self.refused.get_or_insert((path.into(), dtype));
        }
        self.averaged.insert(path.into());
    }
}

/// What a model stores, by path: a `Tensor` of the parameter's dimensions and kind.
#[derive(Default)]
struct Read {
    stored: BTreeMap<String, Box<dyn Any>>,
}

impl VisitTensors for Read {
    fn float<const D: usize>(&mut self, path: &str, param: &Param<Tensor<D>>) {
        let stored = param.base();
        let stored = if stored.is_autodiff() {
            stored.inner()
        } else {
            stored
        };
        self.stored.insert(path.into(), Box::new(stored));
    }

    fn int<const D: usize>(&mut self, path: &str, param: &Param<Tensor<D, Int>>) {
        self.stored.insert(path.into(), Box::new(param.base()));
    }

    fn bool<const D: usize>(&mut self, path: &str, param: &Param<Tensor<D, Bool>>) {
        self.stored.insert(path.into(), Box::new(param.base()));
    }
}

struct Update<'a> {
    model: BTreeMap<String, Box<dyn Any>>,
    averaged: &'a BTreeSet<String>,
    /// The share of the way to the model.
    moved: f64,
    /// The first path that differs.
    differs: Option<String>,
}

impl Update<'_> {
    /// The model's tensor at a path.
    fn take<T: 'static>(&mut self, path: &str) -> Option<T> {
        let found = self.model.remove(path);
        let found = found.and_then(|tensor| tensor.downcast::<T>().ok());
        if found.is_none() {
            self.differs.get_or_insert(path.into());
        }
        found.map(|tensor| *tensor)
    }
}

impl MapTensors for Update<'_> {
    fn float<const D: usize>(&mut self, path: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(model) = self.take::<Tensor<D>>(path) else {
            return param;
        };
        let (moved, is_averaged) = (self.moved, self.averaged.contains(path));
        let differs = &mut self.differs;
        param.map(|average| {
            if average.dims() != model.dims() {
                differs.get_or_insert(path.into());
                return average;
            }
            let (on_tape, trains) = (average.is_autodiff(), average.is_require_grad());
            let next = if is_averaged {
                let average = if on_tape { average.inner() } else { average };
                let way = (model - average.clone()).mul_scalar(moved);
                average + way
            } else {
                model
            };
            if on_tape {
                Tensor::from_inner(next).set_require_grad(trains)
            } else {
                next
            }
        })
    }

    fn int<const D: usize>(
        &mut self,
        path: &str,
        param: Param<Tensor<D, Int>>,
    ) -> Param<Tensor<D, Int>> {
        match self.take::<Tensor<D, Int>>(path) {
            Some(model) => param.map(|_| model),
            None => param,
        }
    }

    fn bool<const D: usize>(
        &mut self,
        path: &str,
        param: Param<Tensor<D, Bool>>,
    ) -> Param<Tensor<D, Bool>> {
        match self.take::<Tensor<D, Bool>>(path) {
            Some(model) => param.map(|_| model),
            None => param,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig};
    use burn::tensor::Device;

    #[derive(Module, Debug)]
    struct Net {
        first: Linear,
        norm: BatchNorm,
    }

    fn net() -> Net {
        let device = Device::flex().autodiff();
        Net {
            first: LinearConfig::new(3, 2).init(&device),
            norm: BatchNormConfig::new(2).init(&device),
        }
    }

    #[test]
    fn what_trains_is_averaged_and_running_state_copied() {
        let mut model = net();
        let before = model.first.weight.val().into_data();
        let mut ema = Ema::new(&model, 0.75).unwrap();
        let (_, weight) = (0, model.first.weight.clone());
        model.first.weight = weight.map(|w| Tensor::from_inner(w.inner() + 4.0).require_grad());
        model
            .norm
            .forward(Tensor::<3>::ones([2, 2, 5], &Device::flex().autodiff()));
        ema.update(&model).unwrap();
        let expected = before.iter::<f32>().map(|x| x + 1.0);
        let found = ema.model().first.weight.val().into_data();
        for (found, expected) in found.iter::<f32>().zip(expected) {
            assert!((found - expected).abs() < 1e-6);
        }
        let running = |net: &Net| net.norm.running_mean.value_sync().into_data();
        assert_eq!(running(ema.model()), running(&model));
        assert_eq!(ema.updates(), 1);
    }

    #[test]
    fn a_warm_up_follows_its_formula() {
        let model = net();
        let mut ema = Ema::new(&model, 0.5).unwrap().with_warmup();
        for expected in [0.1, 2.0 / 11.0, 0.25] {
            assert_eq!(ema.next_rate(), expected);
            ema.update(&model).unwrap();
        }
        (0..20).for_each(|_| ema.update(&model).unwrap());
        assert_eq!(ema.next_rate(), 0.5);
    }

    #[test]
    fn what_cannot_be_averaged_is_an_error() {
        let model = net();
        for rate in [1.0, -0.1, f64::NAN] {
            assert!(matches!(Ema::new(&model, rate), Err(Error::Config { .. })));
        }
        let error = Ema::new(&net().no_grad(), 0.9).unwrap_err().to_string();
        assert!(error.contains("nothing to average"), "{error}");
        let mut ema = Ema::new(&model, 0.9).unwrap();
        let mut other = net();
        other.first = LinearConfig::new(4, 2).init(&Device::flex().autodiff());
        let error = ema.update(&other).unwrap_err().to_string();
        assert!(error.contains("first.weight"), "{error}");
        assert_eq!(ema.updates(), 0);
    }
}
