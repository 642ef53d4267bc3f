//! Random numbers of a Vision Transformer: they do not depend on how it is sharded.
//!
//! Its parameters are drawn while `shard` divides them, and no rank ever has all of them; dropout is
//! drawn in every forward pass. Neither may depend on the strategy, nor the parameters on the number of ranks,
//! or runs under different strategies could not be compared.

use crate::alone;
use crate::oracle;
use crate::oracle::Values;
use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::{Device, Int, Tensor, TensorData};
use burn_dist::Noise;
use burn_dist::launch::Threads;
use burn_dist::nn::loss::cross_entropy;
use burn_dist::{Destination, Result, Strategy, World};
use burn_dist_models::{Vit, VitConfig};

const SEED: u64 = 11;
/// Samples of a rank.
const BATCH: usize = 3;

/// Every parameter in module order, as bits: equal here means equal, and -0 is not 0.
#[derive(Default, PartialEq)]
struct Parameters(Vec<Vec<u32>>);

impl ModuleVisitor for Parameters {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let values: Vec<f32> = param.val().into_data().try_to_vec().unwrap();
        self.0.push(values.into_iter().map(f32::to_bits).collect());
    }
}

impl Parameters {
    fn of(model: &Vit) -> Self {
        let mut parameters = Self::default();
        model.visit(&mut parameters);
        parameters
    }

    /// What plain Burn draws for a seed.
    fn drawn(seed: u64) -> Self {
        let device = Device::flex();
        device.seed(seed);
        Self::of(&VitConfig::tiny(10).init(&device).unwrap())
    }

    /// What a sharded model has, all of it on every rank.
    fn gathered(world: &World, model: &Vit) -> Result<Self> {
        Ok(Self::of(&world.full(model, Destination::All)?.unwrap()))
    }
}

fn sharded(strategy: &Strategy, config: &VitConfig, world: &World) -> Result<Vit> {
    let model = config.init(&world.device()).unwrap();
    strategy.clone().shard(model, world)
}

#[test]
fn parameters_are_those_of_plain_burn_for_any_number_of_ranks() {
    let _alone = alone();
    let expected = Parameters::drawn(SEED);
    assert_eq!(expected.0.len(), 72);
    for size in 1..=3 {
        for strategy in [Strategy::fsdp(), Strategy::ddp()] {
            let ranks = Threads::new(size)
                .seed(SEED)
                .run(|world| {
                    let model = sharded(&strategy, &VitConfig::tiny(10), &world)?;
                    Parameters::gathered(&world, &model)
                })
                .unwrap();
            for (rank, found) in ranks.iter().enumerate() {
                assert!(
                    *found == expected,
                    "{strategy}, rank {rank} of {size}, drew other parameters"
                );
            }
        }
    }
}

#[test]
fn the_second_model_of_a_world_is_drawn_from_the_next_seed() {
    let _alone = alone();
    let expected = [Parameters::drawn(SEED), Parameters::drawn(SEED + 1)];
    assert!(expected[0] != expected[1]);
    for strategy in [Strategy::fsdp(), Strategy::ddp()] {
        let ranks = Threads::new(2)
            .seed(SEED)
            .run(|world| {
                let models = [0, 1].map(|_| sharded(&strategy, &VitConfig::tiny(10), &world));
                let [first, second] = models;
                Ok([
                    Parameters::gathered(&world, &first?)?,
                    Parameters::gathered(&world, &second?)?,
                ])
            })
            .unwrap();
        for found in ranks {
            assert!(found[0] == expected[0], "{strategy}: the first model");
            assert!(found[1] == expected[1], "{strategy}: the second model");
        }
    }
}

/// A model that drops elements, attention probabilities and whole branches.
fn noisy() -> VitConfig {
    VitConfig::tiny(10)
        .with_dropout(0.1)
        .with_attention_dropout(0.1)
        .with_drop_path(0.3)
}

