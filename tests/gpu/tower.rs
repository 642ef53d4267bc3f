//! A stress test of device memory: no buffer is reused before its last reader is done.
//!
//! Units are gathered and resharded while slow kernels are still to run, and meanwhile buffers of the units'
//! sizes are allocated, filled with NaN and freed. A gather that begins too early, or memory that is reused
//! too early, shows as a NaN or a wrong number.

use crate::oracle;
use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::optim::GradientsParams;
use burn::tensor::activation::relu;
use burn::tensor::{DType, Device, Tensor};
use burn_dist::{Destination, Result, Strategy, World, unit};

const WIDTH: usize = 32;
const BLOCKS: usize = 10;

/// A chain of slow units.
#[derive(Module, Debug)]
pub struct Tower {
    blocks: Vec<Linear>,
}

impl Tower {
    pub fn new(device: &Device) -> Self {
        let linear = |_| LinearConfig::new(WIDTH, WIDTH).init(device);
        oracle::undrawn(Self {
            blocks: (0..BLOCKS).map(linear).collect(),
        })
    }

    fn loss(&self, x: Tensor<2>, step: usize) -> Tensor<1> {
        let y = unit(self, x, move |tower: &Self, mut x: Tensor<2>| {
            for (at, block) in tower.blocks.iter().enumerate() {
                x = unit(block, x, move |block: &Linear, x: Tensor<2>| {
                    let x = x + delay(&block.weight.val().device(), 128, (at * 7 + step) % 3);
                    poison(&x.device(), at + step);
                    let y = x.clone() + relu(block.forward(x));
                    poison(&y.device(), at);
                    y * 0.7
                });
            }
            x
        });
        y.powi_scalar(2).mean()
    }
}

/// Zero, after some work with square matrices.
pub fn delay(device: &Device, side: usize, rounds: usize) -> Tensor<2> {
    let device = device.clone().inner();
    let mut x = Tensor::<2>::ones([side, side], &device);
    for _ in 0..rounds {
        x = x.clone().matmul(x) * (1.0 / side as f64);
    }
    let zero = x.slice([0..1, 0..1]) * 0.0;
    Tensor::from_inner(zero)
}

/// Allocates buffers of the units' sizes, fills them with NaN and frees them.
fn poison(device: &Device, at: usize) {
    let device = device.clone().inner();
    let len = [WIDTH * WIDTH + WIDTH, WIDTH * WIDTH / 2, WIDTH, 1][at % 4];
    let _ = Tensor::<1>::full([len], f32::NAN, &device) * 2.0;
}

/// Trains the tower, which is the same on all ranks, under strategies that gather and reduce in
/// different ways; panics if a gradient is not that of the plain tower on this rank's device.
pub fn stays_right(world: &World, whole: &Tower) -> Result<()> {
    let device = world.device();
    let data = |step| oracle::batch(12, WIDTH, step);
    let plain = whole.clone().fork(&device);
    let gradients = |step| {
        let x = oracle::tensor(&data(step), DType::F32, &device);
        let grads = GradientsParams::from_grads(plain.loss(x, step).backward(), &plain);
        oracle::values(&oracle::holding(&plain, &grads))
    };
    let expected: Vec<_> = (0..4).map(gradients).collect();
    let fsdp = Strategy::fsdp();
    for strategy in [fsdp.clone(), fsdp.recompute(true), Strategy::zero2()] {
        let model = whole.clone().fork(&device);
        let model = strategy.clone().shard(model, world)?;
        for step in 0..6 {
            let mine = oracle::rows(&data(step % 4), world.rank(), world.size());
            let x = oracle::tensor(&mine, DType::F32, &device);
            let loss = world.run(|| model.loss(x, step % 4))?;
            let grads = world.backward(loss, &model)?.into_params();
            let held = oracle::holding(&model, &grads);
            let full = world.full(&held, Destination::All)?;
            let full = full.as_ref().map(oracle::values).unwrap_or_default();
            let what = format!("{strategy}, step {step}");
            oracle::close(&what, &full, &expected[step % 4], 1e-4);
        }
    }
    Ok(())
}
