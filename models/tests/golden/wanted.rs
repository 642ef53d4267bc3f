//! What a run has to show, and how exactly: the bounds, in one place for one device and for many.
//!
//! The file knows how far its f32 run is from the same run in f64. That is the only measure of "equal up
//! to rounding" that needs no guess; ours may be five times as far.

use super::{Golden, difference};
use std::collections::{BTreeMap, BTreeSet};

/// How many times as far from the reference as its f32 run is from its f64 run.
const FACTOR: f64 = 5.0;

/// Everything a run showed, by name: `logits`; `loss`, `norm pre` and `norm post` with the step; `grads/` of
/// the first step and `after/` the last with the tensor's name in the file.
pub type Figures = BTreeMap<String, Vec<f64>>;

/// What one of the figures has to be, and how far from it it may be.
#[derive(Debug)]
pub struct Wanted {
    pub figure: String,
    pub value: Vec<f64>,
    pub bound: f64,
}

/// A run in f32.
pub fn single(golden: &Golden) -> Vec<Wanted> {
    let bound = |group| FACTOR * golden.rounding(group);
    let mut wanted = vec![logits(golden.values("out/logits"), bound("logits"))];
    wanted.extend(losses(
        golden,
        &golden.values("train/losses"),
        rounding(golden, "train/losses", "f64/losses"),
    ));
    // The first loss once more, by itself: its own rounding is less than the series'.
    wanted.extend(losses(
        golden,
        &golden.values("out/loss"),
        golden.rounding("loss"),
    ));
    let values = golden.values("train/grad_norms");
    for norm in ["norm pre", "norm post"] {
        let rounding = rounding(golden, "train/grad_norms", "f64/grad_norms");
        wanted.extend(norms(norm, &values, rounding));
    }
    let bounds = ["grads", "grads_of_zero_grad"].map(bound);
    wanted.extend(tensors(golden, "grads", "grads/", bounds));
    let bounds = ["after", "after_of_zero_grad"].map(bound);
    wanted.extend(tensors(golden, "after", "after/", bounds));
    wanted
}

/// A run in f32 that clips by the global norm.
pub fn single_clipped(golden: &Golden) -> Vec<Wanted> {
    let bound = |group| FACTOR * golden.rounding(group);
    let mut wanted = vec![logits(golden.values("out/logits"), bound("logits"))];
    wanted.extend(losses(
        golden,
        &golden.values("clip/losses"),
        rounding(golden, "clip/losses", "f64/clip_losses"),
    ));
    let rounding = rounding(golden, "clip/grad_norms_pre", "f64/clip_grad_norms_pre");
    for when in ["pre", "post"] {
        let values = golden.values(&format!("clip/grad_norms_{when}"));
        wanted.extend(norms(&format!("norm {when}"), &values, rounding));
    }
    let bounds = ["clip_after", "after_of_zero_grad"].map(bound);
    wanted.extend(tensors(golden, "after", "clip/after/", bounds));
    wanted
}

/// A run in f64. The reference's rounding is out of the way: what remains would be a difference of formula.
pub fn double(golden: &Golden) -> Vec<Wanted> {
    let mut wanted = vec![logits(golden.values("f64/logits"), 1e-12)];
    wanted.extend(double_steps(golden, "loss", "losses"));
    wanted.extend(double_steps(golden, "norm pre", "grad_norms"));
    // The file's gradients are f32: ours are as far from them as the reference's f64 ones.
    let bounds = ["grads", "grads_of_zero_grad"].map(|group| golden.rounding(group) * (1.0 + 1e-6));
    wanted.extend(tensors(golden, "grads", "grads/", bounds));
    wanted
}

/// A run in f64 that clips by the global norm.
pub fn double_clipped(golden: &Golden) -> Vec<Wanted> {
    let mut wanted = double_steps(golden, "loss", "clip_losses");
    wanted.extend(double_steps(golden, "norm pre", "clip_grad_norms_pre"));
    wanted
}

/// What of these figures is not as wanted; prints how near the worst is to its bound.
pub fn compare(place: &str, figures: &Figures, wanted: &[Wanted]) -> Vec<String> {
    let (mut worst, mut wrong) = ((0.0, ""), Vec::new());
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
                "{place}: {figure} differs by {found:.3e}, allowed {bound:.3e}"
            ));
        }
    }
    println!(
        "{place}: at most {:.2} of its bound, by {}",
        worst.0, worst.1
    );
    let groups = ["grads/", "after/"];
    for group in groups
        .iter()
        .filter(|group| of(wanted, group).next().is_some())
    {
        let ours: BTreeSet<_> = figures
            .keys()
            .filter(|name| name.starts_with(group))
            .collect();
        let theirs: BTreeSet<_> = of(wanted, group).collect();
        assert_eq!(ours, theirs, "{place}: {group} has other names");
    }
    wrong
}

/// The names of a group.
fn of<'a>(wanted: &'a [Wanted], group: &'a str) -> impl Iterator<Item = &'a String> {
    let names = wanted.iter().map(|wanted| &wanted.figure);
    names.filter(move |name| name.starts_with(group))
}

fn logits(value: Vec<f64>, bound: f64) -> Wanted {
    Wanted {
        figure: "logits".into(),
        value,
        bound,
    }
}

/// The losses before each step, with the reference's own f32 error of the series.
///
/// A single number can be right by luck. A loss moves by up to twice what the logits do, so that it cannot
/// be asked to be nearer than the reference's logits are.
fn losses(golden: &Golden, values: &[f64], rounding: f64) -> Vec<Wanted> {
    let logits = golden.rounding("logits");
    steps("loss", values, (FACTOR * rounding).max(logits))
}

/// The norms before each step, with the reference's own f32 error of the series.
fn norms(figure: &str, values: &[f64], rounding: f64) -> Vec<Wanted> {
    steps(figure, values, FACTOR * rounding)
}

/// One number per step.
fn steps(figure: &str, values: &[f64], bound: f64) -> Vec<Wanted> {
    let wanted = |(step, value): (usize, &f64)| {
        Wanted {
            figure: format!("{figure} {step}"),
            value: vec![*value],
            // Nothing in f32 is nearer than its neighbour.
            bound: bound.max(spacing(*value)),
        }
    };
    values.iter().enumerate().map(wanted).collect()
}

/// One number per step of an f64 run.
fn double_steps(golden: &Golden, figure: &str, stored: &str) -> Vec<Wanted> {
    let values = golden.values(&format!("f64/{stored}"));
    // A step divides gradients by their own size, and with them their rounding.
    let bounds = [1e-12, 1e-10, 1e-10];
    let each = values.into_iter().zip(bounds).enumerate();
    each.map(|(step, (value, bound))| Wanted {
        figure: format!("{figure} {step}"),
        value: vec![value],
        bound,
    })
    .collect()
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

/// The distance from a number to the next one in f32.
fn spacing(x: f64) -> f64 {
    f64::from(f32::EPSILON) * x.abs().log2().floor().exp2()
}

/// The reference's own f32 error of a series that the file has in both types.
fn rounding(golden: &Golden, single: &str, double: &str) -> f64 {
    difference(&golden.values(single), &golden.values(double))
}
