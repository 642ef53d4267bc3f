//! Quantized frozen weights beside low-rank adapters, against Burn's own on one device.

use crate::alone;
use crate::lora::{ROWS, STEPS, adamw, loss, model, run};
use crate::oracle::{self, Mlp, Values};
use burn::module::{LoraAdapter, Module, Param, ParamGroup, Quantizer, Reparameterizer};
use burn::tensor::quantization::{
    Calibration, QuantScheme, QuantValue, ScaleDtype, compute_q_params, compute_range,
};
use burn::tensor::{DType, Device, FloatDType, Tensor};
use burn_dist::comm::Op;
use burn_dist::launch::Threads;
use burn_dist::weights::{Export, Weights};
use burn_dist::{Destination, LoraConfig, Precision, Strategy, World};
use std::collections::BTreeMap;

/// Of 7x15, 15x15 and 15x3 matrices.
pub(crate) const MATRICES: [&str; 5] = [
    "first.weight",
    "blocks.0.weight",
    "blocks.1.weight",
    "blocks.2.weight",
    "last.weight",
];

fn scheme(value: QuantValue) -> QuantScheme {
    QuantScheme::default().with_value(value)
}

pub(crate) fn schemes() -> [QuantScheme; 4] {
    [
        scheme(QuantValue::Q8S).per_tensor(ScaleDtype::F32),
        scheme(QuantValue::Q4S).per_block([3], ScaleDtype::F32),
        scheme(QuantValue::Q4F).per_block([3], ScaleDtype::BF16),
        scheme(QuantValue::Q2S)
            .per_block([3], ScaleDtype::UE4M3)
            .per_tensor(ScaleDtype::F32),
    ]
}

fn lora(scheme: QuantScheme) -> LoraConfig {
    LoraConfig::new(2, 5.0).quantize_base(scheme)
}

/// Quantizes the matrices of a plain model as Burn does, and gives those their adapters that have some.
struct PlainQLora {
    scheme: QuantScheme,
    adapters: BTreeMap<String, LoraAdapter>,
}

impl Reparameterizer for PlainQLora {
    type Reparam = LoraAdapter;

    fn reparameterize<const D: usize>(
        &mut self,
        path: &str,
        param: Param<Tensor<D>>,
    ) -> (Param<Tensor<D>>, Option<LoraAdapter>) {
        let scheme = self.scheme;
        let param = if MATRICES.contains(&path) {
            param.map(|full| {
                let full = full.inner();
                let range = compute_range(&scheme, &full, &Calibration::MinMax);
                Tensor::from_inner(full.quantize(&scheme, compute_q_params(&scheme, range)))
            })
        } else {
            param
        };
        (param.set_require_grad(false), self.adapters.remove(path))
    }
}

fn adapters(of: &Mlp) -> BTreeMap<String, LoraAdapter> {
    let layers = [
        &of.first,
        &of.blocks[0],
        &of.blocks[1],
        &of.blocks[2],
        &of.last,
    ];
    let layers = MATRICES.into_iter().zip(layers);
    let found =
        layers.filter_map(|(path, layer)| Some((path.into(), layer.weight.adapter()?.clone())));
    found.collect()
}

pub(crate) fn trained(values: &Values) -> Values {
    let all = values.clone().into_iter();
    all.filter(|(path, _)| path.contains("lora")).collect()
}

fn check(size: usize, strategy: Strategy, scheme: QuantScheme) {
    let what = format!("{strategy} at world {size}");
    let (model, used) = (model(), strategy.clone());
    let start = model.clone();
    let ran = Threads::new(size)
        .run(move |world| run(&world, used.clone(), start.clone()))
        .unwrap_or_else(|e| panic!("{what}: {e}"));
    let device = Device::flex().autodiff();
    let plain = model.apply_reparameterization(PlainQLora {
        scheme,
        adapters: adapters(&ran[0].0),
    });
    assert!(matches!(
        plain.first.weight.base().dtype(),
        DType::QFloat(_)
    ));
    let base = oracle::values(&plain);
    let expected = oracle::plain(plain, adamw(), STEPS, 1e-2, |model, step| {
        let batch = oracle::batch(ROWS, 7, step);
        loss(model, oracle::tensor(&batch, DType::F64, &device))
    });
    for (begun, trace) in &ran {
        // Codes and scales are Burn's, so what they stand for is, to the bit.
        assert_eq!(oracle::values(begun), base, "{what}");
        for (step, wanted) in expected.gradients.iter().enumerate() {
            let what = format!("{what}, gradients of step {step}");
            oracle::close(
                &what,
                &trained(&trace.gradients[step]),
                &trained(wanted),
                1e-9,
            );
        }
        oracle::close(&what, &trace.parameters, &expected.parameters, 1e-9);
    }
    // Otherwise nothing was compared.
    let factor = &expected.parameters["blocks.0.weight.lora.b"];
    assert!(factor.iter().any(|x| x.abs() > 1e-3), "{what}");
}

