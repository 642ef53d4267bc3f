//! Gradients that are not finite: an error on every rank that names the first parameter, before the optimizer
//! steps.

use crate::oracle;
use crate::oracle::{Mlp, ranks, values};
use burn::nn::Linear;
use burn::tensor::activation::gelu;
use burn::tensor::{DType, FloatDType, Tensor};
use burn_dist::{Error, GradScaler, Precision, Strategy, World, unit};

fn mlp(world: &World) -> Mlp {
    oracle::cast(Mlp::new(6, &world.device()), FloatDType::F64)
}

fn input(world: &World, step: usize) -> Tensor<2> {
    let rows = oracle::rows(&oracle::batch(12, 7, step), world.rank(), world.size());
    oracle::tensor(&rows, DType::F64, &world.device())
}

fn loss(world: &World, model: &Mlp) -> Tensor<1> {
    model.forward(input(world, 0)).powi_scalar(2).mean()
}

/// The loss of a model whose fourth block has a bias with an infinite derivative.
fn infinite(world: &World, model: &Mlp) -> Tensor<1> {
    let x = unit(model, input(world, 0), |mlp: &Mlp, x| {
        let mut x = gelu(mlp.first.forward(x));
        for (at, block) in mlp.blocks.iter().enumerate() {
            x = unit(block, x, move |block: &Linear, x| {
                let y = x.clone() + gelu(block.forward(x));
                match &block.bias {
                    // The root of zero is zero, and its derivative is not finite.
                    Some(bias) if at == 3 => y + (bias.val() * 0.0).sqrt().unsqueeze(),
                    _ => y,
                }
            });
        }
        mlp.last.forward(x) * mlp.scale.val().unsqueeze()
    });
    x.powi_scalar(2).mean()
}

#[test]
fn gradients_that_are_not_finite_stop_every_rank() {
    for strategy in [Strategy::ddp(), Strategy::zero1(), Strategy::fsdp()] {
        let found = ranks(3).run(|world| {
            let model = strategy.clone().shard(mlp(&world), &world)?;
            let full = |model: &Mlp| world.full(model, burn_dist::Destination::All);
            let before = full(&model)?;
            let mut loss = loss(&world, &model);
            if world.rank() == 1 {
                loss = loss * f64::NAN;
            }
            let clipped = world.backward(loss, &model)?.clip_norm(1.0).map(|c| c.norm);
            // The world goes on: this step is skipped.
            let after = full(&model)?;
            let same = before.map(|m| values(&m)) == after.map(|m| values(&m));
            Ok((clipped, same))
        });
        for (clipped, same) in found.unwrap() {
            let Err(Error::NotFinite { place, loss, .. }) = clipped else {
                panic!("{strategy}: {clipped:?}");
            };
            assert!(
                place.starts_with("first in parameter first.weight of unit root"),
                "{place}"
            );
            assert!(place.ends_with("rank 0 stores"), "{place}");
            assert_eq!(loss, "the loss of rank 1 was not finite already");
            assert!(same, "{strategy}: the model changed");
        }
    }
}

#[test]
fn the_first_parameter_that_is_not_finite_is_named() {
    for strategy in oracle::strategies(3) {
        let found = ranks(3).run(|world| {
            let model = strategy.clone().shard(mlp(&world), &world)?;
            let loss = infinite(&world, &model);
            world.backward(loss, &model)?.norm().map(drop)
        });
        let found = found.unwrap_err().to_string();
        assert!(
            found.contains("first in parameter blocks.3.bias"),
            "{strategy}: {found}"
        );
        assert!(
            found.contains("the losses of all ranks were finite"),
            "{found}"
        );
    }
}

/// Runs steps that overflow on rank 1, whatever the scale, until there is an error.
fn overflowing(scaler: GradScaler) -> Vec<(Error, u64)> {
    let run = |world: World| {
        let strategy = Strategy::fsdp().precision(Precision::f16());
        let model = strategy.shard(mlp(&world), &world)?;
        let mut scaler = scaler.clone();
        for _ in 0..100 {
            let loss = loss(&world, &model);
            let loss = if world.rank() == 1 {
                loss * f64::NAN
            } else {
                loss
            };
            let grads = world.backward(scaler.scale(loss), &model)?;
            if let Err(error) = scaler.unscale(grads) {
                return Ok((error, scaler.skipped()));
            }
        }
        panic!("100 steps were skipped");
    };
    ranks(2).run(run).unwrap()
}

#[test]
fn a_loss_scale_that_keeps_falling_is_an_error() {
    for (scaler, scale, skips) in [
        (GradScaler::new(), 1.0, 17),
        (GradScaler::new().at_least(256.0), 256.0, 9),
        (
            GradScaler::new().at_least(0.0),
            65536.0 * 0.5f64.powi(50),
            51,
        ),
        (GradScaler::new().skipping_at_most(3), 8192.0, 4),
    ] {
        for (error, skipped) in overflowing(scaler) {
            let Error::LossScale {
                scale: last,
                skips: row,
                loss,
                place,
            } = error
            else {
                panic!("{error}");
            };
            assert_eq!((last, row, skipped), (scale, skips, u64::from(skips)));
            assert!(loss.contains("rank 1"), "{loss}");
            assert!(place.contains("first in parameter"), "{place}");
        }
    }
}
