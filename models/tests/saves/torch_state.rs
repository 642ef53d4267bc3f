//! Training goes on from PyTorch's state with PyTorch's losses, on one device and sharded.

use crate::fixture::{Fixture, Tiny, TinyBert, TinyVit, device, optimizer};
use crate::tool::tool;
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn_dist::launch::Threads;
use burn_dist::{Result, Strategy, World};
use burn_dist_models::saves::{AdamWSettings, TorchState};
use std::path::Path;

/// Of a loss; seen are 4e-16.
const TOLERANCE: f64 = 1e-9;

fn differ(found: &[f64], wanted: &[f64]) -> f64 {
    assert_eq!(found.len(), wanted.len());
    let pairs = found.iter().zip(wanted);
    pairs.map(|(a, b)| (a - b).abs() / b).fold(0.0, f64::max)
}

/// The losses of training on one device.
fn alone<T: Tiny>(fixture: &Fixture, run: (T::Model, ModuleOptimizer)) -> Vec<f64> {
    let (mut model, mut optimizer) = run;
    let batches = fixture.batches((0, 1), &device().autodiff());
    let step = |batch: &crate::fixture::Batch<'_>| {
        let loss = batch.loss::<T>(&model);
        let value = loss.clone().into_scalar::<f64>();
        let grads = GradientsParams::from_grads(loss.backward(), &model);
        model = optimizer.step(fixture.lr(), model.clone(), grads);
        value
    };
    batches.iter().map(step).collect()
}

fn goes_on_alone<T: Tiny>() {
    let fixture = Fixture::of::<T>();
    let state = TorchState::open(&fixture.file).unwrap();
    assert_eq!(state.settings().betas, [0.9, 0.98]);
    let model = || fixture.init::<T>(&device().autodiff());
    let run = state.load(model(), T::hf_name).unwrap();
    let (found, wanted) = (alone::<T>(&fixture, run), fixture.losses());
    let off = differ(&found, &wanted);
    println!("{}: off by {off:.1e}", T::NAME);
    assert!(off < TOLERANCE, "off by {off:e}: {found:?}, {wanted:?}");

    // Each part of the state matters: without moments, or with other settings, losses part.
    let (model_alone, _) = state.load(model(), T::hf_name).unwrap();
    let fresh = optimizer::<T>(state.settings());
    let without = differ(&alone::<T>(&fixture, (model_alone, fresh)), &wanted);
    let other = AdamWSettings {
        betas: [0.9, 0.999],
        ..state.settings().clone()
    };
    let other = state.with_settings(other).load(model(), T::hf_name);
    let other = differ(&alone::<T>(&fixture, other.unwrap()), &wanted);
    assert!(without > 1e-4 && other > 1e-4, "{without} {other}");
}

#[test]
fn a_vit_goes_on_as_in_pytorch() {
    goes_on_alone::<TinyVit>();
}

#[test]
fn a_bert_goes_on_as_in_pytorch() {
    goes_on_alone::<TinyBert>();
}

/// The losses of a rank, of the whole batch.
fn sharded<T: Tiny>(
    world: &World,
    fixture: &Fixture,
    folder: &Path,
    strategy: Strategy,
) -> Result<Vec<f64>> {
    let settings = TorchState::open(&fixture.file)?.settings().clone();
    let model = strategy.shard(fixture.init::<T>(&world.device()), world)?;
    let optimizer = world.optimizer(optimizer::<T>(&settings), &model)?;
    let (mut model, mut optimizer, ()) = world.load(folder, model, optimizer)?;
    let mut losses = Vec::new();
    for batch in fixture.batches((world.rank(), world.size()), &world.device()) {
        let loss = batch.loss::<T>(&model);
        let [sum] = world.sum([loss.clone().into_scalar::<f64>()])?;
        losses.push(sum / world.size() as f64);
        let grads = world.backward(loss, &model)?;
        model = optimizer.step(fixture.lr(), model, grads.into_params());
    }
    Ok(losses)
}

fn goes_on_sharded<T: Tiny>() {
    let fixture = Fixture::of::<T>();
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    tool(
        &["import", fixture.file.to_str().unwrap(), "--into"],
        &[&run],
    )
    .succeeds();
    for (size, strategy) in [
        (1, Strategy::single()),
        (2, Strategy::fsdp()),
        (4, Strategy::zero1()),
    ] {
        // Each loads the same save, and none saves.
        let ranks = Threads::new(size)
            .run(|world| sharded::<T>(&world, &fixture, &run, strategy.clone()))
            .unwrap();
        for found in ranks {
            let off = differ(&found, &fixture.losses());
            assert!(off < TOLERANCE, "{size} ranks: off by {off:e}");
        }
    }
}

#[test]
fn a_vit_goes_on_sharded() {
    goes_on_sharded::<TinyVit>();
}

#[test]
fn a_bert_goes_on_sharded() {
    goes_on_sharded::<TinyBert>();
}
