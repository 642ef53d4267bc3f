//! Isolation of a model's passes from other random numbers, other collectives, other copies of the model, and
//! other numbers of passes.

use crate::alone;
use crate::oracle;
use crate::oracle::{ranks, scalar, values};
use burn::module::{Module, ModuleMapper, Param};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Distribution, Tensor};
use burn_dist::comm::{Reduce, SpanMut};
use burn_dist::{Error, Result, Strategy, World, unit};

#[derive(Module, Debug)]
struct Stack {
    first: Linear,
    blocks: Vec<Linear>,
}

impl Stack {
    fn new(device: &Device) -> Self {
        let dense = || LinearConfig::new(6, 6).init(device);
        Self {
            first: dense(),
            blocks: (0..3).map(|_| dense()).collect(),
        }
    }

    /// Runs only the first `depth` blocks, then whatever `inside` does with the result.
    fn forward(&self, x: Tensor<2>, depth: usize) -> Tensor<2> {
        unit(self, x, move |stack: &Stack, x| {
            let mut x = stack.first.forward(x);
            for block in &stack.blocks[..depth] {
                x = unit(block, x, |block: &Linear, x| block.forward(x));
            }
            x
        })
    }
}

fn input(world: &World) -> Tensor<2> {
    Tensor::ones([2, 6], &world.device())
}

#[test]
fn random_numbers_drawn_after_shard_do_not_reach_other_ranks_parameters() {
    let _alone = alone();
    // Wide enough that one rank draws while another one still initialises.
    let wide = |device: &Device| {
        let dense = |_| LinearConfig::new(200, 200).init(device);
        (0..8).map(dense).collect::<Vec<Linear>>()
    };
    let run = |world: World| {
        let model = Strategy::fsdp().shard(wide(&world.device()), &world)?;
        for _ in 0..500 {
            let _ = Tensor::<1>::random([64], Distribution::Default, &Device::flex());
        }
        let full = world.full(&model, burn_dist::Destination::All)?;
        Ok(full.map(|full| values(&full)))
    };
    // A single rank cannot disturb others.
    let expected = ranks(1).seed(3).run(run).unwrap().remove(0);
    for found in ranks(3).seed(3).run(run).unwrap() {
        assert!(found == expected);
    }
}

#[test]
fn an_unused_gather_does_not_disturb_the_next_collective() {
    let _alone = alone();
    let run = |world: World| {
        let model = Strategy::fsdp().shard(Stack::new(&world.device()), &world)?;
        for _ in 0..200 {
            // The third block is gathered ahead and not reached.
            let _ = model.forward(input(&world), 2);
            let mut sum = [1.0];
            world
                .comm()
                .all_reduce(&"own".into(), Reduce::Sum, SpanMut::of(&mut sum))?;
            assert_eq!(sum, [2.0]);
        }
        Ok(())
    };
    ranks(2).run(run).unwrap();
}

/// The same model with every element multiplied.
fn scaled<M: Module>(model: &M, by: f64) -> M {
    struct Scale(f64);
    impl ModuleMapper for Scale {
        fn map_float<const D: usize>(&mut self, p: Param<Tensor<D>>) -> Param<Tensor<D>> {
            p.map(|t| Tensor::from_inner(t.inner() * self.0).require_grad())
        }
    }
    model.clone().map(&mut Scale(by))
}

#[test]
fn a_clone_inside_a_forward_reads_its_own_parameters() {
    let _alone = alone();
    let run = |world: World| {
        let student = Strategy::fsdp().shard(Stack::new(&world.device()), &world)?;
        let teacher = scaled(&student, 0.5);
        let alone = teacher.forward(input(&world), 3);
        let inner = teacher.clone();
        let inside = unit(&student, input(&world), move |_: &Stack, x| {
            inner.forward(x, 3)
        });
        assert_eq!(alone.into_data(), inside.into_data());
        Ok(())
    };
    ranks(2).run(run).unwrap();
}

#[test]
fn different_numbers_of_accumulated_passes_are_an_error() {
    let _alone = alone();
    for strategy in [Strategy::ddp(), Strategy::zero1()] {
        let run = |world: World| -> Result<()> {
            let model = strategy
                .clone()
                .shard(Stack::new(&world.device()), &world)?;
            let mut step = world.accumulate(&model)?;
            // Parameters stay gathered, so that the forwards alone do not tell.
            for _ in 0..world.rank() + 1 {
                step.add(model.forward(input(&world), 3).mean())?;
            }
            step.finish().map(drop)
        };
        let found = ranks(2).run(run).unwrap_err();
        assert!(
            matches!(found, Error::Mismatch { .. }),
            "{strategy}: {found}"
        );
        assert!(found.to_string().contains("passes"), "{found}");
    }
}

#[test]
fn a_program_may_communicate_between_accumulated_passes() {
    let _alone = alone();
    for strategy in oracle::strategies(2) {
        let run = |world: World| {
            let model = strategy
                .clone()
                .shard(Stack::new(&world.device()), &world)?;
            let mut step = world.accumulate(&model)?;
            for _ in 0..20 {
                let loss = model.forward(input(&world), 3).mean();
                let mut mean = [scalar(&loss)];
                step.add(loss)?;
                world
                    .comm()
                    .all_reduce(&"loss".into(), Reduce::Mean, SpanMut::of(&mut mean))?;
            }
            step.finish().map(drop)
        };
        ranks(2)
            .run(run)
            .unwrap_or_else(|e| panic!("{strategy}: {e}"));
    }
}

#[test]
fn a_pattern_that_matches_nothing_is_refused() {
    let _alone = alone();
    let model = Stack::new(&Device::flex());
    let found = Strategy::fsdp()
        .units(["block.*"])
        .plan(&model, 2)
        .unwrap_err();
    assert!(found.to_string().contains("block.*"), "{found}");
}
