//! The Vision Transformer, sharded, against Hugging Face's on one device with the whole batch.
//!
//! That the plain model agrees is a test of the models' own. Here the same file holds for every
//! strategy at every world size, within the same bounds: sharding may order sums differently, but has
//! no rounding of its own to be excused for. So a difference found here and not there is sharding's.

mod oracle;

#[path = "../models/tests/golden/mod.rs"]
mod golden;

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::{DType, Device, Int, Tensor};
use burn_dist::comm::{Reduce, SpanMut};
use burn_dist::launch::Threads;
use burn_dist::{Destination, Result, ShardedGradients, Strategy, World};
use golden::{Golden, difference};
use models::loss::cross_entropy_sum;
use models::vit::{hf_name, transposed};
use models::{Vit, VitConfig};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// How many times as far from the reference as its f32 run is from its f64 run.
const FACTOR: f64 = 5.0;

/// How much longer or shorter Burn's second AdamW step is, relatively: it evaluates the bias
/// correction 1 - βᵗ in f32, in f64 runs too. What is measured before the third step shows it.
const SECOND_STEP: f64 = 3.4e-6;

const WORLDS: Range<usize> = 1..5;

/// Everything a run showed, by name.
type Figures = BTreeMap<String, Vec<f64>>;

/// What one of the figures has to be, and how far from it it may be.
struct Wanted {
    figure: String,
    value: Vec<f64>,
    bound: f64,
}

fn golden() -> Golden {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
    Golden::read(folder, "vit_tiny")
}

fn strategies(size: usize) -> Vec<Strategy> {
    let mut all = vec![
        Strategy::ddp(),
        Strategy::zero1(),
        Strategy::zero2(),
        Strategy::fsdp(),
    ];
    let groups = (1..=size).filter(|group| size.is_multiple_of(*group));
    all.extend(groups.map(Strategy::hybrid));
    if size == 1 {
        all.push(Strategy::single());
    }
    all
}

/// The reference's model with its weights, on one device.
fn plain(golden: &Golden, dtype: DType, device: &Device) -> Vit {
    VitConfig::new(golden.size("num_labels"))
        .with_image_size(golden.size("image_size"))
        .with_patch_size(golden.size("patch_size"))
        .with_channels(golden.size("num_channels"))
        .with_width(golden.size("hidden_size"))
        .with_blocks(golden.size("num_hidden_layers"))
        .with_heads(golden.size("num_attention_heads"))
        .with_mlp_width(golden.size("intermediate_size"))
        .with_norm_eps(golden.number("config.layer_norm_eps"))
        .init(device)
        .unwrap()
        .load_hf(|name| {
            let data = golden.data(&format!("weights/{name}"));
            Some(data.convert_dtype(dtype))
        })
        .unwrap()
}

/// A rank's consecutive share of the batch, the first ranks having what does not divide.
fn share(samples: usize, world: &World) -> Range<usize> {
    let start = |rank: usize| (rank * samples).div_ceil(world.size());
    start(world.rank())..start(world.rank() + 1)
}

/// Trains on one rank; what is gathered is the same on all, so only the logits are this rank's.
fn train(
    golden: &Golden,
    world: &World,
    strategy: Strategy,
    dtype: DType,
    clip: Option<f64>,
) -> Result<(Vec<f64>, Figures)> {
    let device = world.device();
    let samples = golden.number("batch") as usize;
    let mine = share(samples, world);
    let images = golden.data("inputs/pixel_values").convert_dtype(dtype);
    let images = Tensor::<4>::from_data(images, (&device, dtype)).narrow(0, mine.start, mine.len());
    let labels = Tensor::<1, Int>::from_data(golden.data("inputs/labels"), &device);
    let labels = labels.narrow(0, mine.start, mine.len());

    let mut model = strategy.shard(plain(golden, dtype, &device), world)?;
    let adamw = AdamWConfig::new()
        .with_beta_1(0.9)
        .with_beta_2(0.999)
        .with_epsilon(1e-8)
        .with_weight_decay(golden.number("optimizer.weight_decay") as f32);
    let mut optimizer = world.optimizer(adamw.init(), &model)?;

    let (mut first_logits, mut figures) = (Vec::new(), Figures::new());
    for step in 0..golden.number("steps") as usize {
        let logits = model.forward(images.clone());
        let sum = cross_entropy_sum(logits.clone(), labels.clone(), None);
        let loss = total(world, oracle::scalar(&sum))? / samples as f64;
        figures.insert(format!("loss {step}"), vec![loss]);

        // The two ways to give a loss, each where it is exact.
        let gradients = match (clip, samples.is_multiple_of(world.size())) {
            (None, true) => world.backward(sum / mine.len() as f64, &model)?,
            _ => world.backward_sum(sum, mine.len(), &model)?,
        };
        let (gradients, norm) = clipped(gradients, clip)?;
        figures.insert(format!("norm pre {step}"), vec![norm]);
        let whole = gathered(world, &oracle::holding(&model, &gradients))?;
        let norm = whole.values().flatten().map(|x| x * x).sum::<f64>().sqrt();
        figures.insert(format!("norm post {step}"), vec![norm]);

        if step == 0 {
            let logits = logits.into_data().convert::<f64>();
            first_logits = logits.try_to_vec().unwrap();
            if clip.is_none() {
                figures.extend(named("grads", whole));
            }
        }
        model = optimizer.step(golden.number("optimizer.lr"), model, gradients);
    }
    figures.extend(named("after", gathered(world, &model)?));
    Ok((first_logits, figures))
}

