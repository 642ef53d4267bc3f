//! Whether all ranks have the same: a hash is compared first, and what differs is named.

use crate::comm::{Communicator, Reduce, Span, SpanMut, odd_one_out};
use crate::error::{Error, Result};
use crate::world::World;
use ciborium::Value;
use serde::Serialize;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Characters of a value that a message shows.
const SHOWN: usize = 200;

impl World {
    /// Returns if every rank gives the same value; otherwise an error that names the first field in
    /// which a rank differs from most others, with both values.
    ///
    /// For whatever has to be alike on all ranks and that no collective would notice: a learning rate,
    /// a configuration, a digest of the data. `name` says what it is. The order of a map's keys does
    /// not matter, and floats are compared bit by bit. Collective.
    ///
    /// # Cost
    /// One all-gather of 16 bytes a rank. Where the values differ, their text is gathered too.
    ///
    /// # Errors
    /// [`Error::Disagreement`], the same on every rank; [`Error::Config`] for a value that serde
    /// cannot write; what collectives return.
    ///
    /// ```
    /// use burn_dist::prelude::*;
    ///
    /// let found = Threads::new(2).run(|world| {
    ///     world.agree("options", &[("clip", 1.0)])?;
    ///     let rate = if world.rank() == 1 { 0.2 } else { 0.1 };
    ///     world.agree("options", &std::collections::BTreeMap::from([("lr", rate)]))
    /// });
    /// let found = found.unwrap_err().to_string();
    /// assert!(found.starts_with("options differs between ranks: lr is 0.2 on rank 1"), "{found}");
    /// ```
    pub fn agree<T: Serialize + ?Sized>(&self, name: &str, value: &T) -> Result<()> {
        let value = Value::serialized(value).map_err(|e| {
            let expected = "a value that serde can write";
            Error::config(format!("{name}, to be compared between ranks"), expected, e)
        })?;
        let mut lines = String::new();
        flatten(&mut String::new(), value, &mut lines);
        match compare(self.comm(), name, &lines)? {
            None => Ok(()),
            Some(difference) => Err(difference.disagreement(name)),
        }
    }

    /// As [`agree`](Self::agree), for what can be hashed and not written; the error shows the hashes.
    ///
    /// # Errors
    /// As [`agree`](Self::agree).
    pub fn agree_hash<T: Hash + ?Sized>(&self, name: &str, value: &T) -> Result<()> {
        let mut hash = DefaultHasher::new();
        value.hash(&mut hash);
        self.agree(name, &format!("{:016x}", hash.finish()))
    }
}

/// The first line in which two ranks differ, each as a name and what it is there.
#[derive(Debug, PartialEq)]
pub(crate) struct Difference {
    /// A rank that has what most have, and the first that has something else.
    pub(crate) usual: usize,
    pub(crate) odd: usize,
    pub(crate) usually: Option<(String, String)>,
    pub(crate) oddly: Option<(String, String)>,
}

impl Difference {
    /// The name of the line that differs; one that only one of the ranks has, if there is such a line.
    pub(crate) fn name(&self) -> &str {
        let either = self.oddly.as_ref().or(self.usually.as_ref());
        either.map_or("", |(name, _)| name)
    }

    /// What the usual rank and the odd one have, in words: the name and the value with `joint` between
    /// them, or `nothing` for a rank that has no such line.
    pub(crate) fn describe(&self, joint: &str, nothing: &str) -> [String; 2] {
        [&self.usually, &self.oddly].map(|line| match line {
            Some((name, value)) => format!("{name}{joint}{value}"),
            None => nothing.into(),
        })
    }

    fn disagreement(self, what: &str) -> Error {
        let same = |(a, b): (&(String, String), &(String, String))| a.0 == b.0;
        let is_same = self
            .usually
            .as_ref()
            .zip(self.oddly.as_ref())
            .is_some_and(same);
        let value = |part: &Option<(String, String)>| match part {
            Some((_, value)) if is_same => cut(value),
            Some((name, value)) => cut(&format!("{name} = {value}")),
            None => "nothing more".into(),
        };
        Error::Disagreement {
            what: what.into(),
            field: self.name().into(),
            rank: self.usual,
            ours: value(&self.usually),
            peer: self.odd,
            theirs: value(&self.oddly),
        }
    }
}

/// A text of bounded length.
fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}... ({} bytes)", &text[..end], text.len()),
        None => text.into(),
    }
}

/// One line for every leaf of a value: its path, a tab, and the leaf. A value that is a leaf itself has
/// no path.
fn flatten(path: &mut String, value: Value, lines: &mut String) {
    let mut inside = |name: &str, value: Value, lines: &mut String| {
        let len = path.len();
        if len > 0 && !name.starts_with('[') {
            path.push('.');
        }
        path.push_str(name);
        flatten(path, value, lines);
        path.truncate(len);
    };
    match value {
        Value::Map(entries) => {
            // Hashed maps come in an order that differs from rank to rank.
            let mut entries: Vec<_> = entries.into_iter().map(|(k, v)| (leaf(&k), v)).collect();
            entries.sort_by(|(a, _), (b, _)| a.cmp(b));
            for (name, value) in entries {
                inside(name.trim_matches('"'), value, lines);
            }
        }
        Value::Array(all) => {
            for (at, value) in all.into_iter().enumerate() {
                inside(&format!("[{at}]"), value, lines);
            }
        }
        value => {
            lines.push_str(path);
            lines.push('\t');
            lines.push_str(&leaf(&value));
            lines.push('\n');
        }
    }
}

