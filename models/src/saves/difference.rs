//! What differs between two saves.

use burn::tensor::TensorData;
use burn_dist::Result;
use burn_dist::checkpoint::{SaveContents, TensorContents};
use std::collections::BTreeMap;
use std::fmt;

/// Elements of each save that are in memory at a time.
const AT_A_TIME: usize = 1 << 20;

/// A tensor, number or state that two saves do not have alike.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Difference {
    /// Which one: `models/MODEL/PATH`, `optimizers/MODEL/PATH/FIELD`, or `states/NAME`.
    pub name: String,
    /// The two sides, in words.
    pub sides: String,
    /// The largest absolute difference of two elements; NaN if one is none, and none where no elements are compared.
    pub largest: Option<f64>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.sides)
    }
}

/// The differences between two saves, in the order of their names.
///
/// Steps, metrics, ranks and strategies are not compared, and NaNs of the same bits are equal. `progress` is called with
/// the bytes of each part of the second save's tensors.
///
/// # Cost
/// Of each save, 2<sup>20</sup> elements are in memory.
///
/// # Errors
/// As [`SaveContents::read`].
///
/// ```
/// use burn::nn::LinearConfig;
/// use burn_dist::checkpoint::{Save, SaveContents, Which};
/// use burn_dist::prelude::*;
/// use burn_dist_models::saves::differences;
///
/// # let folder = tempfile::tempdir().unwrap();
/// # let runs = ["a", "b"].map(|name| folder.path().join(name));
/// for (seed, run) in (1..).zip(&runs) {
///     Threads::new(2).seed(seed).run(|world| {
///         let layer = LinearConfig::new(8, 4).init(&world.device());
///         let layer = Strategy::fsdp().shard(layer, &world)?;
///         world.checkpointer(run)?.save(Save::new(1).weights("model", &layer))
///     })?;
/// }
/// let [a, b] = runs.map(|run| SaveContents::open(run, Which::Latest));
/// let (a, b) = (a?, b?);
/// assert!(differences(&a, &a, |_bytes| {})?.is_empty());
/// let found = differences(&a, &b, |_bytes| {})?;
/// assert!(found.iter().any(|difference| difference.name == "models/model/weight"));
/// # Ok::<(), burn_dist::Error>(())
/// ```
pub fn differences(
    a: &SaveContents,
    b: &SaveContents,
    mut progress: impl FnMut(u64),
) -> Result<Vec<Difference>> {
    let mut found = Vec::new();
    let mut note = |name: &str, sides: String, largest| {
        found.push(Difference {
            name: name.into(),
            sides,
            largest,
        });
    };
    let (own, others) = (tensors(a), tensors(b));
    for (name, pair) in pairs(&own, &others) {
        match pair {
            (Some(x), Some(y)) if x.shape == y.shape => {
                let compared = compare((a, x), (b, y), &mut progress)?;
                if x.dtype != y.dtype {
                    let sides = format!("{} and {}", x.dtype.name(), y.dtype.name());
                    note(name, format!("{sides}, {compared}"), Some(compared.largest));
                } else if compared.count > 0 {
                    note(name, compared.to_string(), Some(compared.largest));
                }
            }
            (x, y) => {
                let side = |side: Option<&&TensorContents>| {
                    side.map_or("none".into(), |t| {
                        format!("{:?} {}", t.shape, t.dtype.name())
                    })
                };
                note(name, format!("{} and {}", side(x), side(y)), None);
            }
        }
    }
    let (own, others) = (texts(a), texts(b));
    for (name, (x, y)) in pairs(&own, &others) {
        if x != y {
            let side = |side: Option<&String>| side.map_or("none".into(), String::clone);
            note(name, format!("{} and {}", side(x), side(y)), None);
        }
    }
    Ok(found)
}

type Pairs<'a, T> = BTreeMap<&'a str, (Option<&'a T>, Option<&'a T>)>;

fn pairs<'a, T>(a: &'a BTreeMap<String, T>, b: &'a BTreeMap<String, T>) -> Pairs<'a, T> {
    let names = a.keys().chain(b.keys());
    names
        .map(|name| (name.as_str(), (a.get(name), b.get(name))))
        .collect()
}

