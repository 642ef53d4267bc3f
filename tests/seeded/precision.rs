//! Mixed precision: the types of computation, communication and storage, and the deviation from f32.

use crate::alone;
use crate::oracle;
use crate::oracle::{Mlp, ranks, values};
use burn::module::Module;
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig};
use burn::optim::AdamWConfig;
use burn::tensor::{DType, Device, FloatDType, Int, Tensor};
use burn_dist::comm::Op;
use burn_dist::nn::loss::cross_entropy_sum;
use burn_dist::{Destination, Error, GradScaler, Precision, Result, Strategy, World, unit};
use burn_dist_models::{Vit, VitConfig};

const STEPS: usize = 12;
/// Divides by 1, 2 and 3.
const BATCH: usize = 12;

fn vit(world: &World) -> Vit {
    let config = VitConfig::tiny(10).with_blocks(2);
    config.init(&world.device()).unwrap()
}

/// A step's images: their class is written in their brightness.
fn batch(world: &World, step: usize) -> (Tensor<4>, Tensor<1, Int>) {
    let each = BATCH / world.size();
    let at = |i: usize| (world.rank() * each + i + step * BATCH) as i64;
    let labels: Vec<i64> = (0..each).map(|i| at(i) * 7 % 10).collect();
    let pixels = oracle::batch(each, 3 * 32 * 32, step * 8 + world.rank());
    let pixels: Tensor<2> = oracle::tensor(&pixels, DType::F32, &world.device());
    let bright: Vec<f32> = labels.iter().map(|l| *l as f32 / 5.0 - 1.0).collect();
    let bright = Tensor::<1>::from_data(bright.as_slice(), &world.device());
    let images = (pixels * 0.3 + bright.unsqueeze_dim(1)).reshape([each, 3, 32, 32]);
    (
        images,
        Tensor::from_data(labels.as_slice(), &world.device()),
    )
}

/// Trains, and returns the mean loss of each step and the number of skipped ones.
fn train(world: &World, strategy: Strategy) -> Result<(Vec<f64>, u64)> {
    let is_f16 = strategy == strategy.clone().precision(Precision::f16());
    let mut scaler = if is_f16 {
        // The usual start overflows a few times first, and this run is short.
        GradScaler::new().starting_at(1024.0)
    } else {
        GradScaler::disabled()
    };
    let mut model = strategy.shard(vit(world), world)?;
    let adamw = AdamWConfig::new().with_epsilon(1e-8);
    let mut optimizer = world.optimizer(adamw.init(), &model)?;
    let mut losses = Vec::new();
    for step in 0..STEPS {
        let (images, labels) = batch(world, step);
        let logits = world.run(|| model.forward(images))?;
        assert_eq!(logits.dtype(), DType::F32);
        let loss = cross_entropy_sum(logits, labels, None);
        losses.push(oracle::scalar(&loss) / BATCH as f64);
        let count = BATCH / world.size();
        let grads = world.backward_sum(scaler.scale(loss), count, &model)?;
        if let Some(grads) = scaler.unscale(grads)? {
            model = optimizer.step(2e-3, model, grads.clip_norm(1.0)?.grads);
        }
    }
    Ok((losses, scaler.skipped()))
}

/// The losses of all ranks together, step by step.
fn losses(strategy: &Strategy, size: usize) -> (Vec<f64>, u64) {
    let run = |world: World| train(&world, strategy.clone());
    let runs = ranks(size).seed(1).run(run).unwrap();
    let skipped = runs[0].1;
    assert!(
        runs.iter().all(|run| run.1 == skipped),
        "all ranks skip alike"
    );
    let sum = |step: usize| runs.iter().map(|run| run.0[step]).sum();
    ((0..STEPS).map(sum).collect(), skipped)
}

/// How far a run may be from the f32 run at any step, as a share of the first loss.
fn check(precision: Precision, bound: f64) {
    for size in 1..=3 {
        let (reference, _) = losses(&Strategy::ddp(), size);
        assert!(reference[STEPS - 1] < 0.9 * reference[0], "{reference:?}");
        let mut first: Option<(Vec<f64>, u64)> = None;
        for strategy in oracle::strategies(size) {
            let found = losses(&strategy.clone().precision(precision), size);
            let far = |(a, b): (&f64, &f64)| (a - b).abs() / reference[0];
            let worst = found.0.iter().zip(&reference).map(far).fold(0.0, f64::max);
            println!(
                "{strategy} at world {size} in {precision}: {worst:.2e}, {} skipped",
                found.1
            );
            assert!(
                worst > 0.0,
                "{strategy} at world {size}: nothing was rounded"
            );
            assert!(worst <= bound, "{strategy} at world {size}: {worst}");
            // One policy, one result: the strategies differ in what is stored where.
            let first = first.get_or_insert(found.clone());
            for (step, (a, b)) in first.0.iter().zip(&found.0).enumerate() {
                assert!(
                    (a - b).abs() <= 1e-6 * a,
                    "{strategy} at world {size}, step {step}"
                );
            }
            assert_eq!(first.1, found.1);
        }
    }
}

