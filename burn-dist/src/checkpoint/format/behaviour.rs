//! The behaviour of an optimizer on test parameters, which a save records and a load compares.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The difference between two trials of one optimizer that is allowed, relative to the largest element of a
/// step: processors round differently.
const ROUNDING: f32 = 1e-5;

/// The behaviour of an optimizer on each trainable parameter of a model.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(in crate::checkpoint) struct OptimizerBehaviour {
    /// The different behaviours: one a parameter group, or a few.
    kinds: Vec<ParameterBehaviour>,
    /// The index in `kinds` of each parameter, by path.
    of: BTreeMap<String, usize>,
}

/// The behaviour of an optimizer on one parameter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::checkpoint) struct ParameterBehaviour {
    /// The fields of its state.
    pub(in crate::checkpoint) keeps: BTreeSet<String>,
    /// All elements of the test parameter after each step; null for what is not finite.
    pub(in crate::checkpoint) steps: Vec<Vec<Option<f32>>>,
}

impl OptimizerBehaviour {
    /// Adds the behaviour on the parameter at `path`.
    pub(in crate::checkpoint) fn add(&mut self, path: &str, behaviour: ParameterBehaviour) {
        let at = self.kinds.iter().position(|known| *known == behaviour);
        let at = at.unwrap_or_else(|| {
            self.kinds.push(behaviour);
            self.kinds.len() - 1
        });
        self.of.insert(path.into(), at);
    }

    /// Fails if the optimizer of the save at `manifest` is another one than the one to go on with.
    pub(in crate::checkpoint) fn compare(
        saved: Option<&Self>,
        wanted: Option<&Self>,
        manifest: &Path,
    ) -> Result<()> {
        match (saved, wanted) {
            (None, None) => Ok(()),
            (Some(saved), Some(wanted)) => saved.check(wanted, manifest),
            (_, wanted) => {
                let kind = |can_step: bool| {
                    if can_step {
                        "an optimizer that can step small parameters"
                    } else {
                        "an optimizer that panics on small parameters"
                    }
                };
                let can_step = wanted.is_some();
                Err(Error::file(manifest, kind(can_step), kind(!can_step)))
            }
        }
    }

    /// Fails with the first parameter that `self`, saved at `manifest`, steps otherwise than `wanted`.
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
            if !saved.steps_like(wanted) {
                let expected = format!("the save of an optimizer that steps {path} as this one");
                let found = format!("one of another kind, or with other settings; {REMEDY}");
                return Err(Error::file(manifest, expected, found));
            }
        }
        Ok(())
    }

    /// The behaviour on those parameters alone.
    pub(in crate::checkpoint) fn only(mut self, is_wanted: impl Fn(&str) -> bool) -> Self {
        self.of.retain(|path, _| is_wanted(path));
        self
    }

    /// The fields that the optimizer keeps of a parameter.
    pub(in crate::checkpoint) fn kept(&self, path: &str) -> Option<&BTreeSet<String>> {
        self.kind(path).map(|kind| &kind.keeps)
    }

    fn kind(&self, path: &str) -> Option<&ParameterBehaviour> {
        self.kinds.get(*self.of.get(path)?)
    }
}

impl ParameterBehaviour {
    fn steps_like(&self, other: &Self) -> bool {
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

/// The names of state fields, without those that only Burn's file format needs.
fn list(fields: &BTreeSet<String>) -> String {
    let own = fields.iter().filter(|field| !field.starts_with("__"));
    let own: Vec<&str> = own.map(String::as_str).collect();
    if own.is_empty() {
        "nothing".into()
    } else {
        own.join(", ")
    }
}