/// The loss of a rank's own samples under its own noise.
fn loss(model: &Vit, rank: usize, step: usize, seed: u64, device: &Device) -> Tensor<1> {
    let pixels = oracle::batch(BATCH, 3 * 32 * 32, 2 * step + rank).convert::<f32>();
    let images = Tensor::<2>::from_data(pixels, device).reshape([BATCH, 3, 32, 32]);
    let labels: Vec<i64> = (0..BATCH)
        .map(|i| ((i + rank + step) % 10) as i64)
        .collect();
    let labels = Tensor::<1, Int>::from_data(TensorData::from(labels.as_slice()), device);
    let noise = Noise::new(seed, step as u64, rank as u32);
    cross_entropy(noise.layers(|| model.forward(images)), labels)
}

/// The losses of each rank over a few steps.
fn losses(strategy: &Strategy, noise: u64) -> Vec<Vec<f64>> {
    Threads::new(2)
        .seed(SEED)
        .run(|world| {
            let mut model = sharded(strategy, &noisy(), &world)?;
            let mut optimizer = world.optimizer(AdamWConfig::new().init(), &model)?;
            let mut losses = Vec::new();
            for step in 0..4 {
                let loss = loss(&model, world.rank(), step, noise, &world.device());
                losses.push(oracle::scalar(&loss));
                let gradients = world.backward(loss, &model)?.clip_norm(1.0)?;
                model = optimizer.step(1e-3, model, gradients.grads);
            }
            Ok(losses)
        })
        .unwrap()
}

#[test]
fn runs_with_dropout_are_the_same_bit_for_bit_under_every_strategy() {
    let _alone = alone();
    let expected = losses(&Strategy::ddp(), 5);
    assert_ne!(expected[0], expected[1], "the ranks have different samples");
    assert_ne!(expected, losses(&Strategy::ddp(), 6), "nothing is dropped");
    // The sum of two ranks' gradients has no order, so there is nothing to round differently.
    for strategy in [Strategy::zero1(), Strategy::zero2(), Strategy::fsdp()] {
        assert_eq!(losses(&strategy, 5), expected, "{strategy}");
    }
}

/// The gradients of a step, in full, as every rank has them.
fn gradients(strategy: &Strategy) -> Values {
    let ranks = Threads::new(2)
        .seed(SEED)
        .run(|world| {
            let model = sharded(strategy, &noisy(), &world)?;
            let loss = loss(&model, world.rank(), 0, 5, &world.device());
            let gradients = world.backward(loss, &model)?.into_params();
            let held = oracle::holding(&model, &gradients);
            Ok(oracle::values(
                &world.full(&held, Destination::All)?.unwrap(),
            ))
        })
        .unwrap();
    assert_eq!(ranks[0], ranks[1]);
    ranks.into_iter().next().unwrap()
}

#[test]
fn gradients_through_dropout_are_the_same_under_fsdp_and_ddp() {
    let _alone = alone();
    let expected = gradients(&Strategy::ddp());
    assert!(expected.values().flatten().any(|x| *x != 0.0));
    // A mask drawn anew in backward would change every gradient below it.
    assert_eq!(gradients(&Strategy::fsdp()), expected);
}

#[test]
fn one_device_repeats_the_noise_of_every_rank() {
    let _alone = alone();
    let device = Device::flex().autodiff();
    device.seed(SEED);
    let model = noisy().init(&device).unwrap();
    assert!(Parameters::of(&model) == Parameters::drawn(SEED));

    let both = loss(&model, 0, 0, 5, &device) + loss(&model, 1, 0, 5, &device);
    let grads = GradientsParams::from_grads((both / 2.0).backward(), &model);
    let expected = oracle::values(&oracle::holding(&model, &grads));
    let found = gradients(&Strategy::fsdp());
    assert!(found.keys().eq(expected.keys()));
    let largest = expected
        .values()
        .flatten()
        .fold(0f64, |m, x| m.max(x.abs()));
    for (path, expected) in &expected {
        // Two passes on one tape round in another order than two ranks do.
        let off = difference(&found[path], expected);
        assert!(off <= 1e-6 * largest, "{path} is off by {off:e}");
    }
}

fn difference(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let pairs = found.iter().zip(expected);
    pairs.fold(0.0, |most, (a, b)| f64::max(most, (a - b).abs()))
}