#[test]
fn bf16_tracks_f32_under_every_strategy() {
    let _alone = alone();
    check(Precision::bf16(), 2e-2);
}

#[test]
fn f16_with_a_scaler_tracks_f32_under_every_strategy() {
    let _alone = alone();
    check(Precision::f16(), 5e-3);
}

#[test]
fn recomputation_is_exact_in_half_precision() {
    let _alone = alone();
    let strategy = Strategy::fsdp().precision(Precision::bf16());
    let kept = losses(&strategy, 2);
    assert_eq!(kept, losses(&strategy.recompute(true), 2));
}

fn mlp(world: &World) -> Mlp {
    Mlp::new(4, &world.device())
}

fn mlp_loss(world: &World, model: &Mlp) -> Tensor<1> {
    let x = oracle::batch(4, 7, world.rank());
    let x = oracle::tensor(&x, DType::F32, &world.device());
    model.forward(x).powi_scalar(2).mean()
}

#[test]
fn gathers_and_reductions_send_bytes_of_their_types() {
    let _alone = alone();
    for strategy in oracle::strategies(4) {
        let sent = |precision: Precision| {
            // A check of units would be counted.
            let strategy = strategy.clone().precision(precision).check_units(false);
            let step = |world: World| {
                let model = strategy.clone().shard(mlp(&world), &world)?;
                world.ledger().reset();
                let _ = world.backward(mlp_loss(&world, &model), &model)?;
                let bytes = |op| world.ledger().total(op).bytes as usize;
                let sent = [Op::AllGather, Op::ReduceScatter, Op::AllReduce].map(bytes);
                // And the plan foretells it.
                let plan = strategy.plan(&mlp(&world), world.size())?;
                let planned = [Op::AllGather, Op::ReduceScatter, Op::AllReduce].map(|op| {
                    let traffic = plan.traffic(1);
                    traffic.iter().find(|t| t.op == op).map_or(0, |t| t.bytes)
                });
                assert_eq!(sent, planned, "{strategy} in {precision}");
                Ok(sent)
            };
            ranks(4).run(step).unwrap()[0]
        };
        let full = sent(Precision::full());
        let half = |all: [usize; 3]| all.map(|bytes| bytes / 2);
        let mixed = sent(Precision::bf16());
        assert_eq!(mixed, [full[0] / 2, full[1], full[2]], "{strategy}");
        let narrow = sent(Precision::bf16().reduce(FloatDType::BF16));
        assert_eq!(narrow, half(full), "{strategy}");
    }
}

#[test]
fn shards_are_stored_in_f32_for_every_model_type() {
    let _alone = alone();
    let half = oracle::cast(Mlp::new(4, &Device::flex().autodiff()), FloatDType::BF16);
    let given = values(&half);
    let run = |world: World| {
        let half = half.clone();
        let strategy = Strategy::fsdp().precision(Precision::bf16());
        let model = strategy.shard(half, &world)?;
        assert_eq!(model.first.weight.base().dtype(), DType::F32);
        let full = world.full(&model, Destination::All)?.unwrap();
        assert_eq!(full.first.weight.val().dtype(), DType::F32);
        assert_eq!(values(&full), given);
        // So an update too small for bf16 is not lost.
        let grads = world
            .backward(mlp_loss(&world, &model), &model)?
            .into_params();
        let mut sgd = burn::optim::SgdConfig::new().init();
        let stepped = sgd.step(1e-6, model, grads);
        let stepped = values(&world.full(&stepped, Destination::All)?.unwrap());
        Ok(stepped["first.weight"] != given["first.weight"])
    };
    assert_eq!(ranks(2).run(run).unwrap(), [true, true]);
}

