//! Low-rank adapters on shards, against Burn's own on one device.

use crate::oracle::{self, Mlp, Trace, Values};
use burn::module::{Lora, Module, Quantizer};
use burn::optim::{AdamWConfig, ModuleOptimizer};
use burn::tensor::{DType, Device, FloatDType, Tensor};
use burn_dist::comm::Op;
use burn_dist::launch::Threads;
use burn_dist::weights::{Adapters, Export, Name, Weights};
use burn_dist::{Destination, LoraConfig, Strategy, World};

const ROWS: usize = 24;
const STEPS: usize = 6;

fn adamw() -> ModuleOptimizer {
    AdamWConfig::new().with_weight_decay(0.01).init()
}

fn loss(model: &Mlp, x: Tensor<2>) -> Tensor<1> {
    model.forward(x).powi_scalar(2).mean()
}

/// Matrices of 7x15, 15x15 and 15x3, in f64, with numbers that no generator draws.
fn model() -> Mlp {
    let device = Device::flex().autodiff();
    oracle::cast(oracle::undrawn(Mlp::new(3, &device)), FloatDType::F64)
}

fn all_linear() -> LoraConfig {
    LoraConfig::new(2, 5.0)
}

fn blocks_and_head() -> LoraConfig {
    let lora = LoraConfig::new(3, 3.0).targets(["blocks.*"]);
    lora.modules_to_save(["last", "scale"])
}

