//! Which optimizer is it?
//!
//! Burn's optimizers are type-erased: nothing says what kind one is, or with which settings and groups.
//! But it can be tried. Every trainable parameter is stood in for by a tiny one with the same path and id,
//! so that the same group takes it, and stepped a few times; what comes out and what is kept is noted in
//! the save, and compared with that of the optimizer that is to go on.

use super::optimizer::States;
use crate::error::{Error, Result};
use crate::shard::{ShardedParam, Visit, walk};
use burn::module::{Module, ModuleMapper, Param, ParamId};
use burn::optim::{GradientsParams, ModuleOptimizer, OptimizerRecord};
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// Elements of a stand-in.
const LEN: usize = 12;

/// What gradients are multiplied by in each step; the last makes any clipping show.
const SCALES: [f32; 3] = [1.0, 0.3, 1e3];

/// How far two trials of one optimizer may differ, of the largest element of a step: processors round
/// differently.
const ROUNDING: f32 = 1e-5;

/// What an optimizer does with each trainable parameter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Behaviours {
    /// The different ones: one a group, or a few.
    kinds: Vec<Behaviour>,
    /// Which of them each parameter meets.
    of: BTreeMap<String, usize>,
}

/// What it does with one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Behaviour {
    /// The fields of its state.
    keeps: BTreeSet<String>,
    /// All elements of the stand-in after each step; null for what is no number.
    steps: Vec<Vec<Option<f32>>>,
}

impl Behaviours {
    /// Tries a copy of `optimizer`, without its states; `None` if that panics.
    pub(super) fn of<M: Module>(
        optimizer: &ModuleOptimizer,
        model: &M,
        paths: &HashMap<u64, String>,
    ) -> Result<Option<Self>> {
        let tried = catch_unwind(AssertUnwindSafe(|| tried(optimizer, model, paths)));
        tried.map_or(Ok(None), |found| found.map(Some))
    }

    /// Fails if the optimizer of the save at `manifest` is another one than the one to go on with.
    pub(super) fn compare(
        saved: Option<&Self>,
        wanted: Option<&Self>,
        manifest: &Path,
    ) -> Result<()> {
        match (saved, wanted) {
            (None, None) => Ok(()),
            (Some(saved), Some(wanted)) => saved.check(wanted, manifest),
            (_, wanted) => {
                let say = |can: bool| {
                    if can {
                        "an optimizer that can step small parameters"
                    } else {
                        "an optimizer that panics on small parameters"
                    }
                };
                let can = wanted.is_some();
                Err(Error::file(manifest, say(can), say(!can)))
            }
        }
    }

    /// Fails with the first parameter that `self`, saved at `manifest`, treats otherwise than `wanted`.
    fn check(&self, wanted: &Self, manifest: &Path) -> Result<()> {
        const REMEDY: &str = "make the optimizer as it was made for the save; to change it on purpose, \
                              load with the former one and go on with \
                              new.load_record(former.to_record())";
        for (path, kind) in &wanted.of {
            let (saved, wanted) = (self.kind(path), wanted.kinds.get(*kind));
            let (Some(saved), Some(wanted)) = (saved, wanted) else {
                let expected = format!("an optimizer of {path}");
                return Err(Error::file(manifest, expected, "none in the save"));
            };
            if saved.keeps != wanted.keeps {
                let expected = format!(
                    "the save of an optimizer that keeps {} of {path}",
                    list(&wanted.keeps)
                );
                let found = format!("one that keeps {}; {REMEDY}", list(&saved.keeps));
                return Err(Error::file(manifest, expected, found));
            }
            if !saved.steps_as(wanted) {
                let expected = format!("the save of an optimizer that steps {path} as this one");
                let found = format!("one of another kind, or with other settings; {REMEDY}");
                return Err(Error::file(manifest, expected, found));
            }
        }
        Ok(())
    }

    fn kind(&self, path: &str) -> Option<&Behaviour> {
        self.kinds.get(*self.of.get(path)?)
    }
}

impl Behaviour {
    fn steps_as(&self, other: &Self) -> bool {
        let alike = |(a, b): (&Vec<Option<f32>>, &Vec<Option<f32>>)| {
            let largest = b.iter().flatten().fold(0f32, |m, x| m.max(x.abs()));
            let close = |a: &Option<f32>, b: &Option<f32>| match (a, b) {
                (Some(a), Some(b)) => (a - b).abs() <= ROUNDING * largest,
                (a, b) => a == b,
            };
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| close(a, b))
        };
        self.steps.len() == other.steps.len() && self.steps.iter().zip(&other.steps).all(alike)
    }
}

/// The fields that are no matter of the format.
fn list(fields: &BTreeSet<String>) -> String {
    let own = fields.iter().filter(|field| !field.starts_with("__"));
    let own: Vec<&str> = own.map(String::as_str).collect();
    if own.is_empty() {
        "nothing".into()
    } else {
        own.join(", ")
    }
}

