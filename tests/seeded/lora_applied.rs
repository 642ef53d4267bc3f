//! Models that Burn's `apply_lora` and `apply_qlora` have given adapters, sharded as they are.

use crate::lora::{ROWS, STEPS, adamw, all_linear, loss, model, refused, run};
use crate::oracle::{self, Mlp};
use crate::{alone, qlora};
use burn::module::{Lora, Module, ModuleVisitor, Param, ParamGroup, ParamId, QLora, Quantizer};
use burn::optim::GradientsParams;
use burn::tensor::quantization::Calibration;
use burn::tensor::{DType, Device, FloatDType, Tensor};
use burn_dist::Strategy;
use burn_dist::launch::Threads;

/// A model with adapters of Burn's, whose factors are no zeros.
fn applied(lora: Lora) -> Mlp {
    let model = model().apply_lora(lora);
    let x = oracle::tensor(&oracle::batch(ROWS, 7, 9), DType::F64, &model.devices()[0]);
    let grads = GradientsParams::from_grads(loss(&model, x).backward(), &model);
    adamw().step(0.1, model, grads)
}

/// The values are those of rank 0, whatever other ranks have drawn.
#[test]
fn a_model_with_adapters_of_burn_goes_on_as_on_one_device() {
    let _alone = alone();
    let some = ParamGroup::from_paths(vec!["blocks.1.weight", "last.weight"]);
    for lora in [Lora::new(2, 5.0), Lora::new(3, 1.0).set_param_group(some)] {
        let (model, other) = (applied(lora.clone()), applied(lora.clone()));
        let device = Device::flex().autodiff();
        let expected = oracle::plain(model.clone(), adamw(), STEPS, 1e-2, |model, step| {
            let batch = oracle::batch(ROWS, 7, step);
            loss(model, oracle::tensor(&batch, DType::F64, &device))
        });
        for size in 1..=4 {
            for strategy in oracle::strategies(size) {
                let what = format!("{strategy} at world {size}");
                let plan = strategy.plan(&model, size).unwrap();
                let (model, other) = (model.clone(), other.clone());
                let (begun_with, id) = (oracle::values(&model), id_of_last_factor(&model));
                let ran = Threads::new(size)
                    .run(move |world| {
                        let mine = if world.rank() == 0 { &model } else { &other };
                        let strategy = strategy.clone();
                        let sharded = strategy.clone().shard(mine.clone(), &world)?;
                        let id = id_of_last_factor(&sharded);
                        let (begun, trace) = run(&world, strategy, mine.clone())?;
                        Ok((begun, trace, id, world.summary(&sharded)?.elements()))
                    })
                    .unwrap_or_else(|e| panic!("{what}: {e}"));
                assert_eq!(ran[0].2, id, "{what}");
                for (begun, trace, _, elements) in &ran {
                    assert_eq!(oracle::values(begun), begun_with, "{what}");
                    assert_eq!(*elements, plan.parameters(), "{what}");
                    for (step, wanted) in expected.gradients.iter().enumerate() {
                        let what = format!("{what}, gradients of step {step}");
                        oracle::close(&what, &trace.gradients[step], wanted, 1e-9);
                    }
                    oracle::close(&what, &trace.parameters, &expected.parameters, 1e-9);
                }
            }
        }
    }
}

/// Groups of parameters may name ids.
fn id_of_last_factor(model: &Mlp) -> ParamId {
    struct Last(ParamId);
    impl ModuleVisitor for Last {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if D == 2 {
                self.0 = param.id;
            }
        }
    }
    let mut last = Last(ParamId::from(0));
    model.visit(&mut last);
    last.0
}

#[test]
fn adapters_of_burn_that_cannot_be_sharded_are_told() {
    let _alone = alone();
    let only = |path: &str| ParamGroup::from_paths(vec![path.to_string()]);
    let two = || {
        let first = Lora::new(2, 4.0).set_param_group(only("first.weight"));
        let last = Lora::new(3, 4.0).set_param_group(only("last.weight"));
        model().apply_lora(first).apply_lora(last)
    };
    let unfrozen = || model().apply_lora(Lora::new(2, 4.0)).unfreeze();
    let large = || model().apply_lora(Lora::new(4, 4.0));
    let one = || model().apply_lora(Lora::new(2, 4.0));
    let twice = Strategy::fsdp().lora(all_linear());
    let cases: [(&(dyn Fn() -> Mlp + Send + Sync), _, &[&str]); 4] = [
        (
            &two,
            Strategy::fsdp(),
            &["last.weight", "rank 3", "first.weight", "rank 2"],
        ),
        (
            &unfrozen,
            Strategy::fsdp(),
            &["weight", "takes gradients", "frozen"],
        ),
        (
            &large,
            Strategy::fsdp(),
            &["last.weight", "[15, 3]", "at most 3"],
        ),
        (&one, twice, &["Strategy::lora", "apply_lora"]),
    ];
    for (make, strategy, expected) in cases {
        let planned = strategy.plan(&make(), 2).unwrap_err().to_string();
        let found = refused(|_| make(), strategy);
        for words in expected {
            assert!(found.contains(words), "{words}: {found}");
            assert!(planned.contains(words), "{words}: {planned}");
        }
    }
    let sharded_twice = Threads::new(2)
        .run(|world| {
            let model = Strategy::fsdp().lora(all_linear()).shard(model(), &world)?;
            Strategy::fsdp().shard(model, &world).map(drop)
        })
        .unwrap_err()
        .to_string();
    assert!(sharded_twice.contains("earlier shard"), "{sharded_twice}");
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

/// What `apply_qlora` has made is sharded with its codes and its factors.
#[test]
fn a_model_of_apply_qlora_goes_on_as_on_one_device() {
    let _alone = alone();
    let scheme = qlora::schemes()[1];
    let mut quantizer = Quantizer::new(Calibration::MinMax, scheme);
    quantizer.set_param_group(ParamGroup::from_paths(
        qlora::MATRICES.map(String::from).to_vec(),
    ));
    let lora = Lora::new(2, 5.0).set_dtype(FloatDType::F64);
    let model = model().apply_qlora(QLora::new(lora, quantizer));
    let begun_with = oracle::values(&model);
    let device = Device::flex().autodiff();
    let expected = oracle::plain(model.clone(), adamw(), STEPS, 1e-2, |model, step| {
        let batch = oracle::batch(ROWS, 7, step);
        loss(model, oracle::tensor(&batch, DType::F64, &device))
    });
    for size in 1..=4 {
        for strategy in oracle::strategies(size) {
            let what = format!("{strategy} at world {size}");
            let model = model.clone();
            let ran = Threads::new(size)
                .run(move |world| run(&world, strategy.clone(), model.clone()))
                .unwrap_or_else(|e| panic!("{what}: {e}"));
            for (begun, trace) in &ran {
                assert_eq!(oracle::values(begun), begun_with, "{what}");
                for (step, wanted) in expected.gradients.iter().enumerate() {
                    let what = format!("{what}, gradients of step {step}");
                    oracle::close(
                        &what,
                        &qlora::trained(&trace.gradients[step]),
                        &qlora::trained(wanted),
                        1e-9,
                    );
                }
                oracle::close(&what, &trace.parameters, &expected.parameters, 1e-9);
            }
        }
    }
}
