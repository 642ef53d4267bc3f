//! Which parameters make a unit, and how a model may run it.
//!
//! As in `passes.rs`, each test is one program that must leave the same everywhere.

use crate::oracle;
use crate::oracle::place::{same_everywhere, same_under};
use crate::oracle::{Mlp, cast, values};
use burn::module::{Module, Param};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::activation::gelu;
use burn::tensor::{Device, FloatDType, Tensor};
use burn_dist::{Destination, Strategy, World, unit};

fn device() -> Device {
    Device::flex().autodiff()
}

fn double<M: Module>(model: M) -> M {
    cast(model, FloatDType::F64)
}

fn dense(inputs: usize, outputs: usize) -> Linear {
    LinearConfig::new(inputs, outputs).init(&device())
}

fn square(x: Tensor<2>) -> Tensor<1> {
    x.powi_scalar(2).mean()
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
    let model = double(Mlp::new(3, &device()));
    same_everywhere(|place| place.train(&model, 3, twice).map(|_| ()));
}

/// One table for embeddings and decoder.
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

#[test]
fn a_parameter_is_read_in_the_thread_of_its_unit() {
    let run = |world: World| {
        let model = Strategy::fsdp().shard(Mlp::new(1, &world.device()), &world)?;
        let x = Tensor::<2>::ones([2, 15], &world.device());
        let elsewhere = || {
            unit(&model.blocks[0], x.clone(), |block: &Linear, x| {
                let weight = block.weight.clone();
                let read = std::thread::spawn(move || weight.val()).join();
                let weight = read.unwrap_or_else(|error| std::panic::resume_unwind(error));
                x.matmul(weight)
            })
        };
        let refused = world.run(elsewhere).map(|_| ());
        // The model still works.
        let here = unit(&model.blocks[0], x.clone(), |b: &Linear, x| b.forward(x));
        Ok((refused, here.dims()))
    };
    for (refused, dims) in oracle::ranks(2).run(run).unwrap() {
        let error = refused.unwrap_err().to_string();
        assert!(error.starts_with("blocks.0.weight"), "{error}");
        assert!(error.contains("on another thread"), "{error}");
        assert_eq!(dims, [2, 15]);
    }
}

#[test]
fn full_gathers_a_part_of_a_unit_alone() {
    let run = |world: World| {
        let model =
            Strategy::fsdp().shard(oracle::undrawn(Mlp::new(1, &world.device())), &world)?;
        let all = world.full(&model, Destination::All)?;
        let last = world.full(&model.last, Destination::All)?;
        Ok(all
            .zip(last)
            .map(|(all, last)| (values(&all.last), values(&last))))
    };
    for size in 1..=3 {
        for found in oracle::ranks(size).run(run).unwrap() {
            let (expected, found) = found.unwrap();
            assert_eq!(found, expected, "world {size}");
        }
    }
}