/// What an optimizer takes, and the global norm before clipping.
fn clipped(gradients: ShardedGradients, clip: Option<f64>) -> Result<(GradientsParams, f64)> {
    match clip {
        Some(clip) => gradients.clip_norm(clip).map(|c| (c.grads, c.norm)),
        None => gradients.norm().map(|norm| (gradients.into_params(), norm)),
    }
}

fn total(world: &World, mine: f64) -> Result<f64> {
    let mut sum = [mine];
    let all = SpanMut::of(&mut sum);
    world
        .comm()
        .all_reduce(&"loss".into(), Reduce::Sum, all)
        .map(|()| sum[0])
}

/// A sharded model's tensors in full, under their Hugging Face names and in its layout.
fn gathered(world: &World, model: &Vit) -> Result<Figures> {
    #[derive(Default)]
    struct Read(Vec<String>, Figures);
    impl ModuleVisitor for Read {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.0.push(name.to_owned());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.0.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let hf = hf_name(&self.0.join(".")).unwrap();
            let data = param.val().into_data();
            let data = if hf.transpose { transposed(data) } else { data };
            self.1
                .insert(hf.name, data.convert::<f64>().try_to_vec().unwrap());
        }
    }
    let mut read = Read::default();
    world
        .full(model, Destination::All)?
        .unwrap()
        .visit(&mut read);
    Ok(read.1)
}

fn named(group: &str, tensors: Figures) -> impl Iterator<Item = (String, Vec<f64>)> {
    tensors
        .into_iter()
        .map(move |(name, values)| (format!("{group}/{name}"), values))
}

/// What all ranks together showed. They agree on everything gathered, bit for bit.
fn run(
    golden: &Golden,
    size: usize,
    strategy: &Strategy,
    dtype: DType,
    clip: Option<f64>,
) -> Figures {
    let ranks = Threads::new(size)
        .run(|world| train(golden, &world, strategy.clone(), dtype, clip))
        .unwrap_or_else(|error| panic!("{strategy} at world {size}: {error}"));
    let (logits, figures): (Vec<_>, Vec<_>) = ranks.into_iter().unzip();
    let mut figures = figures.into_iter();
    let mut all = figures.next().unwrap();
    for (rank, other) in figures.enumerate() {
        let differs = all.iter().find(|(name, values)| other[*name] != **values);
        let differs = differs.map(|(name, _)| name);
        let rank = rank + 1;
        assert_eq!(
            differs, None,
            "{strategy} at world {size}, ranks 0 and {rank}"
        );
    }
    all.insert("logits".into(), logits.concat());
    all
}

