//! What saving and loading hold in memory, and how much of a save a rank reads.

use crate::allocator::{COUNTING, live, peak};
use crate::oracle::ranks;
use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::optim::{AdamWConfig, ModuleOptimizer};
use burn::tensor::{Device, Tensor};
use burn_dist::checkpoint::{Save, Which};
use burn_dist::{Result, Strategy, World, unit};
use std::sync::{Barrier, PoisonError};

/// 16 layers of 256 to 256 f32 values: 4 MiB, and twice that in AdamW's states.
const BLOCKS: usize = 16;
const WIDTH: usize = 256;
const MODEL: usize = BLOCKS * WIDTH * WIDTH * 4;
/// Model and states.
const ALL: usize = 3 * MODEL;

#[derive(Module, Debug)]
struct Tower {
    blocks: Vec<Linear>,
}

impl Tower {
    fn new(device: &Device) -> Self {
        let block = || {
            LinearConfig::new(WIDTH, WIDTH)
                .with_bias(false)
                .init(device)
        };
        Self {
            blocks: (0..BLOCKS).map(|_| block()).collect(),
        }
    }
}

type Run = (Tower, ModuleOptimizer);

fn start(world: &World, strategy: &Strategy) -> Result<Run> {
    let model = strategy.clone().shard(Tower::new(&world.device()), world)?;
    let optimizer = world.optimizer(AdamWConfig::new().init(), &model)?;
    Ok((model, optimizer))
}

fn step(world: &World, (model, mut optimizer): Run) -> Result<Run> {
    let x = Tensor::<2>::ones([2, WIDTH], &world.device());
    let loss = unit(&model, x, |model: &Tower, mut x| {
        for block in &model.blocks {
            x = unit(block, x, |block: &Linear, x| block.forward(x));
        }
        x.powi_scalar(2).mean()
    });
    let grads = world.backward(loss, &model)?.into_params();
    Ok((optimizer.step(1e-4, model, grads), optimizer))
}

#[test]
fn a_load_reads_what_it_stores_and_holds_it_twice_at_most() {
    let _alone = COUNTING.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let saved = ranks(2).run(|world| {
        let run = step(&world, start(&world, &Strategy::fsdp())?)?;
        world.save(folder.path(), &run.0, &run.1, &0)
    });
    saved.unwrap();
    for size in [1, 2, 4] {
        let all = Barrier::new(size);
        let found = ranks(size).run(|world| {
            let run = start(&world, &Strategy::fsdp())?;
            all.wait();
            let before = live();
            let (loaded, top) = peak(&world, &all, || {
                let mut save = world.open_save(folder.path(), Which::Latest)?;
                let run = save.model("model", run.0, run.1)?;
                Ok::<_, burn_dist::Error>((run, save.finish()?))
            });
            let (_run, report) = loaded?;
            // Of the files, its own share and nothing else.
            assert_eq!(report.read_bytes as usize, ALL / size);
            Ok(top.saturating_sub(before))
        });
        // Of all ranks: the states, a record of them, and one tensor on its way. The model lies where it was. A whole
        // model on each rank would be `size` times as much.
        let top = found.unwrap()[0];
        let states = 2 * MODEL;
        println!(
            "{size} ranks: {} of {} KiB of states",
            top >> 10,
            states >> 10
        );
        assert!(top < states * 2 + size * (1 << 20), "{size} ranks: {top}");
    }
}

#[test]
fn a_save_in_the_background_holds_a_shard_more_at_most() {
    let _alone = COUNTING.lock().unwrap_or_else(PoisonError::into_inner);
    for size in [1, 2] {
        let folder = tempfile::tempdir().unwrap();
        let all = Barrier::new(size);
        let found = ranks(size).run(|world| {
            let run = step(&world, step(&world, start(&world, &Strategy::fsdp())?)?)?;
            let mut saves = world.checkpointer(folder.path())?;
            all.wait();
            let (run, without) = peak(&world, &all, || step(&world, run));
            let run = run?;
            let (after, with) = peak(&world, &all, || {
                let save = Save::new(1).model("model", &run.0, &run.1);
                saves.save_in_background(save)?;
                let run = step(&world, run)?;
                saves.wait()?;
                Ok::<_, burn_dist::Error>(run)
            });
            after?;
            Ok(with.saturating_sub(without))
        });
        let more = found.unwrap()[0];
        println!("{size} ranks: {} of {} KiB more", more >> 10, ALL >> 10);
        // A few MB of each rank's states are copied at a time.
        assert!(more < ALL + size * (4 << 20), "{size} ranks: {more}");
    }
}
