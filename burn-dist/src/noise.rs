//! Random numbers that are a pure function of where they are drawn.
//!
//! A device's random generator is a moving state: run a forward pass a second time, or let two ranks
//! share a process, and it yields other numbers. A forward pass that is to be repeatable, by a resumed
//! run or by a backward pass that recomputes it, must drop the very same activations. So nothing here
//! has a state: each draw comes from its own ChaCha8 stream, whose key is the coordinates of the draw.

use burn::tensor::{Device, Distribution, Tensor, TensorData};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Where random numbers are drawn: the coordinates that determine them entirely.
///
/// The same numbers come out as threads and as processes, in a second forward, and after a resume;
/// Burn's own generator is one per process on the CPU, and cannot promise any of the three.
/// [`World::noise`](crate::World::noise) gives that of a rank.
///
/// - `seed`: the run. The same on every rank.
/// - `step`: the forward pass. Count micro-batches rather than optimizer steps, and give two forward
///   passes of one step different numbers, or they drop the same activations.
/// - `rank`: whose samples these are. Ranks with equal coordinates would draw equal masks for different
///   samples. Ranks that compute *one* sample together (tensor parallelism) share a number instead.
/// - `unit`: the part of the model, set with [`unit`](Self::unit) by the model itself.
///
/// A run is reproduced by the same seed, the same number of ranks and the same samples per rank. One
/// device reproduces a run of several ranks by running each rank's samples as a forward pass of its own,
/// under that rank's number.
///
/// # Example
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use burn_dist::Noise;
///
/// let x = Tensor::<2>::ones([4, 8], &Device::flex());
/// let noise = Noise::new(42, 0, 0).unit(3);
///
/// let once = noise.dropout(x.clone(), 0.5, 0);
/// let again = noise.dropout(x, 0.5, 0);
/// assert_eq!(once.into_data(), again.into_data());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Noise {
    seed: u64,
    step: u64,
    rank: u32,
    unit: u32,
}

impl Noise {
    /// The noise of one forward pass of one rank.
    pub fn new(seed: u64, step: u64, rank: u32) -> Self {
        Self {
            seed,
            step,
            rank,
            unit: 0,
        }
    }

    /// The same pass, seen from another part of the model.
    pub fn unit(self, unit: u32) -> Self {
        Self { unit, ..self }
    }

    /// A tensor of random numbers of the device's float type.
    ///
    /// `site` tells apart the draws of one unit.
    ///
    /// ```
    /// use burn::tensor::{Device, Distribution};
    /// use burn_dist::Noise;
    ///
    /// let noise = Noise::new(42, 0, 0);
    /// let draw = || noise.random::<2>([4, 8], Distribution::Normal(0.0, 1.0), &Device::flex(), 0);
    /// assert_eq!(draw().into_data(), draw().into_data());
    /// ```
    pub fn random<const D: usize>(
        &self,
        shape: [usize; D],
        distribution: Distribution,
        device: &Device,
        site: u32,
    ) -> Tensor<D> {
        let data = TensorData::random::<f32, _, _>(shape, distribution, &mut self.stream(site));
        Tensor::from_data(data, device)
    }

    /// One random number, such as a seed for a generator of another kind.
    pub fn number(&self, site: u32) -> u64 {
        self.stream(site).next_u64()
    }

    /// Zeroes each element with probability `rate` and scales the others so that the mean is kept.
    ///
    /// `site` tells apart the draws of one unit. The output has the shape and dtype of `x`. A rate of 0
    /// (or less) returns `x` itself and leaves no trace on the autodiff tape; a rate of 1 (or more) is all
    /// zeros. Srivastava et al., 2014, <https://jmlr.org/papers/v15/srivastava14a.html>.
    pub fn dropout<const D: usize>(&self, x: Tensor<D>, rate: f64, site: u32) -> Tensor<D> {
        #[cfg(feature = "nn")]
        return burn_dist_nn::functional::dropout(x, self.mask_of(rate, site));
        #[cfg(not(feature = "nn"))]
        {
            let shape = x.dims();
            self.mask(x, rate, site, shape)
        }
    }

