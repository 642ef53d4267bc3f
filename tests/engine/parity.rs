//! Every strategy, at every world size, against one device with the whole batch.

use crate::oracle;
use crate::oracle::{Mlp, Trace};
use burn::optim::{AdamWConfig, ModuleOptimizer, SgdConfig};
use burn::tensor::{DType, Device, FloatDType, Tensor};
use burn_dist::launch::Threads;
use burn_dist::{Strategy, World};

const ROWS: usize = 24;
const STEPS: usize = 10;

fn loss(model: &Mlp, x: Tensor<2>) -> Tensor<1> {
    model.forward(x).powi_scalar(2).mean()
}

fn adamw() -> ModuleOptimizer {
    AdamWConfig::new().with_weight_decay(0.01).init()
}

fn reference(model: &Mlp, dtype: DType, optimizer: ModuleOptimizer) -> Trace {
    let device = Device::flex().autodiff();
    oracle::plain(model.clone(), optimizer, STEPS, 1e-2, |model, step| {
        loss(
            model,
            oracle::tensor(&oracle::batch(ROWS, 7, step), dtype, &device),
        )
    })
}

fn run(
    world: &World,
    strategy: Strategy,
    model: Mlp,
    dtype: DType,
    optimizer: ModuleOptimizer,
) -> burn_dist::Result<Trace> {
    let model = strategy.shard(model, world)?;
    oracle::sharded(world, model, optimizer, STEPS, 1e-2, |model, step| {
        let mine = oracle::rows(&oracle::batch(ROWS, 7, step), world.rank(), world.size());
        let loss = loss(model, oracle::tensor(&mine, dtype, &world.device()));
        Ok((oracle::scalar(&loss), world.backward(loss, model)?))
    })
}

fn check(float: FloatDType, gradients: f64, parameters: f64) {
    let dtype: DType = float.into();
    let device = Device::flex().autodiff();
    let model = oracle::cast(oracle::undrawn(Mlp::new(3, &device)), float);
    for (name, optimizer) in [("adamw", adamw()), ("sgd", SgdConfig::new().init())] {
        let expected = reference(&model, dtype, optimizer.clone());
        for size in 1..=4 {
            let aligned = Strategy::fsdp().block_aligned(64);
            for strategy in oracle::strategies(size).into_iter().chain([aligned]) {
                let what = format!("{strategy} at world {size} with {name}");
                let traces = Threads::new(size)
                    .run(|world| {
                        // A clone shares its leaves with those of the other ranks until it is cut.
                        run(
                            &world,
                            strategy.clone(),
                            model.clone(),
                            dtype,
                            optimizer.clone(),
                        )
                    })
                    .unwrap_or_else(|e| panic!("{what}: {e}"));
                let mean =
                    |step: usize| traces.iter().map(|t| t.losses[step]).sum::<f64>() / size as f64;
                for step in 0..STEPS {
                    let (found, wanted) = (mean(step), expected.losses[step]);
                    assert!(
                        (found - wanted).abs() <= gradients * wanted.abs(),
                        "{what}: loss {found} for {wanted}"
                    );
                }
                for trace in &traces {
                    for (step, wanted) in expected.gradients.iter().enumerate() {
                        let what = format!("{what}, gradients of step {step}");
                        oracle::close(&what, &trace.gradients[step], wanted, gradients);
                    }
                    oracle::close(&what, &trace.parameters, &expected.parameters, parameters);
                }
            }
        }
    }
}

#[test]
fn f64_agrees_to_nine_digits() {
    check(FloatDType::F64, 1e-9, 1e-9);
}

#[test]
fn f32_agrees_to_its_rounding() {
    check(FloatDType::F32, 1e-5, 1e-5);
}
