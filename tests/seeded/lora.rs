//! Low-rank adapters on shards, against Burn's own on one device.

use crate::alone;
use crate::oracle::{self, Mlp, Trace, Values};
use burn::module::Module;
use burn::optim::{AdamWConfig, ModuleOptimizer};
use burn::tensor::{DType, Device, FloatDType, Tensor};
use burn_dist::comm::Op;
use burn_dist::launch::Threads;
use burn_dist::{Destination, LoraConfig, Shadow, Strategy, World};
use burn_dist_models::BertConfig;

pub(crate) const ROWS: usize = 24;
pub(crate) const STEPS: usize = 6;

pub(crate) fn adamw() -> ModuleOptimizer {
    AdamWConfig::new().with_weight_decay(0.01).init()
}

pub(crate) fn loss(model: &Mlp, x: Tensor<2>) -> Tensor<1> {
    model.forward(x).powi_scalar(2).mean()
}

/// Matrices of 7x15, 15x15 and 15x3, in f64, with numbers that no generator draws.
pub(crate) fn model() -> Mlp {
    let device = Device::flex().autodiff();
    oracle::cast(oracle::undrawn(Mlp::new(3, &device)), FloatDType::F64)
}

pub(crate) fn all_linear() -> LoraConfig {
    LoraConfig::new(2, 5.0)
}

pub(crate) fn blocks_and_head() -> LoraConfig {
    let lora = LoraConfig::new(3, 3.0).targets(["blocks.*"]);
    lora.modules_to_save(["last", "scale"])
}

/// A run over shards, and the model that it began with, gathered.
pub(crate) fn run(
    world: &World,
    strategy: Strategy,
    model: Mlp,
) -> burn_dist::Result<(Mlp, Trace)> {
    let model = strategy.shard(model, world)?;
    let begun = world.full_with_adapters(&model, Destination::All)?.unwrap();
    let trace = oracle::sharded(world, model, adamw(), STEPS, 1e-2, |model, step| {
        let mine = oracle::rows(&oracle::batch(ROWS, 7, step), world.rank(), world.size());
        let loss = loss(model, oracle::tensor(&mine, DType::F64, &world.device()));
        Ok((oracle::scalar(&loss), world.backward(loss, model)?))
    })?;
    Ok((begun, trace))
}

#[test]
fn f64_agrees_with_plain_burn_to_nine_digits() {
    let _alone = alone();
    for lora in [all_linear(), blocks_and_head()] {
        for size in 1..=4 {
            for strategy in oracle::strategies(size) {
                for recompute in [false, true] {
                    let strategy = strategy.clone().recompute(recompute).lora(lora.clone());
                    check(size, strategy);
                }
            }
        }
    }
}

fn check(size: usize, strategy: Strategy) {
    let what = format!("{strategy} at world {size}");
    let (model, used) = (model(), strategy.clone());
    let ran = Threads::new(size)
        .run(move |world| run(&world, used.clone(), model.clone()))
        .unwrap_or_else(|e| panic!("{what}: {e}"));
    let device = Device::flex().autodiff();
    let expected = oracle::plain(ran[0].0.clone(), adamw(), STEPS, 1e-2, |model, step| {
        let batch = oracle::batch(ROWS, 7, step);
        loss(model, oracle::tensor(&batch, DType::F64, &device))
    });
    for (begun, trace) in &ran {
        assert_eq!(oracle::values(begun), oracle::values(&ran[0].0), "{what}");
        for (step, wanted) in expected.gradients.iter().enumerate() {
            let what = format!("{what}, gradients of step {step}");
            oracle::close(&what, &trace.gradients[step], wanted, 1e-9);
        }
        oracle::close(&what, &trace.parameters, &expected.parameters, 1e-9);
    }
    // Otherwise nothing was compared.
    let learned = |path: &str| largest(&expected.parameters, path) > 1e-3;
    assert!(learned("blocks.0.weight.lora.b"), "{what}");
    let frozen = "first.weight";
    let before = oracle::values(&ran[0].0);
    assert_eq!(before[frozen], expected.parameters[frozen], "{what}");
}

fn largest(values: &Values, path: &str) -> f64 {
    values[path].iter().fold(0.0, |most, x| most.max(x.abs()))
}