/// All tensors by their full names.
fn tensors(save: &SaveContents) -> BTreeMap<String, &TensorContents> {
    let mut all = BTreeMap::new();
    for (name, model) in &save.models {
        let own = model.tensors.iter();
        all.extend(own.map(|t| (format!("models/{name}/{}", t.name), t)));
        let states = model.optimizer.iter().flat_map(|o| &o.tensors);
        all.extend(states.map(|t| (format!("optimizers/{name}/{}", t.name), t)));
    }
    all
}

/// All numbers and states.
fn texts(save: &SaveContents) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for (name, model) in &save.models {
        let forwards = model.forwards.iter();
        all.extend(forwards.map(|(part, n)| (format!("forwards/{name}/{part}"), n.to_string())));
        let scalars = model.optimizer.iter().flat_map(|o| &o.scalars);
        all.extend(scalars.map(|(key, text)| (format!("optimizers/{name}/{key}"), text.clone())));
        // One without an optimizer is told apart from one that has made no step.
        let has = if model.optimizer.is_some() {
            "yes"
        } else {
            "no"
        };
        all.insert(format!("optimizers/{name}"), has.into());
    }
    let states = save.states.iter();
    all.extend(states.map(|(name, json)| (format!("states/{name}"), json.clone())));
    all
}

/// The elements that differ: how many, and the first of those that differ most.
struct Compared {
    count: usize,
    of: usize,
    largest: f64,
    at: Vec<usize>,
}

impl fmt::Display for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            count,
            of,
            largest,
            at,
        } = self;
        write!(f, "{count} of {of} elements differ")?;
        match count {
            0 => Ok(()),
            _ => write!(f, ", by up to {largest:.3e}, at {at:?}"),
        }
    }
}

fn compare(
    (a, x): (&SaveContents, &TensorContents),
    (b, y): (&SaveContents, &TensorContents),
    progress: &mut impl FnMut(u64),
) -> Result<Compared> {
    let of = x.elements();
    let (mut count, mut largest, mut at) = (0, 0.0, 0);
    for start in (0..of).step_by(AT_A_TIME) {
        let part = start..of.min(start + AT_A_TIME);
        let read = |save: &SaveContents, tensor: &TensorContents| {
            let mut bytes = vec![0; part.len() * tensor.dtype.size()];
            save.read(tensor, part.clone(), &mut bytes)?;
            Ok::<_, burn_dist::Error>(bytes)
        };
        let (left, right) = (read(a, x)?, read(b, y)?);
        progress(right.len() as u64);
        if left == right && x.dtype == y.dtype {
            continue;
        }
        let numbers = |bytes: Vec<u8>, tensor: &TensorContents| {
            TensorData::from_bytes_vec(bytes, [part.len()], tensor.dtype)
                .convert_dtype(burn::tensor::DType::F64)
        };
        let same = left
            .chunks(x.dtype.size())
            .zip(right.chunks(y.dtype.size()));
        let same: Vec<bool> = same.map(|(a, b)| a == b && x.dtype == y.dtype).collect();
        let (left, right) = (numbers(left, x), numbers(right, y));
        let pairs = left.iter::<f64>().zip(right.iter::<f64>()).zip(same);
        for (offset, ((p, q), same)) in pairs.enumerate() {
            // Signed zeros differ in their bits, and equal infinities of two types by NaN.
            if same || (p == q && x.dtype != y.dtype) {
                continue;
            }
            let difference = if p == q { 0.0 } else { (p - q).abs() };
            let is_more = difference > largest || (difference.is_nan() && !f64::is_nan(largest));
            if count == 0 || is_more {
                (largest, at) = (difference, start + offset);
            }
            count += 1;
        }
    }
    Ok(Compared {
        count,
        of,
        largest,
        at: index_of(at, &x.shape),
    })
}

/// The index of an element, from its number in row-major order.
fn index_of(mut number: usize, shape: &[usize]) -> Vec<usize> {
    let mut index: Vec<usize> = Vec::new();
    for size in shape.iter().rev() {
        let size = (*size).max(1);
        index.push(number % size);
        number /= size;
    }
    index.reverse();
    index
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_have_an_index() {
        assert_eq!(index_of(7, &[2, 4]), [1, 3]);
        assert_eq!(index_of(0, &[]), [0; 0]);
        assert_eq!(index_of(11, &[1, 3, 4]), [0, 2, 3]);
    }
}
