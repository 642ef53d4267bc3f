//! Memory of a rank between two steps, counted by the allocator and compared with the plan.
//!
//! A rank holds the shards of parameters and of AdamW's moments, and a constant that does not grow with the
//! model: the record of the latest collectives, queues, counters. This is a program of its own, because the
//! allocator counts a whole process.

mod oracle;

use burn::optim::AdamWConfig;
use burn::tensor::{DType, Device, Tensor};
use burn_dist::comm::{Reduce, SpanMut};
use burn_dist::nn::loss::cross_entropy_sum;
use burn_dist::optim::{LowBitAdamWConfig, StateType};
use burn_dist::telemetry::{Tracked, live_bytes};
use burn_dist::{Result, Strategy, World};
use burn_dist_models::VitConfig;
use oracle::ranks;
use std::alloc::System;

#[global_allocator]
static MEMORY: Tracked<System> = Tracked::new(System);

/// What a rank may hold beside the plan, whatever the size of the model.
const CONSTANT: f64 = 256.0 * 1024.0;

/// Bytes of the process, read while no rank runs.
fn read(world: &World) -> Result<f64> {
    world.comm().barrier(&"before".into())?;
    let mut live = [live_bytes() as u64];
    let all = SpanMut::of(&mut live);
    world.comm().all_reduce(&"after".into(), Reduce::Max, all)?;
    Ok(live[0] as f64)
}

fn product(device: &Device) {
    let x = Tensor::<2>::ones([256, 256], device);
    drop(x.clone().matmul(x).into_data());
}

/// What a rank holds after some steps, and what it should.
fn held(
    world: &World,
    strategy: &Strategy,
    config: &VitConfig,
    (steps, states): (usize, Option<StateType>),
) -> Result<(f64, f64)> {
    let device = world.device();
    let images = |device: &Device| -> Tensor<4> {
        let side = config.image_size;
        let pixels = oracle::batch(2 * 3 * side, side, 0);
        oracle::tensor::<2>(&pixels, DType::F32, device).reshape([2, 3, side, side])
    };
    let labels = |device: &Device| Tensor::from_data([1, 0], device);
    // Matrix products keep memory to work in for each thread that makes one, whatever the model; which threads of the
    // pool that are is up to chance, so every one makes a product.
    rayon::broadcast(|_| product(&device.clone().inner()));
    product(&device.clone().inner());
    let plain = config.init(&device).unwrap();
    let loss = cross_entropy_sum(plain.forward(images(&device)), labels(&device), None);
    drop((loss.backward(), plain));
    let start = read(world)?;
    let model = config.init(&device).unwrap();
    let plan = strategy.plan(&model, world.size())?;
    let (plan, optimizer) = match states {
        Some(states) => (
            plan.for_states(states),
            LowBitAdamWConfig::new(states).init(),
        ),
        None => (plan, AdamWConfig::new().init()),
    };
    let mut model = strategy.clone().shard(model, world)?;
    let mut optimizer = world.optimizer(optimizer, &model)?;
    for _ in 0..steps {
        let mut sums = world.accumulate(&model)?.micro_batches(2);
        for _ in 0..2 {
            let logits = model.forward(images(&device));
            sums.add_sum(cross_entropy_sum(logits, labels(&device), None), 2)?;
        }
        let clipped = sums.finish()?.clip_norm(1.0)?;
        model = optimizer.step(1e-3, model, clipped.grads);
    }
    let held = (read(world)? - start) / world.size() as f64;
    let memory = plan.memory();
    drop((model, optimizer));
    Ok((held, (memory.parameters + memory.optimizer) as f64))
}

#[test]
fn memory_between_steps_is_as_planned() {
    as_planned(&[VitConfig::tiny(10), VitConfig::cifar(10)], None);
    let few = [StateType::Bf16, StateType::Int8];
    for states in few {
        as_planned(&[VitConfig::cifar(10)], Some(states));
    }
}

fn as_planned(configs: &[VitConfig], states: Option<StateType>) {
    let mut failed = Vec::new();
    for config in configs {
        for size in [1, 2, 3] {
            for strategy in oracle::strategies(size) {
                let strategy = strategy.block_aligned(states.map_or(1, StateType::block));
                let run = |world: World| held(&world, &strategy, config, (3, states));
                let (held, planned) = ranks(size).run(run).unwrap()[0];
                let beside = held - planned;
                println!(
                    "{strategy} at world {size}, {} wide: held {held}, planned {planned}, {beside}",
                    config.width
                );
                if beside.abs() > 0.05 * planned + CONSTANT {
                    failed.push(format!("{strategy} at world {size}: {held} for {planned}"));
                }
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}
