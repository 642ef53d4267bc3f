//! Shadow runs: a deviation is found and named, and nothing is found where there is none.

use crate::alone;
use crate::oracle;
use crate::oracle::ranks;
use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{DType, Device, Int, Tensor};
use burn_dist::nn::loss::cross_entropy_sum;
use burn_dist::{Error, Precision, Result, Shadow, Shadowed, Strategy, World, unit};
use burn_dist_models::VitConfig;

/// Compares one step of a small transformer with dropout, in two micro-batches.
fn vit(world: &World, strategy: Strategy, shadow: Shadow) -> Result<Shadowed> {
    let config = VitConfig::tiny(10).with_blocks(3).with_dropout(0.1);
    let model = strategy.shard(config.init(&world.device()).unwrap(), world)?;
    world.shadow(&model, shadow, 2, |model, call| {
        let pixels = oracle::batch(2, 3 * 32 * 32, world.rank() + 5 * call);
        let pixels: Tensor<2> = oracle::tensor(&pixels, DType::F32, &world.device());
        let labels = Tensor::<1, Int>::from_data([1, 7], &world.device());
        let logits = model.forward(pixels.reshape([2, 3, 32, 32]));
        (cross_entropy_sum(logits, labels, None), 2)
    })
}

#[test]
fn a_sharded_model_follows_one_plain_device() {
    let _alone = alone();
    for size in 1..=3 {
        for strategy in oracle::strategies(size) {
            for recompute in [false, true] {
                let strategy = strategy.clone().recompute(recompute);
                let run = |world: World| vit(&world, strategy.clone(), Shadow::within(1e-5));
                let compared = ranks(size).run(run).unwrap();
                // Three blocks and the root, twice.
                assert!(compared.iter().all(|c| c.units == 8), "{compared:?}");
            }
        }
    }
}

#[test]
fn half_precision_deviates_only_by_its_rounding() {
    let _alone = alone();
    for (precision, bound) in [(Precision::bf16(), 0.1), (Precision::f16(), 0.02)] {
        let strategy = Strategy::fsdp().precision(precision);
        let within = |tolerance: f64| {
            let shadow = Shadow::within(tolerance).loss_scale(1024.0);
            ranks(2).run(|world| vit(&world, strategy.clone(), shadow))
        };
        let compared = within(bound).unwrap();
        assert!(compared[0].worst > 1e-4, "{precision}: {compared:?}");
        let error = within(1e-5).unwrap_err();
        assert!(matches!(&error, Error::Deviation { phase, .. } if phase == "forward"));
    }
}

/// A fault of a block whose weight is stored as a shard.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// The block computes with the stored shape.
    Forward,
    /// The block passes no gradient on.
    Backward,
    /// The block's weight gets a gradient that it should not.
    Weight,
}

#[test]
fn an_overflow_in_f16_is_no_deviation() {
    let _alone = alone();
    let strategy = Strategy::fsdp().precision(Precision::f16());
    let shadow = Shadow::within(0.03).loss_scale(1e7);
    let compared = ranks(2).run(|world| vit(&world, strategy.clone(), shadow));
    assert!(compared.unwrap()[0].worst > 1e-4);
}

#[derive(Module, Debug)]
struct Net {
    blocks: Vec<Linear>,
}

impl Net {
    fn new(device: &Device) -> Self {
        let linear = |_: usize| LinearConfig::new(6, 6).init(device);
        Self {
            blocks: (0..4).map(linear).collect(),
        }
    }

    fn forward(&self, x: Tensor<2>, fault: Fault) -> Tensor<2> {
        unit(self, x, move |net: &Self, mut x| {
            for (number, block) in net.blocks.iter().enumerate() {
                let fault = if number == 2 { fault } else { Fault::None };
                x = unit(block, x, move |block: &Linear, x: Tensor<2>| {
                    let is_cut = block.weight.base().dims() != [6, 6];
                    let y = block.forward(x.clone());
                    match fault {
                        Fault::Forward if is_cut => y * 1.01 + x,
                        Fault::Backward if is_cut => y + x.detach(),
                        Fault::Weight if is_cut => {
                            // The value stays, the gradient of the weight grows.
                            let weight = block.weight.val();
                            let more = x.clone().detach().matmul(weight);
                            y + x + (more.clone() - more.detach())
                        }
                        _ => y + x,
                    }
                });
            }
            x
        })
    }
}

/// The errors for a fault in the third of four blocks, on every rank or on rank 1 alone.
fn errors_of(fault: Fault, everywhere: bool) -> Vec<Error> {
    let run = |world: World| {
        // The check of units would find the fault first.
        let strategy = Strategy::fsdp().check_units(false);
        let model = strategy.shard(Net::new(&world.device()), &world)?;
        let fault = if everywhere || world.rank() == 1 {
            fault
        } else {
            Fault::None
        };
        let compared = world.shadow(&model, Shadow::within(1e-4).step(7), 1, |model, _| {
            let x = oracle::batch(4, 6, world.rank());
            let x = oracle::tensor(&x, DType::F32, &world.device());
            (model.forward(x, fault).powi_scalar(2).sum(), 4)
        });
        Ok(compared.err())
    };
    ranks(2).run(run).unwrap().into_iter().flatten().collect()
}

#[test]
fn the_first_unit_that_deviates_is_named_on_every_rank() {
    let _alone = alone();
    assert!(errors_of(Fault::None, true).is_empty());
    for (fault, where_) in [
        (Fault::Forward, ("blocks.2", "forward", "output 0")),
        (
            Fault::Backward,
            ("blocks.1", "backward", "the gradient of output 0"),
        ),
        (
            Fault::Weight,
            ("blocks.2", "backward", "the gradient of blocks.2.weight"),
        ),
    ] {
        let errors = errors_of(fault, true);
        assert_eq!(errors.len(), 2, "{fault:?}");
        assert_eq!(errors[0], errors[1]);
        let Error::Deviation {
            unit,
            phase,
            what,
            step,
            rank,
            ..
        } = &errors[0]
        else {
            panic!("{errors:?}");
        };
        assert_eq!((unit.as_str(), phase.as_str(), what.as_str()), where_);
        assert_eq!((*step, *rank), (7, 0));
    }
}

#[test]
fn a_deviation_on_one_rank_is_reported_by_all() {
    let _alone = alone();
    let errors = errors_of(Fault::Forward, false);
    assert_eq!(errors.len(), 2);
    for error in errors {
        let text = error.to_string();
        assert!(
            text.contains("on rank 1 in forward") && text.contains("blocks.2"),
            "{text}"
        );
    }
}