    /// What [`dropout`](Self::dropout) drops, for operations that drop within themselves.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use burn_dist::Noise;
    /// use burn_dist::nn::functional::dropout;
    ///
    /// let (x, noise) = (Tensor::<1>::ones([9], &Device::flex()), Noise::new(42, 0, 0));
    /// let once = dropout(x.clone(), noise.mask_of(0.5, 0));
    /// assert_eq!(once.into_data(), noise.dropout(x, 0.5, 0).into_data());
    /// ```
    #[cfg(feature = "nn")]
    pub fn mask_of(&self, rate: f64, site: u32) -> burn_dist_nn::functional::Dropout {
        let key = self.key(site);
        burn_dist_nn::functional::Dropout { rate, key }
    }

    /// Zeroes whole samples (index of the first dimension) with probability `rate`, and scales the others.
    ///
    /// Applied to a residual branch this is stochastic depth: a dropped sample skips the branch. Shapes,
    /// dtype and the extreme rates are as for [`dropout`](Self::dropout). Huang et al., 2016,
    /// <https://arxiv.org/abs/1603.09382>.
    pub fn drop_path<const D: usize>(&self, x: Tensor<D>, rate: f64, site: u32) -> Tensor<D> {
        let mut shape = [1; D];
        shape[0] = x.dims()[0];
        self.mask(x, rate, site, shape)
    }

    /// Multiplies `x` by a mask of `shape`, which broadcasts over `x`.
    fn mask<const D: usize>(
        &self,
        x: Tensor<D>,
        rate: f64,
        site: u32,
        shape: [usize; D],
    ) -> Tensor<D> {
        if rate <= 0.0 {
            return x;
        }
        let kept = if rate < 1.0 { 1.0 / (1.0 - rate) } else { 0.0 };
        // An element is dropped when its 32 random bits fall below this; the cast saturates at rate 1.
        let threshold = (rate * 2f64.powi(32)) as u32;

        let mut stream = self.stream(site);
        let mask: Vec<f32> = (0..shape.iter().product())
            .map(|_| {
                if stream.next_u32() < threshold {
                    0.0
                } else {
                    kept as f32
                }
            })
            .collect();
        let mask = Tensor::<D>::from_data(TensorData::new(mask, shape), (&x.device(), x.dtype()));
        x * mask
    }

    /// The generator of one draw.
    fn stream(&self, site: u32) -> ChaCha8Rng {
        ChaCha8Rng::from_seed(self.key(site))
    }

    /// The key of one draw. The coordinates fill its 256 bits side by side, so that two different draws can
    /// never share a key, as they could if a hash mixed them.
    fn key(&self, site: u32) -> [u8; 32] {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&self.seed.to_le_bytes());
        key[8..16].copy_from_slice(&self.step.to_le_bytes());
        key[16..20].copy_from_slice(&self.rank.to_le_bytes());
        key[20..24].copy_from_slice(&self.unit.to_le_bytes());
        key[24..28].copy_from_slice(&site.to_le_bytes());
        key
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use burn::tensor::{DType, Device};

    const RATE: f64 = 0.25;

    fn ones() -> Tensor<2> {
        Tensor::ones([64, 256], &Device::flex())
    }

    /// What dropout makes of ones: the mask itself.
    fn mask(noise: Noise, site: u32) -> Vec<f32> {
        noise
            .dropout(ones(), RATE, site)
            .into_data()
            .try_to_vec()
            .unwrap()
    }

