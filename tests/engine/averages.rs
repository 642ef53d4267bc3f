//! Moving averages of shards: the bits of one device that averages the same parameters, evaluated while training goes
//! on, and saved for any other ranks.

use crate::oracle;
use crate::oracle::place::same_everywhere;
use crate::oracle::{Mlp, Values, values};
use burn::module::Module;
use burn::optim::AdamWConfig;
use burn::tensor::{DType, Device, FloatDType, Tensor};
use burn_dist::checkpoint::{Save, Which};
use burn_dist::launch::Threads;
use burn_dist::optim::Ema;
use burn_dist::{Destination, Result, Strategy, World};
use std::path::Path;

const STEPS: usize = 6;
const RATE: f64 = 0.6;

fn mlp(device: &Device) -> Mlp {
    oracle::undrawn(Mlp::new(2, device))
}

fn whole(world: &World, model: &Mlp) -> Result<Mlp> {
    Ok(world.full(model, Destination::All)?.unwrap())
}

/// The next average by its formula in f32, element by element.
fn averaged(average: &Values, parameters: &Values, kept: f64) -> Values {
    let moved = (1.0 - kept) as f32;
    let next = |(a, p): (&f64, &f64)| {
        let (a, p) = (*a as f32, *p as f32);
        f64::from(a + (p - a) * moved)
    };
    let path = |(path, average): (&String, &Vec<f64>)| {
        let pairs = average.iter().zip(&parameters[path]);
        (path.clone(), pairs.map(next).collect())
    };
    average.iter().map(path).collect()
}

/// Logits as they are evaluated: without a tape.
fn evaluated(model: &Mlp, x: Tensor<2>) -> Vec<f32> {
    let logits = model.valid().forward(x.inner()).into_data();
    logits.iter::<f32>().collect()
}

/// Trains and averages; returns the last average.
fn run(world: &World, strategy: &Strategy, warmup: bool, saves: &Path) -> Result<Values> {
    let device = world.device();
    let mut model = strategy.clone().shard(mlp(&device), world)?;
    let mut optimizer = world.optimizer(AdamWConfig::new().init(), &model)?;
    let ema = Ema::new(&model, RATE)?;
    let mut ema = if warmup { ema.with_warmup() } else { ema };
    let mut expected = values(&whole(world, &model)?);
    for step in 0..STEPS {
        let mine = oracle::rows(&oracle::batch(12, 7, step), world.rank(), world.size());
        let x: Tensor<2> = oracle::tensor(&mine, DType::F32, &device);
        let grads = world.backward(model.forward(x.clone()).powi_scalar(2).mean(), &model)?;
        model = optimizer.step(1e-2, model, grads.into_params());
        let t = step as f64;
        let kept = if warmup {
            RATE.min((1.0 + t) / (10.0 + t))
        } else {
            RATE
        };
        assert_eq!(ema.next_rate(), kept);
        ema.update(&model)?;
        let parameters = whole(world, &model)?;
        expected = averaged(&expected, &values(&parameters), kept);
        let average = whole(world, ema.model())?;
        assert_eq!(values(&average), expected, "step {step}");
        // In turn, so that what was gathered for one would show in the other.
        for _ in 0..2 {
            let own = evaluated(ema.model(), x.clone());
            assert_eq!(own, evaluated(&average, x.clone()), "step {step}: average");
            let own = evaluated(&model, x.clone());
            assert_eq!(own, evaluated(&parameters, x.clone()), "step {step}: model");
        }
    }
    let save = Save::new(STEPS as u64).model("model", &model, &optimizer);
    world.checkpointer(saves)?.save(save.average("ema", &ema))?;
    Ok(expected)
}

/// The average of a save, on these ranks.
fn loaded(world: &World, strategy: &Strategy, saves: &Path) -> Result<(u64, Values)> {
    let model = strategy
        .clone()
        .shard(Mlp::new(2, &world.device()), world)?;
    let mut save = world.open_save(saves, Which::Latest)?;
    let ema = save.average("ema", Ema::new(&model, RATE)?)?;
    Ok((ema.updates(), values(&whole(world, ema.model())?)))
}

#[test]
fn averages_have_the_bits_of_one_device() {
    for size in 1..=4 {
        for strategy in oracle::strategies(size) {
            for warmup in [false, true] {
                let what = format!("{strategy} at world {size}, warm-up {warmup}");
                let folder = tempfile::tempdir().unwrap();
                let found = Threads::new(size)
                    .run(|world| run(&world, &strategy, warmup, folder.path()))
                    .unwrap_or_else(|error| panic!("{what}: {error}"));
                let other = size % 4 + 1;
                let another = oracle::strategies(other).pop().unwrap();
                let moved = Threads::new(other)
                    .run(|world| loaded(&world, &another, folder.path()))
                    .unwrap_or_else(|error| panic!("{what}: {error}"));
                for (updates, values) in moved {
                    assert_eq!(updates, STEPS as u64, "{what}");
                    assert_eq!(values, found[0], "{what}, loaded on {other} ranks");
                }
            }
        }
    }
}

#[test]
fn averages_are_near_those_of_one_device_with_the_whole_batch() {
    let model = oracle::cast(mlp(&Device::flex().autodiff()), FloatDType::F64);
    same_everywhere(|place| {
        let mut model = place.shard(&model)?;
        let mut adamw = place.adamw(&model)?;
        let mut ema = Ema::new(&model, RATE)?.with_warmup();
        for step in 0..STEPS {
            let loss = model.forward(place.batch(step)).powi_scalar(2).mean();
            let grads = place.backward(loss, &model)?;
            model = adamw.step(1e-2, model, grads);
            ema.update(&model)?;
            place.note(ema.model())?;
        }
        Ok(())
    });
}
