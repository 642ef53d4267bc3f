//! Detection of replicas that have diverged: every so many steps, and on request.

use crate::alone;
use crate::oracle;
use crate::oracle::{Mlp, batch, ranks, rows, tensor};
use burn::module::{Module, ModuleMapper, Param};
use burn::optim::{ModuleOptimizer, SgdConfig};
use burn::tensor::{DType, Tensor};
use burn_dist::{Error, Result, Strategy, World};

/// A step with this rank's own learning rate.
fn step(world: &World, model: Mlp, optimizer: &mut ModuleOptimizer, rate: f64) -> Result<Mlp> {
    let x = rows(&batch(12, 7, 0), world.rank(), world.size());
    let x = tensor(&x, DType::F32, &world.device());
    let loss = model.forward(x).powi_scalar(2).mean();
    let gradients = world.backward(loss, &model)?.into_params();
    Ok(optimizer.step(rate, model, gradients))
}

/// Steps with a rate that differs on one rank, until there is an error: the number of steps, and the
/// error.
fn diverged(world: &World, strategy: Strategy, odd: usize) -> Result<(usize, Option<Error>)> {
    let mut model = strategy.shard(Mlp::new(3, &world.device()), world)?;
    let mut sgd = world.optimizer(SgdConfig::new().init(), &model)?;
    let rate = if world.rank() == odd { 0.2 } else { 0.1 };
    for steps in 0..10 {
        match step(world, model, &mut sgd, rate) {
            Ok(stepped) => model = stepped,
            Err(error) => return Ok((steps, Some(error))),
        }
    }
    Ok((10, None))
}

#[test]
fn a_different_learning_rate_on_one_rank_is_found() {
    let _alone = alone();
    let cases = [
        (2, Strategy::ddp(), vec![0], vec![1]),
        (3, Strategy::ddp(), vec![0, 2], vec![1]),
        // Rank 1 shares its part with rank 3.
        (4, Strategy::hybrid(2), vec![1], vec![3]),
        (4, Strategy::hybrid(1), vec![0, 2, 3], vec![1]),
    ];
    for (size, strategy, same, others) in cases {
        let strategy = strategy.check_replicas_every(3);
        let odd = if same == [1] { 3 } else { 1 };
        let found = ranks(size).run(|world| diverged(&world, strategy.clone(), odd));
        for (steps, error) in found.unwrap() {
            let Some(Error::Replicas {
                parameter,
                ranks,
                others: diverged,
            }) = error
            else {
                panic!("{strategy}: {error:?}");
            };
            // The third gradient is computed with what two steps have left.
            assert_eq!(steps, 2, "{strategy}");
            assert_eq!(
                (ranks, diverged),
                (same.clone(), others.clone()),
                "{strategy}"
            );
            assert_eq!(parameter, "first.weight", "{strategy}");
        }
    }
}

#[test]
fn shards_are_not_compared() {
    let _alone = alone();
    for strategy in [Strategy::zero1(), Strategy::zero2(), Strategy::fsdp()] {
        let strategy = strategy.check_replicas_every(1);
        let found = ranks(3).run(|world| diverged(&world, strategy.clone(), 1));
        assert!(found.unwrap().iter().all(|(_, error)| error.is_none()));
    }
    let never = Strategy::ddp().check_replicas_every(0);
    let found = ranks(2).run(|world| diverged(&world, never.clone(), 1));
    assert!(found.unwrap().iter().all(|(_, error)| error.is_none()));
}

#[test]
fn replicated_parameters_are_compared_under_fsdp() {
    let _alone = alone();
    let strategy = Strategy::fsdp().replicate(["last"]).check_replicas_every(3);
    let found = ranks(3).run(|world| diverged(&world, strategy.clone(), 2));
    for (_, error) in found.unwrap() {
        let Some(Error::Replicas { parameter, .. }) = error else {
            panic!("{error:?}");
        };
        assert_eq!(parameter, "last.weight");
    }
}

#[test]
fn equal_replicas_are_equal_after_many_steps() {
    let _alone = alone();
    for size in [2, 3, 4] {
        for strategy in oracle::strategies(size) {
            let run = |world: World| -> Result<()> {
                let every = strategy.clone().check_replicas_every(1);
                let mut model = every.shard(Mlp::new(3, &world.device()), &world)?;
                let mut sgd = world.optimizer(SgdConfig::new().init(), &model)?;
                for _ in 0..5 {
                    model = step(&world, model, &mut sgd, 0.1)?;
                }
                world.check_replicas(&model)?;
                // A copy of another value on one rank is noticed when asked.
                if world.rank() == 0 {
                    model = model.map(&mut Perturb);
                }
                // Rank 0 shares what it stores under ddp, and in all groups but one of all ranks.
                let plan = strategy.plan(&Mlp::new(3, &world.device()), size)?;
                let is_shared = plan.shard_group_size() < size;
                assert_eq!(
                    world.check_replicas(&model).is_err(),
                    is_shared,
                    "{strategy}"
                );
                Ok(())
            };
            ranks(size).run(run).unwrap();
        }
    }
}

/// Adds the smallest number that changes anything.
struct Perturb;

impl ModuleMapper for Perturb {
    fn map_float<const D: usize>(&mut self, p: Param<Tensor<D>>) -> Param<Tensor<D>> {
        p.map(|t| Tensor::from_inner(t.inner() * (1.0 + f64::from(f32::EPSILON))).require_grad())
    }
}
