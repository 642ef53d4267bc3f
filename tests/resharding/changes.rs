//! What may change between saving and going on, beside ranks and strategy.

use crate::contents::Contents;
use crate::model::{distance, load, parameters, ranks, save, start, train};
use crate::oracle::{self, Mlp};
use burn::module::Module;
use burn::optim::{AdamWConfig, ModuleOptimizer, SgdConfig};
use burn::tensor::{FloatDType, Tensor};
use burn_dist::data::{Batch, BatchInfo, Loader};
use burn_dist::nn::{Dropout, DropoutConfig};
use burn_dist::training::{Progress, TrainLoop};
use burn_dist::{GradScaler, Precision, Result, Strategy, World, unit};
use std::collections::BTreeSet;
use std::path::Path;

fn saved(folder: &Path, size: usize) {
    let run = ranks(size).run(|world| {
        let run = train(&world, start(&world, &Strategy::fsdp())?, 0..3)?;
        save(&world, folder, &run, 3)
    });
    run.unwrap();
}

#[test]
fn units_and_recomputation_may_change() {
    let folder = tempfile::tempdir().unwrap();
    saved(folder.path(), 2);
    let contents = Contents::of(folder.path());
    let straight = ranks(1).run(|world| {
        let run = train(&world, start(&world, &Strategy::single())?, 0..5)?;
        parameters(&world, &run.0)
    });
    let straight = straight.unwrap().remove(0);
    let fsdp = Strategy::fsdp;
    for strategy in [
        fsdp().units(["mlp"]),
        fsdp().units(Vec::<String>::new()),
        fsdp().recompute(true),
        Strategy::zero2().recompute(true),
    ] {
        for size in [1, 3] {
            let again = tempfile::tempdir().unwrap();
            let name = format!("{strategy} on {size}");
            let run = ranks(size).run(|world| {
                let (run, step) = load(&world, folder.path(), start(&world, &strategy)?)?;
                save(&world, again.path(), &run, step)?;
                parameters(&world, &train(&world, run, step..5)?.0)
            });
            let found = run.unwrap_or_else(|error| panic!("{name}: {error}"));
            Contents::of(again.path()).expect(&contents, &name);
            let off = distance(&found[0], &straight);
            assert!(off < 1e-9, "{name}: off by {off:e}");
        }
    }
}

/// A layer that drops, before two that do not.
#[derive(Module, Debug)]
struct Dropping {
    dropout: Dropout,
    mlp: Mlp,
}

impl Dropping {
    fn start(world: &World) -> Result<(Self, ModuleOptimizer)> {
        let model = Self::sharded(world, &Strategy::fsdp(), 0.4, FloatDType::F64)?;
        let optimizer = world.optimizer(AdamWConfig::new().init(), &model)?;
        Ok((model, optimizer))
    }

    /// Without states, which Burn would load as f64 here.
    fn start_mixed(world: &World, precision: &Precision) -> Result<(Self, ModuleOptimizer)> {
        let strategy = Strategy::fsdp().precision(*precision);
        let model = Self::sharded(world, &strategy, 0.0, FloatDType::F32)?;
        let optimizer = world.optimizer(SgdConfig::new().init(), &model)?;
        Ok((model, optimizer))
    }

    fn sharded(world: &World, strategy: &Strategy, rate: f64, dtype: FloatDType) -> Result<Self> {
        let model = Self {
            dropout: DropoutConfig::new(rate).init(),
            mlp: Mlp::new(2, &world.device()),
        };
        let model = oracle::cast(oracle::undrawn(model), dtype);
        strategy.clone().shard(model, world)
    }

    fn train(
        world: &World,
        run: (Self, ModuleOptimizer),
        steps: std::ops::Range<usize>,
    ) -> Result<(Self, ModuleOptimizer)> {
        Self::train_scaled(world, run, &mut GradScaler::disabled(), steps)
    }

    fn train_scaled(
        world: &World,
        (mut model, mut optimizer): (Self, ModuleOptimizer),
        scaler: &mut GradScaler,
        steps: std::ops::Range<usize>,
    ) -> Result<(Self, ModuleOptimizer)> {
        for step in steps {
            let mine = oracle::rows(&oracle::batch(24, 7, step), world.rank(), world.size());
            let dtype = model.mlp.scale.base().dtype();
            let x: Tensor<2> = oracle::tensor(&mine, dtype, &world.device());
            let loss = unit(&model, x, |model: &Self, x| {
                model.mlp.forward(model.dropout.forward(x))
            });
            let loss = scaler.scale(loss.powi_scalar(2).mean());
            if let Some(grads) = scaler.unscale(world.backward(loss, &model)?)? {
                model = optimizer.step(1e-2, model, grads.into_params());
            }
        }
        Ok((model, optimizer))
    }
}

