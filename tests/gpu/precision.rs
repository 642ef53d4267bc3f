//! Half precision on the GPU.

use crate::oracle::{self, Mlp};
use crate::place::{cpu, gpu, ranks};
use burn::module::Module;
use burn::optim::AdamWConfig;
use burn::tensor::{DType, FloatDType, Tensor};
use burn_dist::launch::DeviceKind;
use burn_dist::{Precision, Strategy};

/// The losses of some steps.
fn losses(
    whole: &Mlp,
    kind: DeviceKind,
    size: usize,
    precision: Precision,
    recompute: bool,
) -> Vec<f64> {
    let run = ranks(size, kind).run(|world| {
        let strategy = Strategy::fsdp().precision(precision).recompute(recompute);
        let mut model = strategy.shard(whole.clone().fork(&world.device()), &world)?;
        let adamw = AdamWConfig::new().with_epsilon(1e-3).init();
        let mut optimizer = world.optimizer(adamw, &model)?;
        let mut losses = Vec::new();
        for step in 0..4 {
            let mine = oracle::rows(&oracle::batch(12, 7, step), world.rank(), size);
            let x: Tensor<2> = oracle::tensor(&mine, DType::F32, &world.device());
            let loss =
                world.run(|| model.forward(x).cast(FloatDType::F32).powi_scalar(2).mean())?;
            losses.push(oracle::scalar(&loss));
            let grads = world.backward(loss, &model)?;
            model = optimizer.step(1e-2, model, grads.clip_norm(1.0)?.grads);
        }
        Ok(losses)
    });
    let run = run.unwrap_or_else(|e| panic!("{precision} on {kind}: {e}"));
    let mean = |step: usize| run.iter().map(|rank| rank[step]).sum::<f64>() / size as f64;
    (0..4).map(mean).collect()
}

fn check(precision: Precision, dtype: DType, within: f64) {
    let Some((kind, _alone)) = gpu() else { return };
    if !kind.device(0).unwrap().supports_dtype(dtype) {
        return eprintln!("skipped: this GPU does not compute in {}", dtype.name());
    }
    let whole = oracle::undrawn(Mlp::new(2, &cpu()));
    for size in 1..=2 {
        for recompute in [false, true] {
            let expected = losses(&whole, DeviceKind::Cpu, size, precision, false);
            let found = losses(&whole, kind, size, precision, recompute);
            for (found, expected) in found.iter().zip(&expected) {
                let off = (found - expected).abs() / expected.abs();
                assert!(
                    off < within,
                    "{precision} at world {size}: {found} for {expected}"
                );
            }
        }
    }
}

#[test]
fn bf16_follows_the_cpu() {
    check(Precision::bf16(), DType::BF16, 2e-2);
}

#[test]
fn f16_follows_the_cpu() {
    check(Precision::f16(), DType::F16, 5e-3);
}
