//! Saves and exports of a GPU, loaded there and on the CPU.

use crate::oracle::{self, Mlp, Values};
use crate::place::{cpu, gpu, ranks};
use burn::module::Module;
use burn::optim::AdamWConfig;
use burn::tensor::{DType, Tensor};
use burn_dist::checkpoint::Save;
use burn_dist::launch::DeviceKind;
use burn_dist::weights::{Export, Weights};
use burn_dist::{Destination, Result, Strategy, World};

fn parameters(world: &World, model: &Mlp) -> Result<Values> {
    Ok(oracle::values(
        &world.full(model, Destination::All)?.unwrap(),
    ))
}

/// Rows of all ranks, which 1, 2 and 3 ranks divide.
const ROWS: usize = 12;

#[test]
fn a_save_of_the_gpu_resumes_there_and_on_the_cpu_on_any_ranks() {
    let Some((kind, _alone)) = gpu() else { return };
    let folder = tempfile::tempdir().unwrap();
    let whole = oracle::undrawn(Mlp::new(2, &cpu()));
    let run = |kind: DeviceKind, size: usize, strategy: Strategy, resume: bool| {
        let run = ranks(size, kind).run(|world| {
            let model = whole.clone().fork(&world.device());
            let mut model = strategy.clone().shard(model, &world)?;
            let mut optimizer = world.optimizer(AdamWConfig::new().init(), &model)?;
            let mut saves = world.checkpointer(folder.path())?;
            if resume {
                let step: usize;
                (model, optimizer, step) = world.load(folder.path(), model, optimizer)?;
                assert_eq!(step, 1);
            }
            for step in usize::from(resume)..2 {
                if step == 1 && !resume {
                    // What follows changes what is being written.
                    let save = Save::new(1).model("model", &model, &optimizer);
                    saves.save_in_background(save.state("state", &step))?;
                }
                let mine = oracle::rows(&oracle::batch(ROWS, 7, step), world.rank(), size);
                let x: Tensor<2> = oracle::tensor(&mine, DType::F32, &world.device());
                let loss = world.run(|| model.forward(x).powi_scalar(2).mean())?;
                let grads = world.backward(loss, &model)?;
                model = optimizer.step(1e-2, model, grads.into_params());
            }
            parameters(&world, &model)
        });
        run.unwrap().remove(0)
    };
    let straight = run(kind, 2, Strategy::fsdp(), false);
    for (size, strategy) in [
        (2, Strategy::fsdp()),
        (1, Strategy::single()),
        (3, Strategy::zero2()),
        (2, Strategy::ddp()),
    ] {
        let resumed = run(kind, size, strategy.clone(), true);
        let name = format!("resumed on the GPU, {strategy} on {size}");
        oracle::close(&name, &resumed, &straight, 1e-5);
        let moved = run(DeviceKind::Cpu, size, strategy.clone(), true);
        let name = format!("resumed on the CPU, {strategy} on {size}");
        oracle::close(&name, &moved, &straight, 1e-3);
    }
}

#[test]
fn exported_weights_load_again() {
    let Some((kind, _alone)) = gpu() else { return };
    let folder = tempfile::tempdir().unwrap();
    let whole = oracle::undrawn(Mlp::new(2, &cpu()));
    let written = ranks(2, kind).run(|world| {
        let model = Strategy::fsdp().shard(whole.clone().fork(&world.device()), &world)?;
        world.export(&model, folder.path(), &Export::new())?;
        parameters(&world, &model)
    });
    assert_eq!(written.unwrap()[0], oracle::values(&whole));
    for kind in [kind, DeviceKind::Cpu] {
        let read = ranks(3, kind).run(|world| {
            let weights = Weights::open(folder.path())?;
            let fresh = Mlp::new(2, &world.device());
            let (model, _) = Strategy::fsdp().shard_from(fresh, &world, &weights)?;
            parameters(&world, &model)
        });
        assert_eq!(read.unwrap()[0], oracle::values(&whole), "{kind}");
    }
}
