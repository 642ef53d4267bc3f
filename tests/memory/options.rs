//! The peak of a step of three micro-batches with each option of a strategy, against its plan.

use super::{COUNTING, EVEN, Size, input, peak, scratch};
use crate::oracle::ranks;
use burn::tensor::Device;
use burn_dist::{Strategy, World};
use std::sync::{Barrier, PoisonError};

const MICRO_BATCHES: usize = 3;
const SIZE: Size = Size {
    width: 256,
    inner: 512,
    root: 512,
    ..EVEN
};

/// Bytes per rank above the sharded model: at the worst moment, when the last backward is over, and after the step.
fn measure(strategy: &Strategy, size: usize) -> (usize, usize, usize) {
    let _one = COUNTING.lock().unwrap_or_else(PoisonError::into_inner);
    let all = Barrier::new(size);
    let run = |world: World| {
        let device = world.device();
        let kernels = scratch(SIZE, &world, &all);
        let strategy = strategy.clone().check_units(false);
        let model = strategy.shard(SIZE.init(&device), &world)?;
        let mut found = (0, 0, 0);
        // Kernels keep some memory for each thread, so the first steps do not count.
        for _ in 0..3 {
            let ((), start) = peak(&world, &all, || ());
            let above = |bytes: usize| bytes.saturating_sub(start) / size;
            let step = || {
                let mut sums = world.accumulate(&model)?.micro_batches(MICRO_BATCHES);
                for _ in 0..MICRO_BATCHES {
                    sums.add(model.loss(input(SIZE, &device)))?;
                }
                burn_dist::Result::Ok(sums)
            };
            let (sums, worst) = peak(&world, &all, step);
            let sums = sums?;
            let ((), held) = peak(&world, &all, || ());
            drop(sums.finish()?);
            let ((), after) = peak(&world, &all, || ());
            found = (
                above(worst).saturating_sub(kernels),
                above(held),
                above(after),
            );
        }
        Ok(found)
    };
    ranks(size).run(run).unwrap()[0]
}

#[test]
fn the_peak_of_every_option_is_the_planned_one() {
    let fsdp = Strategy::fsdp;
    let options = [
        fsdp(),
        fsdp().no_sync(true),
        fsdp().reshard_after_backward(false),
        fsdp().reshard_after_backward(false).no_sync(true),
        fsdp().reshard_after_forward(1),
        fsdp().reshard_after_forward(2),
        fsdp().persistence_threshold(512),
        fsdp().quantized_gathers(256),
        fsdp().quantized_gathers(256).reshard_after_forward(2),
        fsdp().absent(["blocks.*"]),
        Strategy::zero2(),
    ];
    for size in [2, 4] {
        for strategy in &options {
            let device = Device::flex().autodiff();
            let plan = strategy.plan(&SIZE.init(&device), size).unwrap();
            let memory = plan.for_micro_batches(MICRO_BATCHES).memory();
            let planned = memory.gradients + memory.transient;
            let (worst, held, after) = measure(strategy, size);
            let what = format!("{strategy} at world {size}");
            let percent = 100.0 * worst as f64 / planned as f64;
            println!(
                "{what}: {worst} of {planned} bytes, {percent:.1} %, then {held}, then {after}"
            );
            assert!((60.0..110.0).contains(&percent), "{what}: {percent:.1} %");
            // Gathered units are let go in the last backward, but for those that stay until the step.
            let is_kept = *strategy == Strategy::zero2();
            let shards = memory.parameters;
            assert_eq!(held > shards + shards / 4, is_kept, "{what}: {held}");
            assert!(after < shards / 10, "{what}: {after}");
        }
    }
}