    #[test]
    fn equal_coordinates_replay_the_mask() {
        let noise = Noise::new(7, 11, 3).unit(5);
        assert_eq!(mask(noise, 2), mask(noise, 2));
        // The number of elements drawn before does not shift a mask: a prefix stays a prefix.
        let small = noise.dropout(Tensor::<1>::ones([10], &Device::flex()), RATE, 2);
        assert_eq!(
            small.into_data().try_to_vec::<f32>().unwrap(),
            mask(noise, 2)[..10]
        );
    }

    #[test]
    fn random_tensors_replay_and_follow_their_distribution() {
        let draw = |site| -> Vec<f32> {
            let normal = Distribution::Normal(2.0, 0.5);
            let drawn = Noise::new(7, 11, 3).random::<1>([20_000], normal, &Device::flex(), site);
            drawn.into_data().try_to_vec().unwrap()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        let mean = draw(1).iter().map(|x| f64::from(*x)).sum::<f64>() / 20_000.0;
        assert!((mean - 2.0).abs() < 0.02, "{mean}");
    }

    #[test]
    fn each_coordinate_gives_an_independent_mask() {
        let base = mask(Noise::new(7, 11, 3).unit(5), 2);
        let others = [
            mask(Noise::new(8, 11, 3).unit(5), 2),
            mask(Noise::new(7, 12, 3).unit(5), 2),
            mask(Noise::new(7, 11, 4).unit(5), 2),
            mask(Noise::new(7, 11, 3).unit(6), 2),
            mask(Noise::new(7, 11, 3).unit(5), 3),
            // Neighbouring coordinates that a careless mixing would confuse.
            mask(Noise::new(7, 11, 5).unit(3), 2),
        ];
        // Two independent masks agree on an element with probability p² + (1 - p)².
        let expected = RATE * RATE + (1.0 - RATE) * (1.0 - RATE);
        for other in others {
            let equal = base.iter().zip(&other).filter(|(a, b)| a == b).count();
            let share = equal as f64 / base.len() as f64;
            assert!(
                (share - expected).abs() < 0.02,
                "{share} against {expected}"
            );
        }
    }

    #[test]
    fn the_mean_is_kept() {
        let mask = mask(Noise::new(1, 0, 0), 0);
        let mean = mask.iter().map(|&x| f64::from(x)).sum::<f64>() / mask.len() as f64;
        assert!((mean - 1.0).abs() < 0.02, "{mean}");
        let kept = (1.0 / (1.0 - RATE)) as f32;
        assert!(mask.iter().all(|&x| x == 0.0 || x == kept));
    }

    #[test]
    fn drop_path_drops_whole_samples() {
        let out = Noise::new(1, 0, 0).drop_path(ones(), 0.5, 0);
        let rows: Vec<f32> = out.into_data().try_to_vec().unwrap();
        let rows: Vec<&[f32]> = rows.chunks(256).collect();
        assert!(rows.iter().all(|row| row.iter().all(|x| x == &row[0])));
        let dropped = rows.iter().filter(|row| row[0] == 0.0).count();
        assert!((16..=48).contains(&dropped), "{dropped} of 64");
    }

    #[test]
    fn extreme_rates() {
        let device = Device::flex().autodiff();
        let leaf = Tensor::<2>::ones([2, 3], &device).require_grad();
        let noise = Noise::new(1, 0, 0);
        // Only a leaf requires a gradient: an operation would have returned another kind of tensor.
        assert!(noise.dropout(leaf.clone(), 0.0, 0).is_require_grad());
        assert!(noise.drop_path(leaf.clone(), 0.0, 0).is_require_grad());
        let none = noise.dropout(leaf, 1.0, 0).into_data();
        assert_eq!(none.try_to_vec::<f32>().unwrap(), [0.0; 6]);
    }

    #[test]
    fn the_dtype_is_that_of_the_input() {
        let x = Tensor::<1>::ones([4], (&Device::flex(), DType::F64));
        assert_eq!(Noise::new(1, 0, 0).dropout(x, RATE, 0).dtype(), DType::F64);
    }
}