/// Holds every strategy at every world size against what is wanted, and shows all that is wrong.
fn check(golden: &Golden, dtype: DType, clip: Option<f64>, wanted: &[Wanted]) {
    let mut wrong = Vec::new();
    for size in WORLDS {
        for strategy in strategies(size) {
            let figures = run(golden, size, &strategy, dtype, clip);
            let mut worst = (0.0, "");
            for Wanted {
                figure,
                value,
                bound,
            } in wanted
            {
                let found = difference(&figures[figure], value);
                if found / bound > worst.0 {
                    worst = (found / bound, figure.as_str());
                }
                if found > *bound {
                    wrong.push(format!(
                        "{strategy} at world {size}: {figure} differs by {found:.3e}, allowed {bound:.3e}"
                    ));
                }
            }
            println!(
                "{strategy} at world {size}: at most {:.2} of its bound, by {}",
                worst.0, worst.1
            );
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// The distance from a number to the next one in f32.
fn spacing(x: f64) -> f64 {
    f64::from(f32::EPSILON) * x.abs().log2().floor().exp2()
}

/// One number per step, with the reference's own f32 error of the series.
fn steps(figure: &str, values: &[f64], rounding: f64) -> Vec<Wanted> {
    let wanted = |(step, value): (usize, &f64)| {
        // A single number can be right by luck; nothing in f32 is nearer than its neighbour.
        let mut bound = (FACTOR * rounding).max(spacing(*value));
        if step == 2 {
            bound += SECOND_STEP * (value - values[1]).abs();
        }
        Wanted {
            figure: format!("{figure} {step}"),
            value: vec![*value],
            bound,
        }
    };
    values.iter().enumerate().map(wanted).collect()
}

/// A group of tensors of the file; those of zero gradient have a bound of their own.
fn tensors(golden: &Golden, group: &str, stored: &str, bounds: [f64; 2]) -> Vec<Wanted> {
    let zero: BTreeSet<_> = golden.zero_grad().into_iter().collect();
    let wanted = |(name, value): (String, Vec<f64>)| Wanted {
        bound: bounds[usize::from(zero.contains(name.as_str()))],
        figure: format!("{group}/{name}"),
        value,
    };
    golden.group(stored).into_iter().map(wanted).collect()
}

/// The reference's own f32 error of a series that the file has in both types.
fn rounding(golden: &Golden, single: &str, double: &str) -> f64 {
    difference(&golden.values(single), &golden.values(double))
}

fn logits(value: Vec<f64>, bound: f64) -> Wanted {
    Wanted {
        figure: "logits".into(),
        value,
        bound,
    }
}

#[test]
fn every_strategy_agrees_in_f32() {
    let golden = golden();
    let bound = |group| FACTOR * golden.rounding(group);
    let losses = golden.values("train/losses");
    let norms = golden.values("train/grad_norms");
    let norm_rounding = rounding(&golden, "train/grad_norms", "f64/grad_norms");

    let mut wanted = vec![logits(golden.values("out/logits"), bound("logits"))];
    wanted.extend(steps(
        "loss",
        &losses,
        rounding(&golden, "train/losses", "f64/losses"),
    ));
    // The first loss once more, by itself: its own rounding is less than the series'.
    wanted.extend(steps(
        "loss",
        &golden.values("out/loss"),
        golden.rounding("loss"),
    ));
    for norm in ["norm pre", "norm post"] {
        wanted.extend(steps(norm, &norms, norm_rounding));
    }
    let bounds = ["grads", "grads_of_zero_grad"].map(bound);
    wanted.extend(tensors(&golden, "grads", "grads/", bounds));
    let bounds = ["after", "after_of_zero_grad"].map(bound);
    wanted.extend(tensors(&golden, "after", "after/", bounds));
    check(&golden, DType::F32, None, &wanted);
}

#[test]
fn clipping_by_the_global_norm_agrees_in_f32() {
    let golden = golden();
    let norms = rounding(&golden, "clip/grad_norms_pre", "f64/clip_grad_norms_pre");
    let mut wanted = vec![logits(
        golden.values("out/logits"),
        FACTOR * golden.rounding("logits"),
    )];
    wanted.extend(steps(
        "loss",
        &golden.values("clip/losses"),
        rounding(&golden, "clip/losses", "f64/clip_losses"),
    ));
    for when in ["pre", "post"] {
        let values = golden.values(&format!("clip/grad_norms_{when}"));
        wanted.extend(steps(&format!("norm {when}"), &values, norms));
    }
    let bounds = ["clip_after", "after_of_zero_grad"].map(|group| FACTOR * golden.rounding(group));
    wanted.extend(tensors(&golden, "after", "clip/after/", bounds));
    check(&golden, DType::F32, Some(golden.number("clip")), &wanted);
}

/// In f64 rounding is out of the way: what remains would be a difference of formula.
#[test]
fn every_strategy_agrees_in_f64() {
    let golden = golden();
    // The optimizer's constants are f32 in Burn, whatever the tensors are.
    let series = |figure: &str, stored: &str| {
        let values = golden.values(&format!("f64/{stored}"));
        let bounds = [1e-12, 1e-10, SECOND_STEP * (values[2] - values[1]).abs()];
        let each = values.into_iter().zip(bounds).enumerate();
        each.map(|(step, (value, bound))| Wanted {
            figure: format!("{figure} {step}"),
            value: vec![value],
            bound,
        })
        .collect::<Vec<_>>()
    };
    let mut wanted = vec![logits(golden.values("f64/logits"), 1e-12)];
    wanted.extend(series("loss", "losses"));
    wanted.extend(series("norm pre", "grad_norms"));
    // The file's gradients are f32: ours are as far from them as the reference's f64 ones.
    let bounds = ["grads", "grads_of_zero_grad"].map(|group| golden.rounding(group) * (1.0 + 1e-6));
    wanted.extend(tensors(&golden, "grads", "grads/", bounds));
    // The parameters are not in the file; those of one rank stand in for them. A parameter of zero
    // gradient is stepped by its rounding, so its steps say nothing.
    let alone = run(&golden, 1, &Strategy::single(), DType::F64, None);
    let zero = golden.zero_grad();
    for (figure, value) in alone {
        let parameter = figure.strip_prefix("after/");
        if parameter.is_some_and(|name| !zero.contains(&name)) {
            let largest = value.iter().fold(0f64, |most, x| most.max(x.abs()));
            wanted.push(Wanted {
                figure,
                value,
                bound: 1e-9 * largest,
            });
        }
    }
    check(&golden, DType::F64, None, &wanted);

    let mut wanted = series("loss", "clip_losses");
    wanted.extend(series("norm pre", "clip_grad_norms_pre"));
    check(&golden, DType::F64, Some(golden.number("clip")), &wanted);
}
