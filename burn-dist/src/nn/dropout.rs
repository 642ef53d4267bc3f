//! Dropout whose numbers come out the same again.

use super::functional::{self, dropout};
use crate::draws;
use crate::noise::Noise;
use burn::config::Config;
use burn::module::{Flag, Module, Param};
use burn::tensor::{Device, Distribution, Tensor};

/// Settings of a [`Dropout`]; those of [`burn::nn::DropoutConfig`].
#[derive(Config, Debug)]
pub struct DropoutConfig {
    /// The probability that an element is dropped.
    pub prob: f64,
}

impl DropoutConfig {
    /// The layer.
    ///
    /// # Panics
    /// If the probability is not in `[0, 1)`.
    pub fn init(&self) -> Dropout {
        check(self.prob);
        Dropout {
            prob: self.prob,
            training: Param::from_bool(true),
        }
    }
}

/// Zeroes each element with a probability and scales the others so that the mean is kept, in training only.
///
/// Within the `unit` calls of a sharded model, and within [`Noise::layers`](crate::Noise::layers), what it drops
/// follows from the seed, the pass, the rank, the call of `unit` and the layer's place in it. So a run is equal bit
/// for bit to the same run, as threads or processes; a resumed run to one that was not interrupted; and
/// [`Strategy::recompute`](crate::Strategy::recompute) drops again what it dropped. Outside of both it draws from
/// Burn's generator, as [`burn::nn::Dropout`] always does.
///
/// Srivastava et al., 2014, <https://jmlr.org/papers/v15/srivastava14a.html>.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use burn_dist::nn::DropoutConfig;
///
/// let dropout = DropoutConfig::new(0.5).init();
/// let x = Tensor::<1>::ones([4], &Device::flex());
/// // Without a tape nothing trains, and nothing is dropped.
/// assert_eq!(dropout.forward(x.clone()).into_data(), x.into_data());
/// ```
#[derive(Module, Debug)]
pub struct Dropout {
    /// The probability that an element is dropped.
    pub prob: f64,
    /// Whether it drops in training.
    pub training: Param<Flag>,
}

impl Dropout {
    /// Output of the shape and type of `x`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        match self.mask(&x.device()) {
            Some(mask) => dropout(x, mask),
            None => x,
        }
    }

    /// What is dropped next on this device; none where nothing is.
    pub(super) fn mask(&self, device: &Device) -> Option<functional::Dropout> {
        drops(self.prob, &self.training, device).then(|| {
            let (noise, site) = next(device);
            noise.mask_of(self.prob, site)
        })
    }
}

/// Settings of a [`DropPath`].
#[derive(Config, Debug)]
pub struct DropPathConfig {
    /// The probability that a sample skips the branch.
    pub prob: f64,
}

impl DropPathConfig {
    /// The layer.
    ///
    /// # Panics
    /// If the probability is not in `[0, 1)`.
    pub fn init(&self) -> DropPath {
        check(self.prob);
        DropPath {
            prob: self.prob,
            training: Param::from_bool(true),
        }
    }
}

/// Stochastic depth: zeroes whole samples of a residual branch and scales the others, in training only.
///
/// Its numbers come from where those of [`Dropout`] come from. Huang et al., 2016,
/// <https://arxiv.org/abs/1603.09382>.
#[derive(Module, Debug)]
pub struct DropPath {
    /// The probability that a sample skips the branch.
    pub prob: f64,
    /// Whether it drops in training.
    pub training: Param<Flag>,
}

impl DropPath {
    /// `x` and output: `[batch, ..]`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let device = x.device();
        if !drops(self.prob, &self.training, &device) {
            return x;
        }
        let (noise, site) = next(&device);
        noise.drop_path(x, self.prob, site)
    }
}

fn check(prob: f64) {
    assert!(
        (0.0..1.0).contains(&prob),
        "a probability of dropping in [0, 1) is expected, found {prob}"
    );
}

/// As Burn decides: on a device with a tape, unless the layer is frozen.
fn drops(prob: f64, training: &Param<Flag>, device: &Device) -> bool {
    prob > 0.0 && training.is_enabled() && device.is_autodiff()
}

/// The noise and the number of the next draw: the pass's, or from a seed that Burn's generator draws.
fn next(device: &Device) -> (Noise, u32) {
    draws::next().unwrap_or_else(|| {
        let uniform = Distribution::Uniform(0.0, 1.0);
        let drawn = Tensor::<1>::random([3], uniform, &device.clone().inner()).into_data();
        // All the bits that an f32 in [0, 1) has, of each number.
        let bits = drawn.iter::<f32>().map(|x| (x * 2f32.powi(24)) as u64);
        (Noise::new(bits.fold(0, |seed, x| seed << 24 | x), 0, 0), 0)
    })
}
