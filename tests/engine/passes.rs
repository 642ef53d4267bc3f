//! Programs with other sequences than one forward, one backward, one step.
//!
//! Each test is one program. It runs on a plain device and on every rank, under every strategy,
//! and must leave the same losses, gradients and parameters.

use crate::oracle;
use crate::oracle::place::{Place, same_everywhere};
use crate::oracle::{Mlp, cast};
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::nn::Linear;
use burn::tensor::activation::gelu;
use burn::tensor::{Device, FloatDType, Tensor};
use burn_dist::unit;
use std::collections::HashMap;

fn device() -> Device {
    Device::flex().autodiff()
}

fn mlp() -> Mlp {
    cast(Mlp::new(3, &device()), FloatDType::F64)
}

fn square(x: Tensor<2>) -> Tensor<1> {
    x.powi_scalar(2).mean()
}

fn loss(model: &Mlp, x: Tensor<2>) -> Tensor<1> {
    square(model.forward(x))
}

/// Trains with `loss`; the parameters under `prefix` must not have moved.
fn trains_without(prefix: &str, model: Mlp, loss: fn(&Mlp, Tensor<2>) -> Tensor<1>) {
    let start = oracle::values(&model);
    same_everywhere(|place| place.train(&model, 3, loss).map(|_| ()));
    let trained = Place::plain().train(&model, 3, loss).unwrap();
    let moved = oracle::values(&trained)
        .into_iter()
        .filter(|(path, now)| start[path] != *now);
    assert!(moved.into_iter().all(|(path, _)| !path.starts_with(prefix)));
}

#[test]
fn an_unused_unit_is_not_stepped() {
    trains_without("blocks.2", mlp(), |model, x| {
        square(unit(model, x, |mlp: &Mlp, x| {
            let x = gelu(mlp.first.forward(x));
            let x = unit(&mlp.blocks[0], x, |b: &Linear, x| b.forward(x));
            let x = unit(&mlp.blocks[1], x, |b: &Linear, x| b.forward(x));
            mlp.last.forward(x) * mlp.scale.val().unsqueeze()
        }))
    });
}

#[test]
fn an_unused_parameter_of_a_used_unit_is_not_stepped() {
    trains_without("last.bias", mlp(), |model, x| {
        square(unit(model, x, |mlp: &Mlp, x| {
            let mut x = gelu(mlp.first.forward(x));
            for block in &mlp.blocks {
                x = unit(block, x, |b: &Linear, x| b.forward(x));
            }
            x.matmul(mlp.last.weight.val()) * mlp.scale.val().unsqueeze()
        }))
    });
}

#[test]
fn parameters_without_gradients_are_not_stepped() {
    trains_without("blocks.1", mlp(), |model, x| {
        square(unit(model, x, |mlp: &Mlp, x| {
            let x = gelu(mlp.first.forward(x));
            let _dead_end = unit(&mlp.blocks[1], x.clone(), |b: &Linear, x| b.forward(x));
            let x = unit(&mlp.blocks[0], x, |b: &Linear, x| b.forward(x));
            let x = unit(&mlp.blocks[2], x, |b: &Linear, x| b.forward(x));
            mlp.last.forward(x) * mlp.scale.val().unsqueeze()
        }))
    });
}

#[test]
fn two_forwards_come_before_one_backward() {
    let model = mlp();
    same_everywhere(|place| {
        let mut model = place.shard(&model)?;
        let mut adamw = place.adamw(&model)?;
        for step in 0..3 {
            let sum = loss(&model, place.batch(step)) + loss(&model, place.batch(step + 10));
            let grads = place.backward(sum, &model)?;
            model = adamw.step(1e-2, model, grads);
        }
        place.note(&model)
    });
}

#[test]
fn a_forward_without_backward_is_dropped() {
    let model = mlp();
    same_everywhere(|place| {
        let mut model = place.shard(&model)?;
        let mut adamw = place.adamw(&model)?;
        for step in 0..3 {
            place.note_loss(&loss(&model, place.batch(step + 10)));
            let unused = loss(&model, place.batch(step + 20));
            let grads = place.backward(loss(&model, place.batch(step)), &model)?;
            drop(unused);
            model = adamw.step(1e-2, model, grads);
        }
        place.note(&model)
    });
}

#[test]
fn a_tape_that_one_rank_keeps_does_not_affect_the_others() {
    let model = mlp();
    same_everywhere(|place| {
        let model = place.shard(&model)?;
        let unused = loss(&model, place.batch(10));
        let _kept = place.is_chief().then_some(unused);
        place.backward(loss(&model, place.batch(0)), &model)?;
        Ok(())
    });
}

#[test]
fn a_model_runs_inside_the_forward_of_another() {
    let (outer, inner) = (mlp(), mlp());
    same_everywhere(|place| {
        let (outer, inner) = (place.shard(&outer)?, place.shard(&inner)?);
        let both = |x: Tensor<2>| {
            let inner = inner.clone();
            square(unit(&outer, x, move |mlp: &Mlp, x| {
                let mut y = gelu(mlp.first.forward(x.clone()));
                for block in &mlp.blocks {
                    y = unit(block, y, |block: &Linear, y| gelu(block.forward(y)));
                }
                mlp.last.forward(y) * mlp.scale.val().unsqueeze() + inner.forward(x)
            }))
        };
        place.backward(both(place.batch(0)), &outer)?;
        place.backward(both(place.batch(1)), &inner)?;
        Ok(())
    });
}

