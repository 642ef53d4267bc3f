//! What programs do with a model besides one forward, one backward, one step.
//!
//! Each test is one program. It runs on a plain device and on every rank, under every strategy,
//! and must leave the same losses, gradients and parameters.

mod oracle;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::activation::gelu;
use burn::tensor::{Device, FloatDType, Tensor};
use burn_dist::{Strategy, unit};
use oracle::place::{Place, same_everywhere, same_under};
use oracle::{Mlp, cast};
use std::collections::HashMap;

fn device() -> Device {
    Device::flex().autodiff()
}

fn double<M: Module>(model: M) -> M {
    cast(model, FloatDType::F64)
}

fn dense(inputs: usize, outputs: usize) -> Linear {
    LinearConfig::new(inputs, outputs).init(&device())
}

fn mlp() -> Mlp {
    double(Mlp::new(3, &device()))
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
fn what_the_loss_does_not_reach_is_not_stepped() {
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
fn a_unit_runs_twice() {
    let twice = |model: &Mlp, x| {
        square(unit(model, x, |mlp: &Mlp, x| {
            let mut x = gelu(mlp.first.forward(x));
            for block in mlp.blocks.iter().chain(mlp.blocks.iter().rev()) {
                x = unit(block, x, |b: &Linear, x| x.clone() + gelu(b.forward(x)));
            }
            mlp.last.forward(x) * mlp.scale.val().unsqueeze()
        }))
    };
    let model = mlp();
    same_everywhere(|place| place.train(&model, 3, twice).map(|_| ()));
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
fn a_forward_that_one_rank_keeps_alive_changes_nothing_for_the_others() {
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
fn a_loss_through_two_models_trains_the_one_that_is_asked_for() {
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
fn a_frozen_unit_stays_and_lets_gradients_through() {
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
fn freezing_and_thawing_come_after_sharding() {
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

/// One table, read where words enter and where they leave.
#[derive(Module, Debug)]
struct Tied {
    table: Param<Tensor<2>>,
    blocks: Vec<Linear>,
}

impl Tied {
    fn new() -> Self {
        double(Self {
            table: dense(7, 15).weight,
            blocks: vec![dense(15, 15), dense(15, 15)],
        })
    }

    fn loss(&self, x: Tensor<2>) -> Tensor<1> {
        square(unit(self, x, |tied: &Self, x| {
            let mut x = x.matmul(tied.table.val());
            for block in &tied.blocks {
                let table = tied.clone();
                // Also from within a unit that it does not belong to.
                x = unit(block, x, move |block: &Linear, x| {
                    gelu(block.forward(x)) * table.table.val().sum_dim(0)
                });
            }
            x.matmul(tied.table.val().transpose())
        }))
    }
}

#[test]
fn a_tied_parameter_is_read_across_units() {
    let model = Tied::new();
    same_everywhere(|place| place.train(&model, 3, Tied::loss).map(|_| ()));
}

/// A block of blocks, and units with many inputs.
#[derive(Module, Debug)]
struct Tree {
    enter: Linear,
    stages: Vec<Stage>,
    mix: Linear,
}

#[derive(Module, Debug)]
struct Stage {
    gate: Linear,
    blocks: Vec<Linear>,
}

type Many = (Tensor<2>, Option<Tensor<2>>, Vec<Tensor<2>>);

impl Tree {
    fn new() -> Self {
        let stage = || Stage {
            gate: dense(9, 9),
            blocks: vec![dense(9, 9), dense(9, 9)],
        };
        double(Self {
            enter: dense(7, 9),
            stages: vec![stage(), stage()],
            mix: dense(9, 5),
        })
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        unit(self, x, |tree: &Self, x| {
            let x = gelu(tree.enter.forward(x));
            let mut many: Many = (x.clone(), None, vec![x.clone() * 2.0, x]);
            for stage in &tree.stages {
                many = unit(stage, many, Stage::forward);
            }
            let (x, skip, rest) = many;
            let rest = rest.into_iter().fold(x, |sum, x| sum + x);
            tree.mix.forward(match skip {
                Some(skip) => rest + skip,
                None => rest,
            })
        })
    }
}

impl Stage {
    fn forward(&self, (x, skip, rest): Many) -> Many {
        let gate = gelu(self.gate.forward(x.clone()));
        let mut out = Vec::new();
        for (block, x) in self.blocks.iter().zip(rest) {
            let inputs = (x, gate.clone(), skip.clone());
            out.push(unit(block, inputs, |block: &Linear, (x, gate, skip)| {
                let x = block.forward(x) * gate;
                skip.map_or(x.clone(), |skip: Tensor<2>| x + skip)
            }));
        }
        (gate, Some(x), out)
    }
}

#[test]
fn units_nest_and_take_many_inputs() {
    let model = Tree::new();
    let loss = |tree: &Tree, x| square(tree.forward(x));
    same_everywhere(|place| place.train(&model, 3, loss).map(|_| ()));
}

#[test]
fn patterns_choose_the_units() {
    let model = Tree::new();
    let loss = |tree: &Tree, x| square(tree.forward(x));
    let choices: [&[&str]; 4] = [
        &[],
        &["stages.*"],
        &["enter", "stages.*.gate", "mix"],
        &["stages.0.blocks.1"],
    ];
    for patterns in choices {
        let strategies = |size| {
            let chosen = |s: Strategy| s.units(patterns.iter().copied());
            oracle::strategies(size).into_iter().map(chosen).collect()
        };
        same_under(strategies, |place| place.train(&model, 2, loss).map(|_| ()));
    }
}

#[test]
fn patterns_name_the_units() {
    let plan = Strategy::fsdp()
        .units(["stages.*"])
        .plan(&Tree::new(), 2)
        .unwrap();
    let names: Vec<_> = plan.units().iter().map(|u| u.name.to_string()).collect();
    assert_eq!(names, ["root", "stages.0", "stages.1"]);
}

/// A model that marks no unit at all.
#[derive(Module, Debug)]
struct Unmarked {
    layers: Vec<Linear>,
}

#[test]
fn a_model_without_units_trains() {
    let model = double(Unmarked {
        layers: vec![dense(7, 15), dense(15, 1), dense(1, 4)],
    });
    let loss = |model: &Unmarked, x| {
        square(
            model
                .layers
                .iter()
                .fold(x, |x, layer| gelu(layer.forward(x))),
        )
    };
    same_everywhere(|place| place.train(&model, 3, loss).map(|_| ()));
}
