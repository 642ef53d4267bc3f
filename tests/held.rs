//! Memory of a rank between two steps, counted by the allocator and compared with the plan.
//!
//! A rank holds the shards of parameters and of AdamW's moments, and a constant that does not grow with the
//! model: the record of the latest collectives, queues, counters. This is a program of its own, because the
//! allocator counts a whole process.

mod oracle;

use burn::optim::AdamWConfig;
use burn::tensor::quantization::{QuantScheme, QuantValue, ScaleDtype};
use burn::tensor::{DType, Device, Tensor};
use burn_dist::comm::{Reduce, SpanMut};
use burn_dist::nn::loss::cross_entropy_sum;
use burn_dist::optim::{Ema, LowBitAdamWConfig, StateType};
use burn_dist::telemetry::{Tracked, live_bytes};
use burn_dist::{LoraConfig, Result, Strategy, World};
use burn_dist_models::VitConfig;
use oracle::ranks;
use std::alloc::System;

#[global_allocator]
static MEMORY: Tracked<System> = Tracked::new(System);

/// What a rank may hold beside the plan, whatever the size of the model.
const CONSTANT: f64 = 256.0 * 1024.0;

/// And for each parameter: paths, shapes, what an optimizer finds its states by.
const OF_A_PARAMETER: f64 = 1024.0;

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

/// What there is beside a model and an f32 AdamW.
#[derive(Debug, Default)]
struct With {
    states: Option<StateType>,
    average: bool,
    lora: Option<LoraConfig>,
}

/// What a rank holds after some steps, what it should, and what it may beside that.
fn held(
    world: &World,
    strategy: &Strategy,
    config: &VitConfig,
    steps: usize,
    with: &With,
) -> Result<(f64, f64, f64)> {
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
    let (plan, optimizer) = match with.states {
        Some(states) => (
            plan.for_states(states),
            LowBitAdamWConfig::new(states).init(),
        ),
        None => (plan, AdamWConfig::new().init()),
    };
    let mut model = strategy.clone().shard(model, world)?;
    let mut optimizer = world.optimizer(optimizer, &model)?;
    let average = with.average.then(|| Ema::new(&model, 0.9)).transpose()?;
    let plan = if with.average {
        plan.for_average()
    } else {
        plan
    };
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
    drop((model, optimizer, average));
    let planned = memory.parameters + memory.optimizer + memory.average;
    let parameters: usize = plan.units().iter().map(|u| u.slots.len()).sum();
    Ok((held, planned as f64, OF_A_PARAMETER * parameters as f64))
}

#[test]
fn memory_between_steps_is_as_planned() {
    as_planned(
        &[VitConfig::tiny(10), VitConfig::cifar(10)],
        &With::default(),
    );
    for states in [StateType::Bf16, StateType::Int8] {
        let states = Some(states);
        let with = With {
            states,
            ..With::default()
        };
        as_planned(&[VitConfig::cifar(10)], &with);
    }
    let average = With {
        average: true,
        ..With::default()
    };
    let scheme = QuantScheme::default().with_value(QuantValue::Q4S);
    let lora = LoraConfig::new(8, 16.0).modules_to_save(["head"]);
    let quantized = With {
        lora: Some(lora.quantize_base(scheme.per_block([64], ScaleDtype::F32))),
        ..With::default()
    };
    for with in [average, quantized] {
        as_planned(&[VitConfig::cifar(10)], &with);
    }
}

fn as_planned(configs: &[VitConfig], with: &With) {
    let mut failed = Vec::new();
    for config in configs {
        for size in [1, 2, 3] {
            for strategy in oracle::strategies(size) {
                let strategy = strategy.block_aligned(with.states.map_or(1, StateType::block));
                let strategy = match &with.lora {
                    Some(lora) => strategy.lora(lora.clone()),
                    None => strategy,
                };
                let run = |world: World| held(&world, &strategy, config, 3, with);
                let (held, planned, noted) = ranks(size).run(run).unwrap()[0];
                let beside = held - planned;
                println!(
                    "{strategy} at world {size}, {} wide: held {held}, planned {planned}, {beside}",
                    config.width
                );
                if beside.abs() > 0.05 * planned + CONSTANT + noted {
                    failed.push(format!("{strategy} at world {size}: {held} for {planned}"));
                }
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}