#[test]
fn f64_agrees_with_plain_burn_to_nine_digits() {
    let _alone = alone();
    for size in 1..=4 {
        for (number, strategy) in oracle::strategies(size).into_iter().enumerate() {
            for recompute in [false, true] {
                let scheme = schemes()[number % 4];
                let strategy = strategy.clone().recompute(recompute).lora(lora(scheme));
                check(size, strategy, scheme);
            }
        }
    }
}

#[test]
fn options_of_a_strategy_change_no_result() {
    let _alone = alone();
    let scheme = schemes()[1];
    for strategy in [
        Strategy::fsdp().reshard_after_backward(false),
        Strategy::fsdp().reshard_after_forward(2),
        Strategy::fsdp().reshard_after_forward(1),
        Strategy::hybrid(2).persistence_threshold(1000),
        Strategy::fsdp().block_aligned(256),
        Strategy::fsdp().check_units(true),
        // What has no adapters is quantized too.
        Strategy::zero2(),
    ] {
        let lora = lora(scheme).targets(["blocks.*"]);
        check(4, strategy.lora(lora), scheme);
    }
}

/// A model that Burn has quantized is sharded with the codes that it has, which rank 0 broadcasts.
#[test]
fn a_model_that_is_quantized_already_keeps_its_codes() {
    let _alone = alone();
    let scheme = schemes()[1];
    let paths = MATRICES.map(String::from).to_vec();
    let quantized = move || {
        let mut quantizer = Quantizer::new(Calibration::MinMax, scheme);
        oracle::cast(model(), FloatDType::F32)
            .quantize_weights_group(&mut quantizer, ParamGroup::from_paths(paths.clone()))
            .freeze()
    };
    let expected = oracle::values(&quantized());
    for size in 1..=3 {
        for lora in [None, Some(LoraConfig::new(2, 4.0))] {
            let quantized = quantized.clone();
            let all = Threads::new(size)
                .run(move |world| {
                    let strategy = match &lora {
                        Some(lora) => Strategy::fsdp().lora(lora.clone()),
                        None => Strategy::fsdp(),
                    };
                    let model = strategy.shard(quantized(), &world)?;
                    let x = oracle::tensor(&oracle::batch(4, 7, 0), DType::F32, &world.device());
                    let out = model.valid().forward(x.inner());
                    let full = world.full(&model, Destination::All)?;
                    Ok((full.unwrap(), out.into_data()))
                })
                .unwrap();
            let x = oracle::tensor(&oracle::batch(4, 7, 0), DType::F32, &Device::flex());
            let (full, _) = &all[0];
            let out = full.valid().forward(x).into_data();
            for (full, found) in &all {
                assert_eq!(oracle::values(full), expected);
                assert_eq!(found, &out);
            }
        }
    }
}