#[test]
fn dropout_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let run = ranks(2).run(|world| {
        let (model, optimizer) = Dropping::train(&world, Dropping::start(&world)?, 0..3)?;
        world.save(folder.path(), &model, &optimizer, &3usize)
    });
    run.unwrap();
    for size in [1, 2, 3] {
        let values = |between: Option<usize>| {
            let again = tempfile::tempdir().unwrap();
            let mut from = folder.path();
            if let Some(until) = between {
                let run = ranks(size).run(|world| {
                    let (model, optimizer) = Dropping::start(&world)?;
                    let (model, optimizer, step) = world.load(from, model, optimizer)?;
                    let run = Dropping::train(&world, (model, optimizer), step..until)?;
                    world.save(again.path(), &run.0, &run.1, &until)
                });
                run.unwrap();
                from = again.path();
            }
            let run = ranks(size).run(|world| {
                let (model, optimizer) = Dropping::start(&world)?;
                let (model, optimizer, step) = world.load(from, model, optimizer)?;
                let run = Dropping::train(&world, (model, optimizer), step..6)?;
                let full = world.full(&run.0, burn_dist::Destination::All)?;
                Ok(oracle::values(&full.unwrap()))
            });
            run.unwrap().remove(0)
        };
        let expected = values(None);
        assert_eq!(values(Some(4)), expected, "{size} ranks");
        assert_eq!(values(Some(6)), expected, "{size} ranks");
    }
}

/// A rank's part of an epoch of 50 samples: those that it sees of so many steps, and how far all are then.
fn seen(
    size: usize,
    batch: usize,
    steps: usize,
    saved: Option<&Progress>,
) -> (Vec<usize>, Progress) {
    let run = ranks(size).run(|world| {
        let samples: Vec<usize> = (0..50).collect();
        // Without the padding of a rank that has no sample.
        let collate = |items: Vec<usize>, info: &BatchInfo| items[..info.count].to_vec();
        let data = Loader::new(&world, samples, Batch::per_rank(batch), collate)?.shuffled(3);
        let mut course = TrainLoop::new(&data);
        if let Some(saved) = saved {
            course.resume(saved)?;
        }
        let (mut found, mut done) = (Vec::new(), 0);
        if let Some(mut batches) = course.epoch(&data)? {
            while done < steps {
                let Some(step) = course.step(&mut batches)? else {
                    break;
                };
                found.extend(step.concat());
                course.advance();
                done += 1;
            }
        }
        Ok((world.gather(&found)?.concat(), course.progress()))
    });
    run.unwrap().remove(0)
}

#[test]
fn each_sample_of_the_interrupted_epoch_comes_once() {
    for (before, after) in [
        ((3, 4), (2, 4)),
        ((2, 5), (3, 4)),
        ((4, 2), (1, 7)),
        ((1, 3), (8, 2)),
    ] {
        let (mut samples, progress) = seen(before.0, before.1, 3, None);
        let (rest, end) = seen(after.0, after.1, 100, Some(&progress));
        assert!(!rest.is_empty() && samples.len() + rest.len() == 50);
        samples.extend(rest);
        let distinct: BTreeSet<usize> = samples.into_iter().collect();
        assert_eq!(distinct.len(), 50, "{before:?} to {after:?}");
        let text = serde_json::to_string(&end).unwrap();
        assert!(text.contains("\"epochs\":1"), "{text}");
    }
}

#[test]
fn precision_may_change_and_a_scaler_goes_on_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let run = ranks(2).run(|world| {
        let mut scaler = GradScaler::new().starting_at(1e12).growing_every(2);
        let run = Dropping::start_mixed(&world, &Precision::f16())?;
        let run = Dropping::train_scaled(&world, run, &mut scaler, 0..6)?;
        world.save(folder.path(), &run.0, &run.1, &scaler)?;
        Ok(scaler)
    });
    let saved = run.unwrap().remove(0);
    assert!(saved.skipped() > 0, "{saved:?}");
    let contents = Contents::of(folder.path());
    for precision in [Precision::f16(), Precision::bf16(), Precision::full()] {
        for size in [1, 3] {
            let again = tempfile::tempdir().unwrap();
            let run = ranks(size).run(|world| {
                let (model, optimizer) = Dropping::start_mixed(&world, &precision)?;
                let (model, optimizer, mut scaler): (_, _, GradScaler) =
                    world.load(folder.path(), model, optimizer)?;
                assert_eq!(scaler, saved);
                world.save(again.path(), &model, &optimizer, &scaler)?;
                Dropping::train_scaled(&world, (model, optimizer), &mut scaler, 6..8).map(drop)
            });
            run.unwrap();
            let name = format!("{precision} on {size}");
            Contents::of(again.path()).expect(&contents, &name);
        }
    }
}