fn tried<M: Module>(
    optimizer: &ModuleOptimizer,
    model: &M,
    paths: &HashMap<u64, String>,
) -> Result<Behaviours> {
    let mut found = Trainable::default();
    walk(model, &mut found);
    let ids = found.ids;
    let mut optimizer = optimizer.clone().load_record(OptimizerRecord::default());
    let mut model = model.clone().map(&mut Shrink(&ids));
    let mut steps: BTreeMap<u64, Vec<Vec<Option<f32>>>> = BTreeMap::new();
    for (step, scale) in SCALES.into_iter().enumerate() {
        let mut gradients = GradientsParams::new();
        for (id, rank) in &ids {
            let f = |at| scale * gradient(at, step);
            match rank {
                1 => gradients.register(*id, tiny::<1>(f)),
                2 => gradients.register(*id, tiny::<2>(f)),
                3 => gradients.register(*id, tiny::<3>(f)),
                4 => gradients.register(*id, tiny::<4>(f)),
                5 => gradients.register(*id, tiny::<5>(f)),
                6 => gradients.register(*id, tiny::<6>(f)),
                7 => gradients.register(*id, tiny::<7>(f)),
                _ => gradients.register(*id, tiny::<8>(f)),
            }
        }
        // A rate so large that every setting shows.
        model = optimizer.step(1.0, model, gradients);
        let mut read = Read::default();
        walk(&model, &mut read);
        for (id, elements) in read.0.into_iter().filter(|(id, _)| ids.contains_key(id)) {
            steps.entry(id.val()).or_default().push(elements);
        }
    }
    let mut keeps: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for name in States::of(&optimizer, paths)?.names() {
        if let Some((path, field)) = name.split_once('/') {
            keeps.entry(path.into()).or_default().insert(field.into());
        }
    }
    let (mut kinds, mut of): (Vec<Behaviour>, _) = (Vec::new(), BTreeMap::new());
    for (id, steps) in steps {
        let Some(path) = paths.get(&id) else {
            continue;
        };
        let keeps = keeps.remove(path).unwrap_or_default();
        let kind = Behaviour { keeps, steps };
        let at = kinds.iter().position(|known| *known == kind);
        let at = at.unwrap_or_else(|| {
            kinds.push(kind);
            kinds.len() - 1
        });
        of.insert(path.clone(), at);
    }
    Ok(Behaviours { kinds, of })
}

/// From 1 down to a few millionths, of both signs: what is added to a divisor shows.
fn gradient(at: usize, step: usize) -> f32 {
    let size = 10f32.powf(-0.5 * ((at + 5 * step) % LEN) as f32);
    match (at + step) % 3 {
        0 => -size,
        _ => size,
    }
}

fn tiny<const D: usize>(f: impl Fn(usize) -> f32) -> Tensor<D> {
    // A matrix is a real one, for optimizers that treat matrices in their own way.
    let mut shape = vec![1; D];
    match shape.as_mut_slice() {
        [rows, columns, ..] => (*rows, *columns) = (4, LEN / 4),
        [all] => *all = LEN,
        [] => {}
    }
    let values: Vec<f32> = (0..shape.iter().product()).map(f).collect();
    Tensor::from_data(TensorData::new(values, shape), &Device::flex())
}

/// Ids and numbers of dimensions of the sharded parameters that take gradients.
#[derive(Default)]
struct Trainable {
    ids: BTreeMap<ParamId, usize>,
}

impl Visit for Trainable {
    type Held = (ParamId, usize);

    fn hold<const D: usize>(&mut self, param: &Param<Tensor<D>>) -> Self::Held {
        (param.id, D)
    }

    fn sharded(&mut self, _: &str, (id, rank): Self::Held, identity: ShardedParam) {
        let trainable = identity.sharding.unit(identity.unit).layout.trainable;
        if trainable && (1..=8).contains(&rank) {
            self.ids.insert(id, rank);
        }
    }
}

/// Puts the stand-ins in the place of parameters.
struct Shrink<'a>(&'a BTreeMap<ParamId, usize>);

impl ModuleMapper for Shrink<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.0.contains_key(&param.id) {
            param.map(|_| {
                let value = |at: usize| ((at * 7 + 1) as f32).sin();
                Tensor::from_inner(tiny(value)).require_grad()
            })
        } else {
            param
        }
    }
}

/// All elements of what is stored now.
#[derive(Default)]
struct Read(Vec<(ParamId, Vec<Option<f32>>)>);

impl Visit for Read {
    type Held = (ParamId, Vec<Option<f32>>);

    fn hold<const D: usize>(&mut self, param: &Param<Tensor<D>>) -> Self::Held {
        let stored = param.base();
        // The others are not read.
        let elements = match stored.dims().iter().product::<usize>() {
            LEN => stored.into_data().iter::<f32>().collect(),
            _ => Vec::new(),
        };
        let finite = elements.into_iter().map(|x| x.is_finite().then_some(x));
        (param.id, finite.collect())
    }

    fn sharded(&mut self, _: &str, held: Self::Held, _: ShardedParam) {
        self.0.push(held);
    }
}