#[test]
fn only_adapters_are_reduced_and_have_gradients_and_states() {
    let _alone = alone();
    for strategy in [
        Strategy::zero1(),
        Strategy::zero2(),
        Strategy::fsdp(),
        Strategy::ddp(),
        Strategy::hybrid(2),
    ] {
        let strategy = strategy.lora(all_linear());
        let what = strategy.to_string();
        let plan = strategy.plan(&model(), 4).unwrap();
        let adapters: usize = [(7, 15), (15, 15), (15, 15), (15, 15), (15, 3)]
            .map(|(i, o)| 2 * (i + o))
            .iter()
            .sum();
        let trained = plan.units().iter().filter(|u| u.trainable);
        let elements: usize = trained.clone().map(|u| u.elements()).sum();
        assert_eq!(elements, adapters, "{what}");
        let share: usize = trained.map(|u| u.bytes() / u.ranks).sum();
        assert_eq!(plan.memory().optimizer, 2 * share, "{what}");
        let is_reduction = |op: &Op| matches!(op, Op::ReduceScatter | Op::AllReduce);
        let planned = plan.traffic(1);
        let entries = Threads::new(4)
            .run(move |world| {
                let used = strategy.clone().check_units(false);
                let model = used.shard(model(), &world)?;
                world.ledger().reset();
                let mine = oracle::rows(&oracle::batch(ROWS, 7, 0), world.rank(), 4);
                let loss = loss(&model, oracle::tensor(&mine, DType::F64, &world.device()));
                world.backward(loss, &model)?;
                Ok(world.ledger().entries())
            })
            .unwrap();
        for (op, unit, _) in entries[0].iter().filter(|(op, ..)| is_reduction(op)) {
            assert!(unit.contains("trainable"), "{what}: {op:?} of {unit}");
        }
        for row in planned {
            let of_kind = entries[0].iter().filter(|(op, ..)| *op == row.op);
            let (calls, bytes) = of_kind.fold((0, 0), |(calls, bytes), (.., entry)| {
                (calls + entry.calls, bytes + entry.bytes)
            });
            assert_eq!(
                (calls, bytes),
                (row.calls as u64, row.bytes as u64),
                "{what}: {row:?}"
            );
        }
    }
}

/// Of BERT-base nothing is drawn for a plan.
#[test]
fn bert_base_keeps_states_of_its_adapters_alone() {
    let _alone = alone();
    let model = BertConfig::base();
    let model = model.init_classifier(4, &Device::flex()).unwrap();
    let lora = LoraConfig::new(8, 16.0).modules_to_save(["head"]);
    for strategy in [Strategy::zero1(), Strategy::zero2(), Strategy::fsdp()] {
        for ranks in [1, 2, 3, 4, 8] {
            let full = strategy.plan(&model, ranks).unwrap().memory();
            let plan = strategy
                .clone()
                .lora(lora.clone())
                .plan(&model, ranks)
                .unwrap();
            let trained = plan.units().iter().filter(|u| u.trainable);
            let adapters: usize = trained.map(|u| 4 * u.elements()).sum();
            let memory = plan.memory();
            // Gradients are whole until the step under ZeRO-1.
            let parts = if strategy == Strategy::zero1() {
                1
            } else {
                ranks
            };
            let gradients = adapters as f64 / parts as f64;
            let share = gradients + 2.0 * adapters as f64 / ranks as f64;
            let found = (memory.gradients + memory.optimizer) as f64;
            assert!(
                found <= 1.05 * share,
                "{strategy} over {ranks}: {found} of {share}"
            );
            let of_full = found / (full.gradients + full.optimizer) as f64;
            assert!(of_full < 0.013, "{strategy} over {ranks}: {of_full}");
        }
    }
}

#[test]
fn a_gathered_model_is_merged_as_burn_merges() {
    let _alone = alone();
    for size in 1..=3 {
        let merged = Threads::new(size)
            .run(|world| {
                let model = Strategy::fsdp().lora(all_linear()).shard(model(), &world)?;
                let mut optimizer = world.optimizer(adamw(), &model)?;
                let mine = oracle::rows(&oracle::batch(ROWS, 7, 0), world.rank(), size);
                let x = || oracle::tensor(&mine, DType::F64, &world.device());
                let grads = world.backward(loss(&model, x()), &model)?.into_params();
                let model = optimizer.step(0.1, model, grads);
                let merged = world.full(&model, Destination::Chief)?;
                let apart = world.full_with_adapters(&model, Destination::Chief)?;
                assert_eq!(merged.is_some(), world.rank() == 0);
                Ok(merged.zip(apart))
            })
            .unwrap();
        let (merged, apart) = merged.into_iter().flatten().next().unwrap();
        assert!(merged.first.weight.adapter().is_none());
        assert!(apart.first.weight.adapter().is_some());
        let expected = oracle::values(&apart.materialize());
        assert_eq!(oracle::values(&merged), expected);
    }
}