#[test]
fn an_evaluation_comes_between_steps() {
    let model = mlp();
    same_everywhere(|place| {
        let mut model = place.shard(&model)?;
        let mut adamw = place.adamw(&model)?;
        for step in 0..3 {
            let evaluated = loss(&model.valid(), place.batch(step + 10).inner());
            place.note_loss(&evaluated);
            let grads = place.backward(loss(&model, place.batch(step)), &model)?;
            // Gradients are there, the step is not: still the old parameters.
            place.note_loss(&loss(&model.valid(), place.batch(step + 20).inner()));
            model = adamw.step(1e-2, model, grads);
        }
        place.note(&model)
    });
}

/// Moves the stored tensors of a model a tenth of the way to those of another.
fn follow(average: Mlp, model: &Mlp) -> Mlp {
    struct Stored(HashMap<ParamId, Box<dyn std::any::Any>>);
    impl ModuleVisitor for Stored {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.insert(param.id, Box::new(param.base().inner()));
        }
    }
    impl ModuleMapper for Stored {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let now = self.0[&param.id]
                .downcast_ref::<Tensor<D>>()
                .unwrap()
                .clone();
            param.map(|average| average * 0.9 + now * 0.1)
        }
    }
    let mut stored = Stored(HashMap::new());
    model.visit(&mut stored);
    average.map(&mut stored)
}

#[test]
fn a_moving_average_of_the_model_is_evaluated() {
    let model = mlp();
    same_everywhere(|place| {
        let mut model = place.shard(&model)?;
        let mut average = model.valid();
        let mut adamw = place.adamw(&model)?;
        for step in 0..3 {
            let grads = place.backward(loss(&model, place.batch(step)), &model)?;
            model = adamw.step(1e-2, model, grads);
            average = follow(average, &model);
            place.note_loss(&loss(&average, place.batch(step + 10).inner()));
        }
        place.note(&average)?;
        place.note(&model)
    });
}

#[test]
fn a_loaded_record_is_sharded() {
    let (model, other) = (mlp(), mlp());
    same_everywhere(|place| {
        let loaded = other.clone().load_record(model.clone().into_record());
        place.train(&loaded, 2, loss).map(|_| ())
    });
}

#[test]
fn two_models_train_side_by_side() {
    let (one, two) = (mlp(), mlp());
    same_everywhere(|place| {
        let (mut one, mut two) = (place.shard(&one)?, place.shard(&two)?);
        let (mut for_one, mut for_two) = (place.adamw(&one)?, place.adamw(&two)?);
        for step in 0..3 {
            // The first follows the second, then the second the batch.
            let target = two.valid().forward(place.batch(step).inner());
            let x = place.batch(step);
            let distance = square(one.forward(x) - Tensor::from_inner(target));
            let grads = place.backward(distance, &one)?;
            one = for_one.step(1e-2, one, grads);
            let grads = place.backward(loss(&two, place.batch(step)), &two)?;
            two = for_two.step(1e-2, two, grads);
        }
        place.note(&one)?;
        place.note(&two)
    });
}

#[test]
fn a_loss_through_two_models_trains_only_the_given_one() {
    let (one, two) = (mlp(), mlp());
    same_everywhere(|place| {
        let (mut one, two) = (place.shard(&one)?, place.shard(&two)?);
        let mut adamw = place.adamw(&one)?;
        for step in 0..3 {
            let x = place.batch(step);
            let distance = square(one.forward(x.clone()) - two.forward(x));
            let grads = place.backward(distance, &one)?;
            one = adamw.step(1e-2, one, grads);
        }
        place.note(&one)?;
        place.note(&two)
    });
}

#[test]
fn a_model_trains_on_another_thread() {
    let model = mlp();
    same_everywhere(|place| {
        let mut model = place.shard(&model)?;
        let mut adamw = place.adamw(&model)?;
        for step in 0..3 {
            let x = place.batch(step);
            let there = std::thread::scope(|scope| {
                let forward = scope.spawn(|| {
                    let loss = loss(&model, x);
                    (oracle::scalar(&loss), loss)
                });
                forward.join().unwrap()
            });
            let grads = place.backward(there.1, &model)?;
            model = adamw.step(1e-2, model, grads);
        }
        place.note(&model)
    });
}

#[test]
fn a_frozen_unit_is_not_stepped_but_passes_gradients() {
    let mut model = mlp();
    model.blocks[1] = model.blocks[1].clone().freeze();
    trains_without("blocks.1", model, loss);
}

#[test]
fn half_of_a_unit_is_frozen() {
    let mut model = mlp();
    for block in &mut model.blocks {
        block.weight = block.weight.clone().set_require_grad(false);
    }
    trains_without("blocks.0.weight", model, loss);
}

#[test]
fn everything_but_the_head_is_frozen() {
    let mut model = mlp().freeze();
    model.last = model.last.unfreeze();
    trains_without("blocks", model, loss);
}

#[test]
fn parameters_are_frozen_and_unfrozen_after_sharding() {
    let mut model = mlp();
    model.blocks[0] = model.blocks[0].clone().freeze();
    same_everywhere(|place| {
        let mut model = place.shard(&model)?;
        let mut adamw = place.adamw(&model)?;
        for step in 0..4 {
            model.blocks[step % 3] = model.blocks[step % 3].clone().unfreeze();
            let next = (step + 1) % 3;
            model.blocks[next] = model.blocks[next].clone().freeze();
            let grads = place.backward(loss(&model, place.batch(step)), &model)?;
            model = adamw.step(1e-2, model, grads);
        }
        place.note(&model)
    });
}