fn leaf(value: &Value) -> String {
    match value {
        Value::Text(text) => format!("{text:?}"),
        Value::Integer(number) => i128::from(*number).to_string(),
        // Two NaNs of different bits, or a negative zero, are not the same.
        Value::Float(number) if number.is_nan() => format!("NaN ({:016x})", number.to_bits()),
        Value::Float(number) => format!("{number:?}"),
        Value::Bool(is) => is.to_string(),
        Value::Null => "nothing".into(),
        other => format!("{other:?}"),
    }
}

/// Compares a text of lines, each a name, a tab and a value, over the ranks of a group: the first
/// difference, the same on every rank. Collective.
pub(crate) fn compare(comm: &Communicator, what: &str, lines: &str) -> Result<Option<Difference>> {
    let label = what.into();
    let mine = [hash(lines), lines.len() as u64];
    let mut all = vec![0u64; 2 * comm.size()];
    comm.all_gather(&label, Span::of(&mine), SpanMut::of(&mut all))?;
    if all.chunks_exact(2).all(|other| *other == mine) {
        return Ok(None);
    }
    let lengths: Vec<usize> = all.chunks_exact(2).map(|c| c[1] as usize).collect();
    let longest = lengths.iter().copied().max().unwrap_or(0);
    let mut padded = lines.as_bytes().to_vec();
    padded.resize(longest, 0);
    let mut all = vec![0u8; longest * lengths.len()];
    comm.all_gather(&label, Span::of(&padded), SpanMut::of(&mut all))?;
    // A rank that sees the difference first must not leave before the others have it too.
    let mut done = [0u8];
    comm.all_reduce(&label, Reduce::Max, SpanMut::of(&mut done))?;
    let texts = all.chunks_exact(longest).zip(lengths);
    let texts: Vec<_> = texts
        .map(|(text, len)| String::from_utf8_lossy(&text[..len]).into_owned())
        .collect();
    Ok(difference(&texts))
}

fn hash(text: &str) -> u64 {
    let mut hash = DefaultHasher::new();
    text.hash(&mut hash);
    hash.finish()
}

/// The first line in which a rank differs from most others.
pub(crate) fn difference(texts: &[String]) -> Option<Difference> {
    // Of long texts on many ranks, each is read once.
    let hashes: Vec<u64> = texts.iter().map(|text| hash(text)).collect();
    let (usual, odd) = odd_one_out(&hashes)?;
    let (mut ours, mut theirs) = (texts[usual].lines(), texts[odd].lines());
    let (ours, theirs) = loop {
        match (ours.next(), theirs.next()) {
            (None, None) => return None,
            (a, b) if a == b => {}
            different => break different,
        }
    };
    let part = |line: Option<&str>| {
        let (name, how) = line?.split_once('\t')?;
        Some((name.to_owned(), how.to_owned()))
    };
    Some(Difference {
        usual,
        odd,
        usually: part(ours),
        oddly: part(theirs),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn lines<T: Serialize>(value: &T) -> String {
        let mut lines = String::new();
        let value = Value::serialized(value).unwrap();
        flatten(&mut String::new(), value, &mut lines);
        lines
    }

    #[test]
    fn leaves_are_named_and_told_apart() {
        #[derive(Serialize)]
        struct Options {
            lr: f64,
            betas: [f32; 2],
            name: Option<&'static str>,
            inner: HashMap<String, i64>,
        }
        let options = |lr| Options {
            lr,
            betas: [0.5, 0.25],
            name: Some("a\tb\n"),
            inner: (0..20).map(|n| (format!("k{n}"), n)).collect(),
        };
        let found = lines(&options(0.1));
        assert!(found.contains("lr\t0.1\n"), "{found}");
        assert!(found.contains("betas[1]\t0.25\n"), "{found}");
        assert!(found.contains("name\t\"a\\tb\\n\"\n"), "{found}");
        assert!(found.contains("inner.k7\t7\n"), "{found}");
        // A map made anew has another order of its own.
        assert_eq!(found, lines(&options(0.1)));
        let odd = [f64::NAN, f64::INFINITY, -0.0, 0.0].map(|lr| lines(&options(lr)));
        assert!((0..4).all(|a| (0..a).all(|b| odd[a] != odd[b])));
    }

    #[test]
    fn a_long_value_does_not_make_a_long_message() {
        let texts = ["a", "b"].map(|c| format!("text\t{}\n", c.repeat(1 << 20)));
        let error = difference(&texts).unwrap().disagreement("options");
        assert!(error.to_string().len() < 1000);
    }

    #[test]
    fn a_field_that_one_rank_lacks_is_named() {
        let texts = ["a\t1\nb\t2\n", "a\t1\nb\t2\n", "a\t1\n"].map(String::from);
        let error = difference(&texts).unwrap().disagreement("options");
        let expected =
            "options differs between ranks: b is nothing more on rank 2, where rank 0 has b = 2";
        assert!(error.to_string().starts_with(expected), "{error}");
    }
}
