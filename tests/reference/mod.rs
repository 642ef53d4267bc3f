//! The reference's training runs under every strategy at every world size.
//!
//! The plain models are compared with the same files in `models/tests`. Here ranks are, within the same bounds:
//! sharding may order sums differently, but adds no rounding. A difference found only here is one of sharding.

#![allow(clippy::unwrap_used, clippy::panic, dead_code)]

use crate::golden::alone::{named, tensors};
use crate::golden::subject::Subject;
use crate::golden::wanted::{self, Figures, Wanted, compare};
use crate::golden::{Golden, alone};
use crate::oracle;
use burn::optim::GradientsParams;
use burn::tensor::DType;
use burn_dist::comm::{Reduce, SpanMut};
use burn_dist::launch::Threads;
use burn_dist::{Destination, Result, ShardedGradients, Strategy, World};
use std::ops::Range;

const WORLDS: Range<usize> = 1..5;

/// A rank's consecutive share of the batch, the first ranks having what does not divide.
fn share(samples: usize, world: &World) -> Range<usize> {
    let start = |rank: usize| (rank * samples).div_ceil(world.size());
    start(world.rank())..start(world.rank() + 1)
}

/// Trains on one rank; what is gathered is the same on all, so only the logits are this rank's.
fn train<S: Subject>(
    golden: &Golden,
    world: &World,
    strategy: Strategy,
    dtype: DType,
    clip: Option<f64>,
) -> Result<(Vec<f64>, Figures)> {
    let device = world.device();
    let mine = share(golden.number("batch") as usize, world);
    let mut model = strategy.shard(S::model(golden, dtype, &device), world)?;
    let (optimizer, rates) = S::optimizer(golden, &model);
    let mut optimizer = world.optimizer(optimizer, &model)?;

    let (mut first_logits, mut figures) = (Vec::new(), Figures::new());
    for step in 0..golden.number("steps") as usize {
        let logits = S::logits(&model, golden, mine.clone(), dtype, &device);
        let (sum, count) = S::loss(golden, logits.clone(), mine.clone());
        let [loss, all] = total(world, [oracle::scalar(&sum), count as f64])?;
        figures.insert(format!("loss {step}"), vec![loss / all]);

        // The two ways to give a loss, each where it is exact.
        let even = same_everywhere(world, count)?;
        let gradients = match (clip, even) {
            (None, true) => world.backward(alone::mean(sum, count), &model)?,
            _ => world.backward_sum(sum, count, &model)?,
        };
        let (gradients, norm) = clipped(gradients, clip)?;
        figures.insert(format!("norm pre {step}"), vec![norm]);
        let whole = gathered::<S>(world, &oracle::holding(&model, &gradients))?;
        let norm = alone::global_norm(&whole);
        figures.insert(format!("norm post {step}"), vec![norm]);

        if step == 0 {
            let logits = logits.into_data().convert::<f64>();
            first_logits = logits.try_to_vec().unwrap();
            figures.extend(named("grads", whole));
        }
        model = optimizer.step(rates.at(golden.number("optimizer.lr")), model, gradients);
    }
    figures.extend(named("after", gathered::<S>(world, &model)?));
    Ok((first_logits, figures))
}

/// What an optimizer takes, and the global norm before clipping.
fn clipped(gradients: ShardedGradients, clip: Option<f64>) -> Result<(GradientsParams, f64)> {
    match clip {
        Some(clip) => gradients.clip_norm(clip).map(|c| (c.grads, c.norm)),
        None => gradients.norm().map(|norm| (gradients.into_params(), norm)),
    }
}

fn total<const N: usize>(world: &World, mut mine: [f64; N]) -> Result<[f64; N]> {
    let all = SpanMut::of(&mut mine);
    world
        .comm()
        .all_reduce(&"loss".into(), Reduce::Sum, all)
        .map(|()| mine)
}

/// Whether all ranks count alike: the largest count is the smallest.
fn same_everywhere(world: &World, count: usize) -> Result<bool> {
    let mut ends = [count as f64, -(count as f64)];
    let all = SpanMut::of(&mut ends);
    world.comm().all_reduce(&"count".into(), Reduce::Max, all)?;
    Ok(ends[0] == -ends[1])
}

/// A sharded model's tensors in full, under their Hugging Face names and in its layout.
fn gathered<S: Subject>(world: &World, model: &S::Model) -> Result<Figures> {
    let full = world.full(model, Destination::All)?.unwrap();
    Ok(tensors::<S>(&full, None))
}

/// The results of all ranks. They agree on everything gathered, bit for bit.
pub fn run<S: Subject>(
    golden: &Golden,
    ranks: &Threads,
    strategy: &Strategy,
    dtype: DType,
    clip: Option<f64>,
) -> Figures {
    let place = format!("{} under {strategy}", S::FILE);
    let ranks = ranks
        .run(|world| train::<S>(golden, &world, strategy.clone(), dtype, clip))
        .unwrap_or_else(|error| panic!("{place}: {error}"));
    let (logits, figures): (Vec<_>, Vec<_>) = ranks.into_iter().unzip();
    let mut figures = figures.into_iter();
    let mut all = figures.next().unwrap();
    for (rank, other) in figures.enumerate() {
        let mut names = all.iter();
        let differs = names.find(|(name, values)| other[*name] != **values);
        let differs = differs.map(|(name, _)| name);
        assert_eq!(differs, None, "{place}, ranks 0 and {}", rank + 1);
    }
    all.insert("logits".into(), logits.concat());
    all
}

/// Compares every strategy at every world size with the expected figures, and prints all deviations.
fn check<S: Subject>(golden: &Golden, dtype: DType, clip: Option<f64>, wanted: &[Wanted]) {
    let mut wrong = Vec::new();
    for size in WORLDS {
        for strategy in oracle::strategies(size) {
            let figures = run::<S>(golden, &Threads::new(size), &strategy, dtype, clip);
            let place = format!("{strategy} at world {size}");
            wrong.extend(compare(&place, &figures, wanted));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// In f32, without and with clipping.
pub fn agrees_in_f32<S: Subject>() {
    let golden = S::golden();
    check::<S>(&golden, DType::F32, None, &wanted::single(&golden));
    let clip = Some(golden.number("clip"));
    check::<S>(&golden, DType::F32, clip, &wanted::single_clipped(&golden));
}

/// In f64, without and with clipping.
pub fn agrees_in_f64<S: Subject>() {
    let golden = S::golden();
    let mut wanted = wanted::double(&golden);
    // The parameters are not in the file; those of one rank stand in for them. A parameter of zero
    // gradient is stepped by its rounding, so its steps are not compared, and any value would do.
    let alone = run::<S>(
        &golden,
        &Threads::new(1),
        &Strategy::single(),
        DType::F64,
        None,
    );
    let zero = golden.zero_grad();
    for (figure, value) in alone {
        if let Some(name) = figure.strip_prefix("after/") {
            let largest = value.iter().fold(0f64, |most, x| most.max(x.abs()));
            wanted.push(Wanted {
                bound: if zero.contains(&name) {
                    golden.number("optimizer.lr") * 10.0
                } else {
                    1e-9 * largest
                },
                figure,
                value,
            });
        }
    }
    check::<S>(&golden, DType::F64, None, &wanted);
    let clip = Some(golden.number("clip"));
    check::<S>(&golden, DType::F64, clip, &wanted::double_clipped(&golden));
}
