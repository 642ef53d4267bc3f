//! Types and values of saves: each type loads bit for bit, and values that are not finite are refused.

use super::{load, parameters, save_once, start, train};
use crate::alone;
use crate::oracle;
use crate::oracle::{Mlp, Values};
use burn::module::{Module, ModuleMapper, Param};
use burn::optim::{AdamWConfig, ModuleOptimizer, SgdConfig};
use burn::tensor::{DType, FloatDType, Tensor, TensorData};
use burn_dist::launch::Threads;
use burn_dist::weights::Export;
use burn_dist::{Error, Result, Strategy, World};

fn of_type(dtype: FloatDType, world: &World) -> Result<Mlp> {
    let model = oracle::cast(Mlp::new(2, &world.device()), dtype);
    Strategy::fsdp().shard(model, world)
}

fn step(
    world: &World,
    model: Mlp,
    sgd: &mut ModuleOptimizer,
    dtype: DType,
    step: usize,
) -> Result<Mlp> {
    let mine = oracle::rows(&oracle::batch(12, 7, step), world.rank(), world.size());
    let x: Tensor<2> = oracle::tensor(&mine, dtype, &world.device());
    let grads = world.backward(model.forward(x).powi_scalar(2).mean(), &model)?;
    Ok(sgd.step(1e-2, model, grads.into_params()))
}

#[test]
fn every_type_loads_bit_for_bit_or_is_refused_when_saving() {
    let _alone = alone();
    for dtype in [
        FloatDType::BF16,
        FloatDType::F16,
        FloatDType::F64,
        FloatDType::F32,
    ] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let run = |resume: bool| -> Vec<Values> {
            let ranks = Threads::new(2).seed(3);
            ranks
                .run(|world| {
                    let mut model = of_type(dtype, &world)?;
                    let mut sgd = world.optimizer(SgdConfig::new().init(), &model)?;
                    let mut from = 0;
                    if resume {
                        (model, sgd, from) = world.load(folder, model, sgd)?;
                    }
                    for at in from..6 {
                        if at == 3 && !resume {
                            world.save(folder, &model, &sgd, &at)?;
                        }
                        model = step(&world, model, &mut sgd, dtype.into(), at)?;
                    }
                    parameters(&world, &model)
                })
                .unwrap()
        };
        assert_eq!(run(false), run(true), "{dtype:?}");

        // Burn loads the states of an optimizer as f32.
        let folder = tempfile::tempdir().unwrap();
        let saved = Threads::new(2).run(|world| {
            let model = of_type(dtype, &world)?;
            let mut adamw = world.optimizer(AdamWConfig::new().init(), &model)?;
            let model = step(&world, model, &mut adamw, dtype.into(), 0)?;
            let saved = world.save(folder.path(), &model, &adamw, &0);
            world.comm().barrier(&"after".into())?;
            saved
        });
        match dtype {
            FloatDType::F32 => drop(saved.unwrap()),
            _ => {
                let error = saved.unwrap_err();
                assert!(matches!(error, Error::Model { .. }), "{error}");
                let (text, name) = (error.to_string(), DType::from(dtype).name());
                for word in ["momentum.moment_", &format!("of type {name}"), "as f32"] {
                    assert!(text.contains(word), "{word} is not in {text}");
                }
                assert!(!folder.path().join("latest").exists());
            }
        }
    }
}

/// Puts a number into the last element of one parameter.
struct Overwrite<'a>(Vec<String>, &'a str, f32);

impl ModuleMapper for Overwrite<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.0.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.0.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.0.join(".") != self.1 {
            return param;
        }
        param.map(|tensor| {
            let (shape, device) = (tensor.shape(), tensor.device());
            let mut values: Vec<f32> = tensor.into_data().iter().collect();
            *values.last_mut().unwrap() = self.2;
            let new = Tensor::from_data(TensorData::new(values, shape), &device.inner());
            Tensor::from_inner(new).require_grad()
        })
    }
}

fn overwritten(model: Mlp, path: &str, with: f32) -> Mlp {
    model.map(&mut Overwrite(Vec::new(), path, with))
}

#[test]
fn parameters_that_are_not_finite_are_neither_saved_nor_exported() {
    let _alone = alone();
    let (saves, exports) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (saves, exports) = (saves.path(), exports.path());
    save_once(saves, 2, 1);
    let exported = exports.join("model.safetensors");
    for (path, with) in [("blocks.1.weight", f32::NAN), ("last.bias", f32::INFINITY)] {
        let outcome = Threads::new(2).run(|world| {
            let (model, optimizer) = start(&Strategy::fsdp(), &world)?;
            world.export(&model, exports, &Export::new())?;
            let (mut model, optimizer, _) = world.load::<_, usize>(saves, model, optimizer)?;
            let before = std::fs::read(&exported).unwrap();
            if world.rank() == 1 {
                model = overwritten(model, path, with);
                // Behind it in the order of the model.
                model = overwritten(model, "scale", f32::NAN);
            }
            for outcome in [
                world.save(saves, &model, &optimizer, &2),
                world.export(&model, exports, &Export::new()),
            ] {
                let error = outcome.expect_err("no numbers");
                assert!(matches!(error, Error::Model { .. }), "{error}");
                let text = error.to_string();
                assert!(text.starts_with(&format!("{path}: ")), "{text}");
                assert!(text.contains("on rank 1"), "{text}");
            }
            assert_eq!(std::fs::read(&exported).unwrap(), before);
            world.comm().barrier(&"after".into())
        });
        outcome.unwrap();
        assert_eq!(load(saves, 2).unwrap(), [1, 1], "{path}");
    }
}

#[test]
fn states_that_are_not_finite_are_not_saved() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let outcome = Threads::new(2).run(|world| {
        let (mut model, mut optimizer) = train(&world, start(&Strategy::fsdp(), &world)?, 0..1)?;
        let mut grads = burn::optim::GradientsParams::new();
        let bad = Tensor::full_like(&model.last.weight.base().inner(), f32::INFINITY);
        grads.register(model.last.weight.id, bad);
        let kept = model.clone();
        model = optimizer.step(0.0, model, grads);
        // Even if the parameters are what they were.
        drop(model);
        world.save(folder.path(), &kept, &optimizer, &0)
    });
    let error = outcome.unwrap_err().to_string();
    assert!(
        error.contains("the optimizer's state of last.weight"),
        "{error}"
    );
}

#[test]
fn frozen_parameters_may_be_infinite() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let outcome = Threads::new(2).run(|world| {
        let mut model = Mlp::new(2, &world.device());
        let mask = Tensor::full([1], f32::NEG_INFINITY, &world.device().inner());
        model.scale = Param::from_tensor(Tensor::from_inner(mask)).set_require_grad(false);
        let model = Strategy::fsdp().shard(model, &world)?;
        let adamw = world.optimizer(AdamWConfig::new().init(), &model)?;
        world.save(folder.path(), &model, &adamw, &4usize)?;
        let (model, ..) = world.load::<_, usize>(folder.path(), model, adamw)?;
        parameters(&world, &model)
    });
    assert_eq!(outcome.unwrap()[0]["scale"], [f64::NEG_INFINITY]);
}

#[test]
fn a_record_of_full_parameters_is_refused_with_a_remedy() {
    let _alone = alone();
    let outcome = Threads::new(2).run(|world| {
        let record = Mlp::new(2, &world.device()).into_record();
        let model = Strategy::fsdp().shard(Mlp::new(2, &world.device()), &world)?;
        drop(model.load_record(record));
        Ok(())
    });
    let error = outcome.unwrap_err().to_string();
    assert!(error.contains("before Strategy::shard"), "{error}");
}