/// A run over shards, and the model that it began with, gathered.
fn run(world: &World, strategy: Strategy, model: Mlp) -> burn_dist::Result<(Mlp, Trace)> {
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

#[test]
fn a_gathered_model_is_merged_as_burn_merges() {
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

/// The error of sharding over two ranks.
fn refused(make: impl Fn(Device) -> Mlp + Send + Sync, strategy: Strategy) -> String {
    let run = |world: World| {
        let model = make(world.device());
        strategy.clone().shard(model, &world).map(|_| ())
    };
    Threads::new(2).run(run).unwrap_err().to_string()
}

#[test]
fn what_makes_no_adapters_is_an_error_that_says_so() {
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
fn adapters_of_burn_are_refused_with_what_to_use() {
    let adapted = |device: Device| Mlp::new(1, &device).apply_lora(Lora::new(2, 4.0));
    let before = refused(adapted, Strategy::fsdp());
    for words in ["first.weight", "apply_lora", "Strategy::lora"] {
        assert!(before.contains(words), "{before}");
    }
    let after = Threads::new(2)
        .run(|world| {
            let model = Strategy::fsdp().shard(Mlp::new(1, &world.device()), &world)?;
            let model = model.apply_lora(Lora::new(2, 4.0));
            let x = oracle::tensor(&oracle::batch(4, 7, 0), DType::F32, &world.device());
            world.backward(loss(&model, x), &model).map(|_| ())
        })
        .unwrap_err()
        .to_string();
    assert!(after.contains("Strategy::lora"), "{after}");
}

#[test]
fn ranks_with_other_adapters_are_told() {
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

/// Names as PyTorch has them: weights of linear layers lie transposed.
fn name(path: &str) -> Option<Name> {
    let name = Name::new(format!("net.{path}"));
    let is_matrix = path.ends_with("weight");
    Some(if is_matrix { name.transposed() } else { name })
}

/// A model that has trained a step, so that no factor is zeros.
fn trained(world: &World, lora: LoraConfig) -> burn_dist::Result<Mlp> {
    let model = Strategy::fsdp().lora(lora).shard(model(), world)?;
    let mut optimizer = world.optimizer(adamw(), &model)?;
    let mine = oracle::rows(&oracle::batch(ROWS, 7, 0), world.rank(), world.size());
    let x = oracle::tensor(&mine, DType::F64, &world.device());
    let grads = world.backward(loss(&model, x), &model)?.into_params();
    Ok(optimizer.step(0.1, model, grads))
}

#[test]
fn an_export_is_merged_as_a_gathered_model_is() {
    let folder = tempfile::tempdir().unwrap();
    let into = folder.path().to_path_buf();
    let merged = Threads::new(3)
        .run(move |world| {
            let model = trained(&world, blocks_and_head())?;
            world.export(&model, &into, &Export::new().named(name))?;
            world.full(&model, Destination::Chief)
        })
        .unwrap();
    let weights = Weights::open(folder.path()).unwrap().named(name);
    let device = Device::flex();
    let plain = oracle::cast(Mlp::new(3, &device), FloatDType::F64);
    let (read, report) = weights.apply(plain).unwrap();
    assert!(
        report.unused.is_empty() && report.missing.is_empty(),
        "{report}"
    );
    assert_eq!(
        oracle::values(&read),
        oracle::values(merged[0].as_ref().unwrap())
    );
}

#[test]
fn exported_adapters_are_loaded_under_any_strategy_and_number_of_ranks() {
    for lora in [all_linear(), blocks_and_head()] {
        let folder = tempfile::tempdir().unwrap();
        let into = folder.path().to_path_buf();
        let expected = Threads::new(3)
            .run(move |world| {
                let model = trained(&world, lora.clone())?;
                world.export_adapters(&model, &into, &Export::new().named(name))?;
                world.full_with_adapters(&model, Destination::Chief)
            })
            .unwrap();
        let expected = oracle::values(expected[0].as_ref().unwrap());
        for (size, strategy) in [
            (1, Strategy::single()),
            (2, Strategy::ddp()),
            (3, Strategy::zero2()),
            (4, Strategy::hybrid(2)),
            (4, Strategy::fsdp()),
        ] {
            let from = folder.path().to_path_buf();
            let found = Threads::new(size)
                .run(move |world| {
                    let adapters = Adapters::open(&from)?.named(name);
                    let strategy = strategy.clone().lora(adapters.config(&model())?);
                    let model = strategy.shard(model(), &world)?;
                    let model = world.load_adapters(model, &adapters)?;
                    // It trains on, from the same values.
                    let mine = oracle::rows(&oracle::batch(ROWS, 7, 1), world.rank(), size);
                    let x = oracle::tensor(&mine, DType::F64, &world.device());
                    world.backward(loss(&model, x), &model)?;
                    world.full_with_adapters(&model, Destination::Chief)
                })
                .unwrap();
            assert_eq!(oracle::values(found[0].as_ref().unwrap()), expected);
        }
    }
}

#[test]
fn adapters_that_do_not_belong_to_a_model_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_path_buf();
    let into = path.clone();
    Threads::new(2)
        .run(move |world| {
            let model = trained(&world, all_linear())?;
            world.export_adapters(&model, &into, &Export::new().named(name))
        })
        .unwrap();
    let load = |strategy: Strategy, other_base: bool| {
        let from = path.clone();
        let load = move |world: World| {
            let adapters = Adapters::open(&from)?.named(name);
            let begin = if other_base {
                oracle::cast(Mlp::new(3, &world.device()), FloatDType::F64)
            } else {
                model()
            };
            let model = strategy.clone().shard(begin, &world)?;
            world.load_adapters(model, &adapters).map(|_| ())
        };
        Threads::new(2).run(load).map_err(|e| e.to_string())
    };
    assert!(load(Strategy::fsdp().lora(all_linear()), false).is_ok());
    for (strategy, other_base, expected) in [
        (
            Strategy::fsdp(),
            false,
            &["no adapters", "Strategy::lora"][..],
        ),
        (
            Strategy::fsdp().lora(LoraConfig::new(2, 4.0)),
            false,
            &["scale", "2.5", "2"],
        ),
        (
            Strategy::fsdp().lora(LoraConfig::new(1, 2.5)),
            false,
            &["first.weight.lora.a", "[1, 7]", "[2, 7]"],
        ),
        (
            Strategy::fsdp().lora(all_linear().targets(["blocks.*"])),
            false,
            &["nothing but the adapters", "first"],
        ),
        (
            Strategy::fsdp().lora(all_linear().modules_to_save(["last"])),
            false,
            &["last.weight", "not in"],
        ),
        (
            Strategy::fsdp().lora(all_linear()),
            true,
            &["digest", "for_any_base"],
        ),
    ] {
        let found = load(strategy, other_base).unwrap_err();
        for words in expected {
            assert!(found.contains(words), "{words}: {found}");
        }
    }
    // A name that no parameter of the model has.
    let unnamed = Adapters::open(&path).unwrap().config(&model());
    assert!(unnamed.unwrap_err().to_string().contains("Adapters::named"));
}

#[test]
fn a_quantised_model_is_refused_by_its_path() {
    use burn::tensor::quantization::{Calibration, QuantValue};
    let quantised = |device: Device| {
        let scheme = device.settings().quantization.scheme;
        let scheme = scheme.with_value(QuantValue::Q8S);
        Mlp::new(1, &device).quantize_weights(&mut Quantizer::new(Calibration::MinMax, scheme))
    };
    let found = refused(quantised, Strategy::fsdp());
    for words in ["first.weight", "quantised"] {
        assert!(found.contains(words), "{found}");
    }
}