/// Options that change what is sent, with three micro-batches in a step.
#[test]
fn adapters_are_exact_beside_the_options_of_a_strategy() {
    let _alone = alone();
    const MICRO: usize = 3;
    for strategy in [
        Strategy::fsdp().no_sync(true),
        Strategy::fsdp().reshard_after_backward(false),
        Strategy::fsdp().reshard_after_forward(2),
        Strategy::zero2().no_sync(true),
        // The first layer's second factor and the biases are stored whole.
        Strategy::fsdp().persistence_threshold(30),
        Strategy::hybrid(2).persistence_threshold(1000),
        Strategy::fsdp().replicate(["first"]),
    ] {
        let strategy = strategy.lora(blocks_and_head().targets(["first"]));
        let what = strategy.to_string();
        let ran = Threads::new(4)
            .run(move |world| {
                let model = strategy.clone().shard(model(), &world)?;
                let begun = world.full_with_adapters(&model, Destination::All)?;
                let trace = oracle::sharded(&world, model, adamw(), STEPS, 1e-2, |model, step| {
                    let mut sums = world.accumulate(model)?.micro_batches(MICRO);
                    for micro in 0..MICRO {
                        let batch = oracle::batch(ROWS, 7, MICRO * step + micro);
                        let mine = oracle::rows(&batch, world.rank(), 4);
                        let x = oracle::tensor(&mine, DType::F64, &world.device());
                        sums.add(loss(model, x))?;
                    }
                    Ok((0.0, sums.finish()?))
                })?;
                Ok((begun.unwrap(), trace))
            })
            .unwrap_or_else(|e| panic!("{what}: {e}"));
        let device = Device::flex().autodiff();
        let expected = oracle::plain(ran[0].0.clone(), adamw(), STEPS, 1e-2, |model, step| {
            let losses = (0..MICRO).map(|micro| {
                let batch = oracle::batch(ROWS, 7, MICRO * step + micro);
                loss(model, oracle::tensor(&batch, DType::F64, &device))
            });
            // Burn divides a gradient by a number as f32 does.
            losses.reduce(|a, b| a + b).unwrap() * (1.0 / MICRO as f64)
        });
        for (_, trace) in &ran {
            for (step, wanted) in expected.gradients.iter().enumerate() {
                let what = format!("{what}, gradients of step {step}");
                oracle::close(&what, &trace.gradients[step], wanted, 1e-9);
            }
            oracle::close(&what, &trace.parameters, &expected.parameters, 1e-9);
        }
    }
}

/// The error of sharding over two ranks.
pub(crate) fn refused(make: impl Fn(Device) -> Mlp + Send + Sync, strategy: Strategy) -> String {
    let run = |world: World| {
        let model = make(world.device());
        strategy.clone().shard(model, &world).map(|_| ())
    };
    Threads::new(2).run(run).unwrap_err().to_string()
}

#[test]
fn what_makes_no_adapters_is_an_error_that_says_so() {
    let _alone = alone();
    let new = |device: Device| Mlp::new(1, &device);
    for (lora, expected) in [
        (LoraConfig::new(0, 1.0), &["rank", "at least 1"][..]),
        (
            LoraConfig::new(4, 1.0),
            &["last.weight", "[15, 3]", "rank 4", "at most 3"],
        ),
        (LoraConfig::new(2, f64::NAN), &["alpha", "NaN"]),
        (
            LoraConfig::new(2, 1.0).init_std(0.0),
            &["standard deviation"],
        ),
        (
            LoraConfig::new(2, 1.0).targets(["query"]),
            &["target", "query", "first.weight"],
        ),
        (
            LoraConfig::new(2, 1.0).modules_to_save(["classifier"]),
            &["module to save", "classifier"],
        ),
        (
            LoraConfig::new(2, 1.0).targets(["bias"]),
            &["no matrix", "targets"],
        ),
    ] {
        let found = refused(new, Strategy::fsdp().lora(lora));
        for words in expected {
            assert!(found.contains(words), "{words}: {found}");
        }
    }
}

#[test]
fn ranks_with_other_adapters_are_told() {
    let _alone = alone();
    let found = Threads::new(3)
        .run(|world| {
            let alpha = if world.rank() == 1 { 8.0 } else { 4.0 };
            let strategy = Strategy::fsdp().lora(LoraConfig::new(2, alpha));
            strategy.shard(model(), &world).map(|_| ())
        })
        .unwrap_err()
        .to_string();
    assert!(
        found.contains("alpha 8") && found.contains("alpha 4"),
        "{found}"
    );
}

/// A model that has trained a step, so that no factor is zeros.
pub(crate) fn trained(world: &World, lora: LoraConfig) -> burn_dist::Result<Mlp> {
    let model = Strategy::fsdp().lora(lora).shard(model(), world)?;
    let mut optimizer = world.optimizer(adamw(), &model)?;
    let mine = oracle::rows(&oracle::batch(ROWS, 7, 0), world.rank(), world.size());
    let x = oracle::tensor(&mine, DType::F64, &world.device());
    let grads = world.backward(loss(&model, x), &model)?.into_params();
    Ok(optimizer.step(0.1, model, grads))
}

#[test]
fn a_shadow_has_adapters_of_burn() {
    let _alone = alone();
    let compared = Threads::new(2)
        .run(|world| {
            let model = trained(&world, all_linear())?;
            let mine = oracle::rows(&oracle::batch(ROWS, 7, 0), world.rank(), 2);
            let x = oracle::tensor(&mine, DType::F64, &world.device());
            world.shadow(&model, Shadow::within(1e-9), 1, |model, _| {
                (loss(model, x.clone()) * 12.0, 12)
            })
        })
        .unwrap();
    assert_eq!(compared[0].units, 4);
}
