//! The program of a rank that saves at every step of an epoch, with the samples that all ranks have seen.

use super::program::{Instructions, kill_self};
use burn::nn::{Linear, LinearConfig};
use burn::optim::SgdConfig;
use burn::tensor::Tensor;
use burn_dist::checkpoint::Save;
use burn_dist::data::{Batch, BatchInfo, Loader};
use burn_dist::training::{Progress, TrainLoop};
use burn_dist::{Result, Strategy, World, unit};

/// More than a number of full batches of three ranks, or of two.
pub(super) const SAMPLES: usize = 31;
/// Steps before the faulty rank is killed.
const STEPS_BEFORE: usize = 3;

/// What of a run is saved beside model and optimizer.
type State = (Progress, Vec<usize>);

pub(super) fn run(instructions: &Instructions, world: &World) -> Result<()> {
    let folder = instructions.file("saves");
    let samples: Vec<usize> = (0..SAMPLES).collect();
    // Without the padding of a rank that has no sample.
    let collate = |items: Vec<usize>, info: &BatchInfo| items[..info.count].to_vec();
    let data = Loader::new(world, samples, Batch::per_rank(2), collate)?.shuffled(5);
    let mut steps = TrainLoop::new(&data);
    let model = LinearConfig::new(5, 3).init(&world.device());
    let mut model = Strategy::fsdp().shard(model, world)?;
    let mut optimizer = world.optimizer(SgdConfig::new().init(), &model)?;
    let mut seen: Vec<usize> = Vec::new();
    let mut saves = world.checkpointer(&folder)?;
    if world.has_save(&folder)? {
        let state: State;
        (model, optimizer, state) = world.load(&folder, model, optimizer)?;
        steps.resume(&state.0)?;
        seen = state.1;
    }
    while let Some(mut batches) = steps.epoch(&data)? {
        while let Some(passes) = steps.step(&mut batches)? {
            let mine = passes.concat();
            let x = Tensor::<2>::ones([4, 5], &world.device());
            let loss = unit(&model, x, |model: &Linear, x| model.forward(x)).mean();
            let gradients = world.backward(loss, &model)?.into_params();
            model = optimizer.step(0.1, model, gradients);
            steps.advance();
            if steps.done() == STEPS_BEFORE && instructions.is_killed(world) {
                kill_self();
            }
            seen.extend(world.gather(&mine)?.concat());
            let state = (steps.progress(), seen.clone());
            let save = Save::new(steps.done() as u64).model("model", &model, &optimizer);
            saves.save_in_background(save.state("state", &state))?;
        }
    }
    saves.wait()?;
    seen.sort_unstable();
    let text: Vec<String> = seen.iter().map(ToString::to_string).collect();
    let name = format!("seen-by-{}-of-{}", world.rank(), world.size());
    std::fs::write(instructions.file(&name), text.join(" "))?;
    Ok(())
}