#[test]
fn the_base_is_gathered_and_stored_as_bytes() {
    let _alone = alone();
    let scheme = schemes()[1];
    for strategy in [
        Strategy::zero2(),
        Strategy::fsdp(),
        Strategy::fsdp().quantized_gathers(16),
    ] {
        let strategy = strategy.lora(lora(scheme));
        let what = strategy.to_string();
        let plan = strategy.plan(&model(), 3).unwrap();
        let of_base = plan.units().iter().filter(|u| u.is_quantized());
        // Codes of half a byte, a scale of 4 bytes for each three of them, and up to 3 bytes more.
        let bytes = |i: usize, o: usize| ((i * o).div_ceil(2) + 4 * i * o / 3).next_multiple_of(4);
        let expected = bytes(7, 15) + 3 * bytes(15, 15) + bytes(15, 3);
        assert_eq!(
            of_base.map(|u| u.parameter_bytes()).sum::<usize>(),
            expected,
            "{what}"
        );
        let entries = Threads::new(3)
            .run(move |world| {
                let model = strategy.clone().check_units(false).shard(model(), &world)?;
                world.ledger().reset();
                let mine = oracle::rows(&oracle::batch(ROWS, 7, 0), world.rank(), 3);
                let loss = loss(&model, oracle::tensor(&mine, DType::F64, &world.device()));
                world.backward(loss, &model)?;
                Ok(world.ledger().entries())
            })
            .unwrap();
        for unit in plan.units().iter().filter(|u| u.is_quantized()) {
            // The root stays gathered; under ZeRO-2 all do.
            let gathers = if unit.path.is_empty() || what.starts_with("zero2") {
                1
            } else {
                2
            };
            let of_unit = entries[0]
                .iter()
                .filter(|(_, name, _)| **name == *unit.name);
            let found: Vec<_> = of_unit.map(|(op, _, e)| (*op, e.calls, e.bytes)).collect();
            let bytes = gathers * unit.bytes() as u64 * 2 / 3;
            assert_eq!(
                found,
                [(Op::AllGather, gathers, bytes)],
                "{what}: {}",
                unit.name
            );
        }
    }
}

/// Each rank reads a whole matrix, quantizes it and keeps its bytes; an export has the numbers that they stand for.
#[test]
fn weights_of_a_file_are_quantized_as_they_are_read() {
    let _alone = alone();
    let scheme = schemes()[1];
    let source = tempfile::tempdir().unwrap();
    Export::new().write(&model(), source.path()).unwrap();
    let paths = ParamGroup::from_paths(MATRICES.map(String::from).to_vec());
    let mut quantizer = Quantizer::new(Calibration::MinMax, scheme);
    let expected = oracle::values(&model().quantize_weights_group(&mut quantizer, paths));
    for size in 1..=3 {
        for strategy in [Strategy::ddp(), Strategy::fsdp()] {
            let target = tempfile::tempdir().unwrap();
            let (from, to) = (source.path().to_path_buf(), target.path().to_path_buf());
            let full = Threads::new(size)
                .run(move |world| {
                    let lora = lora(scheme).targets(["blocks.*"]);
                    let empty = oracle::cast(Mlp::new(3, &world.device()), FloatDType::F64);
                    let weights = Weights::open(&from)?;
                    let strategy = strategy.clone().lora(lora);
                    let (model, report) = strategy.shard_from(empty, &world, &weights)?;
                    assert!(report.missing.is_empty(), "{report}");
                    world.export(&model, &to, &Export::new())?;
                    Ok(world.full(&model, Destination::All)?.unwrap())
                })
                .unwrap();
            assert_eq!(oracle::values(&full[0]), expected, "world {size}");
            let empty = oracle::cast(Mlp::new(3, &Device::flex()), FloatDType::F64);
            let exported = Weights::open(target.path()).unwrap();
            let (exported, _) = exported.apply(empty).unwrap();
            assert_eq!(oracle::values(&exported), expected, "world {size}");
        }
    }
}

/// Saved at two ranks and resumed at others, with the same bits as a run that was not interrupted.
#[test]
fn a_run_resumes_on_any_number_of_ranks() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_path_buf();
    let before = Threads::new(2)
        .run(|world| {
            let strategy = Strategy::fsdp().lora(lora(schemes()[1]));
            let model = strategy.shard(oracle::cast(model(), FloatDType::F32), &world)?;
            let optimizer = world.optimizer(adamw(), &model)?;
            world.save(&path, &model, &optimizer, &())?;
            world.full_with_adapters(&model, Destination::All)
        })
        .unwrap();
    let before = oracle::values(before[0].as_ref().unwrap());
    for size in [1, 3] {
        for strategy in [Strategy::fsdp(), Strategy::ddp()] {
            let path = folder.path().to_path_buf();
            let after = Threads::new(size)
                .run(move |world| {
                    let device = world.device();
                    let strategy = strategy.clone().lora(lora(schemes()[1]));
                    let model = strategy.shard(Mlp::new(3, &device), &world)?;
                    let optimizer = world.optimizer(adamw(), &model)?;
                    let (model, _, ()) = world.load(&path, model, optimizer)?;
                    world.full_with_adapters(&model, Destination::All)
                })
                .unwrap();
            assert_eq!(
                oracle::values(after[0].as_ref().unwrap()),
                before,
                "world {size}"
            );
        }
    }
    // Another scheme has other bytes, or as many of another meaning.
    let same_size = scheme(QuantValue::Q4F).per_block([3], ScaleDtype::F32);
    for other in [schemes()[0], same_size] {
        let path = folder.path().to_path_buf();
        let refused = Threads::new(2)
            .run(move |world| {
                let strategy = Strategy::fsdp().lora(lora(other));
                let model = strategy.shard(Mlp::new(3, &world.device()), &world)?;
                let optimizer = world.optimizer(adamw(), &model)?;
                world.load::<_, ()>(&path, model, optimizer).map(drop)
            })
            .unwrap_err()
            .to_string();
        for words in ["weight", "Q4S in blocks of [3]", "[7, 15] f32"] {
            assert!(refused.contains(words), "{words}: {refused}");
        }
    }
}

