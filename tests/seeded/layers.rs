//! What the layers of `burn_dist::nn` draw: initial values as Burn's, and dropout that replays.

use crate::alone;
use crate::oracle::{self, Values, ranks, values};
use burn::module::Module;
use burn::nn as burns;
use burn::optim::AdamWConfig;
use burn::tensor::{DType, Device, Tensor};
use burn_dist::nn::{
    EmbeddingConfig, LinearConfig, TransformerDecoderConfig, TransformerEncoder,
    TransformerEncoderConfig, TransformerEncoderInput,
};
use burn_dist::{Destination, Error, Result, Strategy, World, unit};
use std::path::Path;

/// The values of a model that is drawn from a seed.
fn drawn<M: Module>(model: M) -> Values {
    Device::flex().seed(11);
    values(&model.valid())
}

#[test]
fn initial_values_are_those_of_burns_layers() {
    let _alone = alone();
    let device = Device::flex().autodiff();
    assert_eq!(
        drawn(LinearConfig::new(5, 7).init(&device)),
        drawn(burns::LinearConfig::new(5, 7).init(&device))
    );
    assert_eq!(
        drawn(EmbeddingConfig::new(5, 7).init(&device)),
        drawn(burns::EmbeddingConfig::new(5, 7).init(&device))
    );
    assert_eq!(
        drawn(TransformerEncoderConfig::new(6, 9, 2, 2).init(&device)),
        drawn(burns::transformer::TransformerEncoderConfig::new(6, 9, 2, 2).init(&device))
    );
    assert_eq!(
        drawn(TransformerDecoderConfig::new(6, 9, 2, 2).init(&device)),
        drawn(burns::transformer::TransformerDecoderConfig::new(6, 9, 2, 2).init(&device))
    );
}

fn encoder(world: &World) -> TransformerEncoder {
    TransformerEncoderConfig::new(6, 9, 2, 2)
        .with_dropout(0.3)
        .init(&world.device())
}

fn loss(model: &TransformerEncoder, world: &World, step: usize) -> Tensor<1> {
    let rows = oracle::batch(4, 6, 7 * step + world.rank());
    let x = oracle::tensor::<2>(&rows, DType::F32, &world.device()).reshape([2, 2, 6]);
    unit(model, x, |model: &TransformerEncoder, x| {
        model
            .forward(TransformerEncoderInput::new(x))
            .powi_scalar(2)
            .mean()
    })
}

/// Steps `from..to`, each of two micro-batches; resumed where there is a save, and saved at the end.
fn trained(
    world: &World,
    strategy: &Strategy,
    steps: std::ops::Range<usize>,
    folder: Option<&Path>,
) -> Result<Values> {
    let mut model = strategy.clone().shard(encoder(world), world)?;
    let mut optimizer = world.optimizer(AdamWConfig::new().init(), &model)?;
    if let Some(folder) = folder
        && world.has_save(folder)?
    {
        (model, optimizer, ()) = world.load(folder, model, optimizer)?;
    }
    for step in steps {
        let mut sums = world.accumulate(&model)?.micro_batches(2);
        for _ in 0..2 {
            // The same rows twice: their masks differ.
            sums.add_sum(loss(&model, world, step), 1)?;
        }
        let grads = sums.finish()?.into_params();
        model = optimizer.step(1e-2, model, grads);
    }
    if let Some(folder) = folder {
        world.save(folder, &model, &optimizer, &())?;
    }
    Ok(values(
        &world.full(&model, Destination::All)?.unwrap_or(model),
    ))
}

#[test]
fn runs_repeat_bit_for_bit_also_recomputed_and_resumed() {
    let _alone = alone();
    for size in [1, 2, 3] {
        for strategy in [Strategy::ddp(), Strategy::fsdp()] {
            let run = |strategy: Strategy| {
                let run = |world: World| trained(&world, &strategy, 0..4, None);
                ranks(size).seed(9).run(run).unwrap().remove(0)
            };
            let expected = run(strategy.clone());
            assert_eq!(run(strategy.clone()), expected);
            assert_eq!(run(strategy.clone().recompute(true)), expected);
            let folder = tempfile::tempdir().unwrap();
            let mut found = Values::new();
            for steps in [0..1, 1..3, 3..4] {
                let part =
                    |world: World| trained(&world, &strategy, steps.clone(), Some(folder.path()));
                found = ranks(size).seed(9).run(part).unwrap().remove(0);
            }
            assert_eq!(found, expected, "{strategy} at world {size}, resumed");
        }
    }
}

#[test]
fn ranks_and_passes_drop_different_elements() {
    let _alone = alone();
    let run = |world: World| {
        let model = Strategy::fsdp().shard(encoder(&world), &world)?;
        let x = Tensor::<3>::ones([2, 2, 6], &world.device());
        let mut outputs = Vec::new();
        for _ in 0..2 {
            let x = x.clone();
            let y = unit(&model, x, |model: &TransformerEncoder, x| {
                model.forward(TransformerEncoderInput::new(x))
            });
            outputs.push(y.into_data().iter::<f64>().collect::<Vec<_>>());
        }
        Ok(outputs)
    };
    let outputs = ranks(2).seed(9).run(run).unwrap().concat();
    for (at, one) in outputs.iter().enumerate() {
        assert!(outputs[..at].iter().all(|other| other != one));
    }
}

/// `world.shadow` runs a step twice; the layers drop the same in both, and training goes on undisturbed.
#[test]
fn a_shadow_of_a_model_with_dropout_agrees() {
    let _alone = alone();
    let run = |world: World| {
        let model = Strategy::fsdp().shard(encoder(&world), &world)?;
        let compared = world.shadow(&model, burn_dist::Shadow::within(1e-5), 2, |model, n| {
            (loss(model, &world, n), 1)
        })?;
        assert_eq!(compared.units, 6);
        Ok(())
    };
    ranks(2).seed(9).run(run).unwrap();
    // What a check of the first pass runs on a plain copy is not recorded.
    let checked = |world: World| {
        let strategy = Strategy::fsdp().check_units(true);
        let model = strategy.shard(encoder(&world), &world)?;
        let shadow = burn_dist::Shadow::within(1e-5);
        let compared = world.shadow(&model, shadow, 1, |model, n| (loss(model, &world, n), 1))?;
        assert_eq!(compared.units, 3);
        Ok(())
    };
    ranks(2).seed(9).run(checked).unwrap();
}

#[test]
fn burns_dropout_in_a_recomputed_unit_is_an_error_that_names_ours() {
    let _alone = alone();
    let run = |world: World| {
        let config = burns::transformer::TransformerEncoderConfig::new(6, 9, 2, 2);
        let strategy = Strategy::fsdp().recompute(true);
        let model = strategy.shard(config.init(&world.device()), &world)?;
        let layer = &model.layers[0];
        let x = Tensor::<3>::ones([2, 2, 6], &world.device());
        let y = unit(
            layer,
            x,
            |layer: &burns::transformer::TransformerEncoderLayer, x| layer.forward(x, None, None),
        );
        world.backward(y.mean(), &model).map(|_| ())
    };
    let error = ranks(2).seed(9).run(run).unwrap_err();
    assert!(matches!(error, Error::Model { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("burn_dist::nn::Dropout"), "{text}");
}
