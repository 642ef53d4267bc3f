//! A part of a dataset, and the division of one into parts.

use super::{Dataset, Stream};
use crate::error::{Error, Result};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// Some samples of a dataset, in an order of their own.
///
/// ```
/// use burn_dist::data::{Dataset, Subset};
///
/// let some = Subset::new(vec!['a', 'b', 'c'], vec![2, 0])?;
/// assert_eq!((some.len(), some.get(0)?), (2, 'c'));
/// # Ok::<(), burn_dist::Error>(())
/// ```
///
/// # Source
/// PyTorch: `torch.utils.data.Subset`.
#[derive(Debug, Clone)]
pub struct Subset<D> {
    inner: D,
    indices: Arc<[usize]>,
}

impl<D: Dataset> Subset<D> {
    /// The samples at `indices`.
    ///
    /// # Errors
    /// [`Error::Config`] for an index behind the end.
    pub fn new(inner: D, indices: Vec<usize>) -> Result<Self> {
        if let Some(behind) = indices.iter().find(|index| **index >= inner.len()) {
            let expected = format!("below {}, the samples that there are", inner.len());
            return Err(Error::config("an index of a subset", expected, behind));
        }
        Ok(Self {
            inner,
            indices: indices.into(),
        })
    }

    /// So many samples, drawn without repetition: the same for the same seed.
    ///
    /// # Errors
    /// [`Error::Config`] if there are fewer.
    ///
    /// ```
    /// use burn_dist::data::{Dataset, Subset};
    ///
    /// let some = Subset::random((0..100).collect::<Vec<_>>(), 10, 7)?;
    /// assert_eq!(some.len(), 10);
    /// assert!(Subset::random(vec![1, 2], 3, 7).is_err());
    /// # Ok::<(), burn_dist::Error>(())
    /// ```
    pub fn random(inner: D, samples: usize, seed: u64) -> Result<Self> {
        if samples > inner.len() {
            let expected = format!("at most {}, the samples that there are", inner.len());
            return Err(Error::config("the size of a subset", expected, samples));
        }
        let mut order = permutation(inner.len(), seed);
        order.truncate(samples);
        Self::new(inner, order)
    }

    /// The same samples of another dataset of as many, such as the same images scaled in another way.
    ///
    /// # Errors
    /// [`Error::Config`] if it has another number of samples.
    ///
    /// ```
    /// use burn_dist::data::{Dataset, Subset};
    ///
    /// let letters = Subset::new(vec!['a', 'b', 'c'], vec![2, 0])?;
    /// assert_eq!(letters.of(vec![10, 11, 12])?.get(0)?, 12);
    /// # Ok::<(), burn_dist::Error>(())
    /// ```
    pub fn of<E: Dataset>(&self, other: E) -> Result<Subset<E>> {
        if other.len() != self.inner.len() {
            let expected = format!(
                "{}, as in the dataset they were chosen from",
                self.inner.len()
            );
            return Err(Error::config(
                "the samples of another dataset",
                expected,
                other.len(),
            ));
        }
        Ok(Subset {
            inner: other,
            indices: self.indices.clone(),
        })
    }

    /// These samples without `held_out` of them, and those.
    ///
    /// # Errors
    /// As [`random_split`].
    pub fn split(self, held_out: usize, seed: u64) -> Result<(Self, Self)>
    where
        D: Clone,
    {
        let order = splits(self.len(), held_out, seed)?;
        let at = |places: &[usize]| Self {
            inner: self.inner.clone(),
            indices: places.iter().map(|at| self.indices[*at]).collect(),
        };
        Ok((at(&order.0), at(&order.1)))
    }
}

/// Divides a dataset at random into the samples to train with and `held_out` others, the same for the same seed.
///
/// # Errors
/// [`Error::Config`] if one of the two parts would be empty.
///
/// ```
/// use burn_dist::data::{Dataset, random_split};
///
/// let (train, validation) = random_split((0..100).collect::<Vec<_>>(), 10, 7)?;
/// assert_eq!((train.len(), validation.len()), (90, 10));
/// # Ok::<(), burn_dist::Error>(())
/// ```
///
/// # Source
/// PyTorch: `torch.utils.data.random_split`.
pub fn random_split<D: Dataset + Clone>(
    data: D,
    held_out: usize,
    seed: u64,
) -> Result<(Subset<D>, Subset<D>)> {
    let (train, out) = splits(data.len(), held_out, seed)?;
    Ok((Subset::new(data.clone(), train)?, Subset::new(data, out)?))
}

/// The indices of both parts of a split.
fn splits(len: usize, held_out: usize, seed: u64) -> Result<(Vec<usize>, Vec<usize>)> {
    if held_out == 0 || held_out >= len {
        let expected = format!("at least 1 and fewer than {len}, the samples that there are");
        return Err(Error::config("the samples held out", expected, held_out));
    }
    let mut train = permutation(len, seed);
    let out = train.split_off(len - held_out);
    Ok((train, out))
}

fn permutation(len: usize, seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..len).collect();
    Stream::new(*b"splits__", seed, 0, 0).shuffle(&mut order);
    order
}

impl<D: Dataset> Dataset for Subset<D> {
    type Item = D::Item;

    fn len(&self) -> usize {
        self.indices.len()
    }

    fn get(&self, index: usize) -> Result<Self::Item> {
        self.inner.get(self.at(index)?)
    }

    fn get_in_epoch(&self, index: usize, epoch: u64) -> Result<Self::Item> {
        self.inner.get_in_epoch(self.at(index)?, epoch)
    }
}

impl<D> Subset<D> {
    /// Where a sample is in the whole dataset.
    fn at(&self, index: usize) -> Result<usize> {
        self.indices.get(index).copied().ok_or_else(|| {
            let expected = format!("less than the {} samples there are", self.indices.len());
            Error::config("sample index", expected, index)
        })
    }
}

impl<D: Hash> Hash for Subset<D> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.inner.hash(state);
        self.indices.hash(state);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn all(data: &Subset<Vec<usize>>) -> BTreeSet<usize> {
        (0..data.len()).map(|i| data.get(i).unwrap()).collect()
    }

    #[test]
    fn the_parts_of_a_split_are_disjoint_and_complete() {
        let samples: Vec<usize> = (0..53).collect();
        for seed in 0..20 {
            let (train, out) = random_split(samples.clone(), 7, seed).unwrap();
            let (train, out) = (all(&train), all(&out));
            assert_eq!((train.len(), out.len()), (46, 7));
            assert!(train.is_disjoint(&out));
        }
        let first = |seed| all(&random_split(samples.clone(), 7, seed).unwrap().1);
        assert_eq!(first(3), first(3));
        assert_ne!(first(3), first(4));
    }

    #[test]
    fn what_cannot_be_divided_is_an_error_with_both_numbers() {
        let samples: Vec<usize> = (0..5).collect();
        for held_out in [0, 5, 9] {
            let error = random_split(samples.clone(), held_out, 1).unwrap_err();
            let error = error.to_string();
            assert!(
                error.contains("fewer than 5") && error.contains(&held_out.to_string()),
                "{error}"
            );
        }
        let error = Subset::random(samples.clone(), 6, 1)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("at most 5") && error.contains('6'),
            "{error}"
        );
        assert!(Subset::new(samples.clone(), vec![5]).is_err());
        let some = Subset::new(samples, vec![1]).unwrap();
        assert!(some.get(1).is_err());
    }
}
