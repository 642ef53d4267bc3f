//! The check that all ranks shard the same model with the same strategy and seed.
//!
//! Without it, ranks with different models would fail in a later collective, or compute wrong results.

use super::survey::{Buffer, Surveyed};
use crate::agreement::{Difference, compare};
use crate::comm::{Reduce, SpanMut};
use crate::error::{Error, Result};
use crate::layout::Parameter;
use crate::quantization;
use crate::strategy::Strategy;
use crate::world::World;
use std::collections::BTreeSet;

/// Returns if all ranks have this model, this strategy and this seed. Collective.
pub(crate) fn agree(world: &World, strategy: &Strategy, model: &Surveyed) -> Result<()> {
    let lines = describe(world.seed(), strategy, model);
    match compare(world.comm(), "model", &lines)? {
        None => Ok(()),
        Some(difference) => Err(model_mismatch(&difference)),
    }
}

/// The paths, without those that are given values anyway, at which any rank has a value already.
/// Collective; of a model that is lazy on every rank only a byte is compared.
pub(crate) fn valued(
    world: &World,
    model: &Surveyed,
    is_given: impl Fn(&str) -> bool,
) -> Result<BTreeSet<String>> {
    let parameters = model.parameters.iter().map(|p| &p.path);
    let paths = parameters.chain(model.buffers.iter().map(|b| &b.path));
    let paths: Vec<&String> = paths.filter(|path| !is_given(path)).collect();
    let has = |path: &&String| u8::from(model.valued.contains(*path));
    let mut valued: Vec<u8> = paths.iter().map(has).collect();
    let mut any = [u8::from(valued.contains(&1))];
    let (comm, label) = (world.comm(), "model".into());
    comm.all_reduce(&label, Reduce::Max, SpanMut::of(&mut any))?;
    if world.size() == 1 || any == [0] {
        return Ok(BTreeSet::new());
    }
    comm.all_reduce(&label, Reduce::Max, SpanMut::of(&mut valued))?;
    let valued = paths.into_iter().zip(valued).filter(|(_, v)| *v != 0);
    Ok(valued.map(|(path, _)| path.clone()).collect())
}

/// One line for everything that must be equal: what it is, a tab, and how it is here.
fn describe(seed: u64, strategy: &Strategy, model: &Surveyed) -> String {
    let check = strategy.check_units == Some(true);
    let mut lines = format!("strategy\t{strategy}\nseed\t{seed}\ncheck of units\t{check}\n");
    for Parameter {
        path,
        unit,
        shape,
        dtype,
        quantized,
        trainable,
        replicated,
    } in &model.parameters
    {
        let kind = if *trainable { "trainable" } else { "frozen" };
        let unit = if unit.is_empty() { "root" } else { unit };
        let stored = if *replicated { ", replicated" } else { "" };
        let codes = quantized.as_ref().map(quantization::name);
        let codes = codes.map_or(String::new(), |codes| format!(", quantized as {codes}"));
        let dtype = dtype.name();
        lines += &format!("{path}\t{shape:?} {dtype}, {kind}, in unit {unit}{stored}{codes}\n");
    }
    for path in &model.ignored {
        lines += &format!("{path}\tignored\n");
    }
    for Buffer { path, shape, dtype } in &model.buffers {
        lines += &format!("{path}\t{shape:?} {}, buffer\n", dtype.name());
    }
    lines
}

/// The error for models that differ between ranks, with the first difference.
fn model_mismatch(difference: &Difference) -> Error {
    let Difference { usual, odd, .. } = difference;
    let [usually, oddly] = difference.describe(" ", "no more parameters");
    Error::model(
        difference.name(),
        format!(
            "rank {odd} runs another model, of which this is the first difference: rank {odd} has \
             {oddly}, rank {usual} has {usually}"
        ),
        "build it from the same config on every rank",
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::agreement::difference;

    fn message(models: &[&str]) -> String {
        let models: Vec<String> = models.iter().map(|m| m.replace(';', "\n")).collect();
        model_mismatch(&difference(&models).unwrap()).to_string()
    }

    #[test]
    fn the_odd_rank_and_the_first_difference_are_named() {
        let usual = "seed\t0;a\t[2];b\t[3];";
        let error = message(&[usual, usual, "seed\t0;a\t[2];b\t[4];", usual]);
        assert!(error.starts_with("b: rank 2 runs another model"), "{error}");
        assert!(
            error.contains("rank 2 has b [4], rank 0 has b [3]"),
            "{error}"
        );
    }

    #[test]
    fn one_parameter_more_or_less_is_a_difference_too() {
        let usual = "a\t[2];b\t[3];";
        let more = message(&[usual, "a\t[2];b\t[3];c\t[1];", usual]);
        assert!(
            more.contains("rank 1 has c [1], rank 0 has no more parameters"),
            "{more}"
        );
        let less = message(&["a\t[2];", usual, usual]);
        assert!(less.starts_with("b: rank 0"), "{less}");
    }
}