/// Under a policy of half precision the numbers are those of the quantized weights in that type.
#[test]
fn half_precision_computes_with_the_codes_in_its_type() {
    let _alone = alone();
    let scheme = schemes()[1];
    let outputs = Threads::new(2)
        .run(move |world| {
            let wide = oracle::cast(model(), FloatDType::F32);
            let strategy = Strategy::fsdp()
                .lora(lora(scheme))
                .precision(Precision::bf16());
            let narrow = strategy.shard(wide, &world)?;
            let full = world.full(&narrow, Destination::All)?.unwrap();
            let x = oracle::tensor(&oracle::batch(4, 7, 0), DType::F32, &world.device()).inner();
            let plain = oracle::cast(full, FloatDType::BF16).valid();
            let expected = plain
                .forward(x.clone().cast(FloatDType::BF16))
                .cast(FloatDType::F32);
            let found = narrow.valid().forward(x).cast(FloatDType::F32);
            let difference = (found - expected.clone()).abs().max().into_scalar::<f32>();
            Ok((difference, expected.abs().max().into_scalar::<f32>()))
        })
        .unwrap();
    for (difference, largest) in outputs {
        assert!(difference <= 0.02 * largest, "{difference} of {largest}");
    }
}

/// The error of sharding over `size` ranks.
fn refused(size: usize, strategy: Strategy, make: impl Fn() -> Mlp + Send + Sync) -> String {
    let run = |world: World| strategy.clone().shard(make(), &world).map(|_| ());
    Threads::new(size).run(run).unwrap_err().to_string()
}

#[test]
fn what_cannot_be_quantized_is_an_error_that_says_so() {
    let _alone = alone();
    let blocks = scheme(QuantValue::Q4S).per_block([64], ScaleDtype::F32);
    let floats = scheme(QuantValue::E4M3).per_tensor(ScaleDtype::F32);
    let quantized =
        || model().quantize_weights(&mut Quantizer::new(Calibration::MinMax, schemes()[0]));
    for size in 1..=2 {
        for (scheme, expected) in [
            (blocks, &["first.weight", "[7, 15]", "[64]", "block"][..]),
            (floats, &["E4M3", "Q4S"]),
        ] {
            let found = refused(size, Strategy::fsdp().lora(lora(scheme)), model);
            expected
                .iter()
                .for_each(|words| assert!(found.contains(words), "{words}: {found}"));
        }
        let none = lora(schemes()[0]).targets(["first"]);
        let none = none.modules_to_save(["first.bias", "blocks", "last", "scale"]);
        let none = Strategy::fsdp().replicate(["first"]).lora(none);
        assert!(refused(size, none, model).contains("nothing to quantize"));
        for (strategy, expected) in [
            (
                Strategy::fsdp().lora(LoraConfig::new(2, 1.0).modules_to_save(["last"])),
                "last.weight",
            ),
            (
                Strategy::fsdp()
                    .ignore(["blocks"])
                    .lora(LoraConfig::new(2, 1.0)),
                "blocks.0.weight",
            ),
        ] {
            let found = refused(size, strategy, quantized);
            for words in [expected, "quantized"] {
                assert!(found.contains(words), "{words}: {found}");
            }
        }
    }
}

#[test]
fn ranks_with_other_schemes_are_told() {
    let _alone = alone();
    let found = Threads::new(3)
        .run(|world| {
            let scheme = schemes()[usize::from(world.rank() == 1)];
            let strategy = Strategy::fsdp().lora(lora(scheme));
            strategy.shard(model(), &world).map(|_| ())
        })
        .unwrap_err()
        .to_string();
    assert!(found.contains("Q8S") && found.contains("Q4S"), "{found}");
}