/// Reads its parameters outside of any `unit` call.
#[test]
fn a_model_without_units_trains_in_the_stored_type() {
    let _alone = alone();
    let run = |world: World| {
        let linear = LinearConfig::new(5, 3).init(&world.device());
        let strategy = Strategy::fsdp().precision(Precision::bf16());
        let model = strategy.shard(linear, &world)?;
        let y = world.run(|| model.forward(Tensor::<2>::ones([2, 5], &world.device())))?;
        assert_eq!(y.dtype(), DType::F32);
        let inside = unit(
            &model,
            Tensor::<2>::ones([2, 5], &world.device()),
            |m, x| {
                let y = m.forward(x);
                assert_eq!(y.dtype(), DType::BF16);
                y
            },
        );
        assert_eq!(inside.dtype(), DType::F32);
        let _ = world.backward(y.mean(), &model)?;
        Ok(())
    };
    ranks(2).run(run).unwrap();
}

#[test]
fn an_overflow_on_one_rank_skips_the_step_everywhere() {
    let _alone = alone();
    for strategy in oracle::strategies(4) {
        let strategy = strategy.precision(Precision::f16());
        let run = |world: World| {
            let mut model = strategy.clone().shard(mlp(&world), &world)?;
            let adamw = AdamWConfig::new().init();
            let mut optimizer = world.optimizer(adamw, &model)?;
            let mut scaler = GradScaler::new().starting_at(1024.0).growing_every(2);
            let mut trace = Vec::new();
            for step in 0..5 {
                let before = values(&world.full(&model, Destination::All)?.unwrap());
                let loss = mlp_loss(&world, &model);
                // Only rank 2's loss, only at step 1, is far too large for f16.
                let bad = step == 1 && world.rank() == 2;
                let loss = if bad { loss * 1e6 } else { loss };
                let grads = world.backward(scaler.scale(loss), &model)?;
                if let Some(grads) = scaler.unscale(grads)? {
                    let clipped = grads.clip_norm(1.0)?;
                    assert!(clipped.norm > 0.0 && clipped.norm.is_finite());
                    model = optimizer.step(1e-2, model, clipped.grads);
                }
                let after = values(&world.full(&model, Destination::All)?.unwrap());
                trace.push((before == after, scaler.current_scale()));
            }
            // The state is what a save keeps.
            let text = serde_json::to_string(&scaler).unwrap();
            let read: GradScaler = serde_json::from_str(&text).unwrap();
            assert_eq!(read, scaler);
            Ok((trace, scaler.skipped()))
        };
        let runs = ranks(4).run(run).unwrap();
        let expected = [
            (false, 1024.0),
            (true, 512.0),
            (false, 512.0),
            (false, 1024.0),
            (false, 1024.0),
        ];
        for (trace, skipped) in runs {
            assert_eq!(trace, expected, "{strategy}");
            assert_eq!(skipped, 1);
        }
    }
}

#[test]
fn ranks_with_different_precision_are_refused() {
    let _alone = alone();
    let run = |world: World| {
        let precision = match world.rank() {
            1 => Precision::bf16(),
            _ => Precision::full(),
        };
        Strategy::fsdp()
            .precision(precision)
            .shard(mlp(&world), &world)
    };
    let text = ranks(2).run(run).unwrap_err().to_string();
    assert!(text.contains("strategy fsdp in bf16"), "{text}");
}

#[derive(Module, Debug)]
struct Normed {
    linear: Linear,
    norm: BatchNorm,
}

#[test]
fn running_state_is_refused_by_name() {
    let _alone = alone();
    let device = Device::flex();
    let model = Normed {
        linear: LinearConfig::new(4, 4).init(&device),
        norm: BatchNormConfig::new(4).init(&device),
    };
    let error = Strategy::fsdp()
        .precision(Precision::bf16())
        .plan(&model, 2);
    let Err(Error::Model { path, problem, .. }) = error else {
        panic!("{error:?}");
    };
    assert!(path.starts_with("norm.running"), "{path}");
    assert!(problem.contains("running state"), "{problem}");
}

#[test]
fn a_type_without_collectives_is_refused() {
    let _alone = alone();
    let run = |world: World| {
        let precision = Precision::bf16().reduce(FloatDType::F64);
        Strategy::fsdp()
            .precision(precision)
            .shard(mlp(&world), &world)
    };
    let text = ranks(1).run(run).unwrap_err().to_string();
    assert!(
        text.contains("reduce_dtype: expected f32, bf16 or f16, found f64"),
        "{text}"
    );
}
