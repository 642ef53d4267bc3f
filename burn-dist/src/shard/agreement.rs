//! Makes sure that all ranks shard the same model in the same way.
//!
//! Ranks that build different models would otherwise meet in a gather of unequal length at best.
//! So before anything is cut they compare a hash, and if that differs, everything, line by line.

use crate::comm::{Communicator, Reduce, Span, SpanMut, odd_one_out};
use crate::error::{Error, Result};
use crate::layout::Parameter;
use crate::strategy::Strategy;
use crate::world::World;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Returns if all ranks have these parameters, this strategy and this seed. Collective.
pub(super) fn agree(world: &World, strategy: &Strategy, parameters: &[Parameter]) -> Result<()> {
    let mine = describe(world.seed(), strategy, parameters);
    let sent = [hash(&mine), mine.len() as u64];
    let mut all = vec![0u64; 2 * world.size()];
    let (comm, label) = (world.comm(), "model".into());
    comm.all_gather(&label, Span::of(&sent), SpanMut::of(&mut all))?;
    if all.chunks_exact(2).all(|other| *other == sent) {
        return Ok(());
    }
    let lengths: Vec<usize> = all.chunks_exact(2).map(|c| c[1] as usize).collect();
    let models = exchange(comm, mine.as_bytes(), &lengths)?;
    difference(&models)
}

/// One line for everything that must be equal: what it is, a tab, and how it is here.
fn describe(seed: u64, strategy: &Strategy, parameters: &[Parameter]) -> String {
    let mut lines = format!("strategy\t{strategy}\nseed\t{seed}\n");
    for Parameter {
        path,
        unit,
        shape,
        dtype,
        trainable,
        whole,
    } in parameters
    {
        let kind = if *trainable { "trainable" } else { "frozen" };
        let place = if unit.is_empty() { "root" } else { unit };
        let stored = if *whole { ", stored whole" } else { "" };
        let dtype = dtype.name();
        lines += &format!("{path}\t{shape:?} {dtype}, {kind}, in unit {place}{stored}\n");
    }
    lines
}

/// Every rank's description, by rank.
fn exchange(comm: &Communicator, mine: &[u8], lengths: &[usize]) -> Result<Vec<String>> {
    let longest = lengths.iter().copied().max().unwrap_or(0);
    let mut padded = mine.to_vec();
    padded.resize(longest, 0);
    let mut all = vec![0u8; longest * lengths.len()];
    comm.all_gather(&"model".into(), Span::of(&padded), SpanMut::of(&mut all))?;
    // A rank that sees the error first must not leave before the others have it too.
    let mut done = [0u8];
    comm.all_reduce(&"model".into(), Reduce::Max, SpanMut::of(&mut done))?;
    let texts = all.chunks_exact(longest).zip(lengths);
    Ok(texts
        .map(|(text, len)| String::from_utf8_lossy(&text[..*len]).into_owned())
        .collect())
}

fn hash(text: &str) -> u64 {
    let mut hash = DefaultHasher::new();
    text.hash(&mut hash);
    hash.finish()
}

/// The first line in which a rank differs from most others, as an error that is the same on all.
fn difference(models: &[String]) -> Result<()> {
    // Of long texts on many ranks, each is read once.
    let hashes: Vec<u64> = models.iter().map(|model| hash(model)).collect();
    let Some((usual, odd)) = odd_one_out(&hashes) else {
        return Ok(());
    };
    let (mut ours, mut theirs) = (models[usual].lines(), models[odd].lines());
    let (ours, theirs) = loop {
        match (ours.next(), theirs.next()) {
            (None, None) => return Ok(()),
            (a, b) if a == b => {}
            different => break different,
        }
    };
    let part = |line: Option<&str>| match line.and_then(|line| line.split_once('\t')) {
        Some((name, how)) => (name.to_owned(), format!("{name} {how}")),
        None => ("the end".into(), "no more parameters".into()),
    };
    let ((name, usually), (other, oddly)) = (part(ours), part(theirs));
    let path = if theirs.is_some() { other } else { name };
    Err(Error::model(
        path,
        format!(
            "rank {odd} runs another model, of which this is the first difference: rank {odd} has \
             {oddly}, rank {usual} has {usually}"
        ),
        "build it from the same config on every rank",
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn said(models: &[&str]) -> String {
        let models: Vec<String> = models.iter().map(|m| m.replace(';', "\n")).collect();
        difference(&models).unwrap_err().to_string()
    }

    #[test]
    fn the_odd_rank_and_the_first_difference_are_named() {
        let usual = "seed\t0;a\t[2];b\t[3];";
        let error = said(&[usual, usual, "seed\t0;a\t[2];b\t[4];", usual]);
        assert!(error.starts_with("b: rank 2 runs another model"), "{error}");
        assert!(
            error.contains("rank 2 has b [4], rank 0 has b [3]"),
            "{error}"
        );
    }

    #[test]
    fn one_parameter_more_or_less_is_a_difference_too() {
        let usual = "a\t[2];b\t[3];";
        let more = said(&[usual, "a\t[2];b\t[3];c\t[1];", usual]);
        assert!(
            more.contains("rank 1 has c [1], rank 0 has no more parameters"),
            "{more}"
        );
        let less = said(&["a\t[2];", usual, usual]);
        assert!(less.starts_with("b: rank 0"), "{less}");
    }
}
