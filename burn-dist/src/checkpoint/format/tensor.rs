//! A tensor of a save: its global facts, and which file holds which of its elements.

use crate::file_type::KNOWN;
use burn::tensor::DType;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Range;

/// What a tensor is to training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::checkpoint) enum Kind {
    /// A parameter that takes gradients.
    Trainable,
    /// A parameter that takes none.
    Frozen,
    /// Running state, such as a batch norm's.
    Buffer,
    /// An optimizer's state of a parameter.
    State,
}

/// A run of a tensor's elements, in row-major order, that a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "[usize; 3]", into = "[usize; 3]")]
pub(in crate::checkpoint) struct Piece {
    /// The file's number in the manifest.
    pub(in crate::checkpoint) file: usize,
    pub(in crate::checkpoint) start: usize,
    pub(in crate::checkpoint) end: usize,
}

impl From<[usize; 3]> for Piece {
    fn from([file, start, end]: [usize; 3]) -> Self {
        Self { file, start, end }
    }
}

impl From<Piece> for [usize; 3] {
    fn from(piece: Piece) -> Self {
        [piece.file, piece.start, piece.end]
    }
}

/// What is true of a tensor whatever the ranks and their strategy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::checkpoint) struct TensorFacts {
    /// Its path in the model; for an optimizer's state, `/` and the field follow.
    pub(in crate::checkpoint) name: String,
    /// The full shape.
    pub(in crate::checkpoint) shape: Vec<usize>,
    pub(in crate::checkpoint) dtype: String,
    pub(in crate::checkpoint) kind: Kind,
    /// What its bytes are, if they are those of a quantized parameter: the scheme, the shape and the type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::checkpoint) quantized: Option<String>,
}

/// A tensor as the manifest lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::checkpoint) struct SavedTensor {
    #[serde(flatten)]
    pub(in crate::checkpoint) facts: TensorFacts,
    /// In the order of their elements, of which each is in one piece.
    pub(in crate::checkpoint) pieces: Vec<Piece>,
}

impl TensorFacts {
    /// Number of elements; `None` beyond what a machine can address.
    pub(in crate::checkpoint) fn elements(&self) -> Option<usize> {
        let mut sizes = self.shape.iter();
        sizes.try_fold(1usize, |all, size| all.checked_mul(*size))
    }

    /// Whether it is a parameter that takes gradients.
    pub(in crate::checkpoint) fn trains(&self) -> bool {
        self.kind == Kind::Trainable
    }

    /// Its type, if it is one that saves hold.
    pub(in crate::checkpoint) fn dtype(&self) -> Option<DType> {
        let mut types = KNOWN.iter().map(|(_, dtype)| *dtype);
        types.find(|dtype| dtype.name() == self.dtype)
    }
}

impl fmt::Display for TensorFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Trainable => "trainable",
            Kind::Frozen => "frozen",
            Kind::Buffer => "running state",
            Kind::State => "optimizer state",
        };
        write!(f, "{} {:?} {}, {kind}", self.name, self.shape, self.dtype)?;
        match &self.quantized {
            Some(quantized) => write!(f, ", {quantized}"),
            None => Ok(()),
        }
    }
}

impl SavedTensor {
    /// What is wrong with its numbers; they are of a file that anybody may have written.
    pub(in crate::checkpoint) fn fault(&self, files: usize) -> Option<String> {
        let name = &self.facts.name;
        let Some(len) = self.facts.elements() else {
            return Some(format!("{name} of shape {:?}", self.facts.shape));
        };
        if self.facts.dtype().is_none() {
            return Some(format!("{name} of type {}", self.facts.dtype));
        }
        let mut next = 0;
        for Piece { file, start, end } in &self.pieces {
            if *file >= files {
                return Some(format!("{name} in file {file} of {files}"));
            }
            if *start != next || end <= start || *end > len {
                return Some(format!(
                    "{name}, of {len} elements, with a piece from {start} to {end} after {next}"
                ));
            }
            next = *end;
        }
        let lacks = next != len;
        lacks.then(|| format!("{name} with {next} of {len} elements"))
    }

    /// The pieces that hold elements of a range, each with those of its elements that are in the range.
    pub(in crate::checkpoint) fn within(
        &self,
        range: Range<usize>,
    ) -> impl Iterator<Item = (Piece, Range<usize>)> {
        // Pieces are in order, so the first one is found without looking at all.
        let first = self
            .pieces
            .partition_point(|piece| piece.end <= range.start);
        let end = range.end;
        let touched = self.pieces[first..]
            .iter()
            .take_while(move |p| p.start < end);
        let parts = touched.map(move |piece| {
            let part = piece.start.max(range.start)..piece.end.min(range.end);
            (*piece, part)
        });
        parts.filter(|(_, part)| !part.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(shape: &[usize], pieces: &[[usize; 3]]) -> SavedTensor {
        SavedTensor {
            facts: TensorFacts {
                name: "weight".into(),
                shape: shape.to_vec(),
                dtype: "f32".into(),
                kind: Kind::Trainable,
                quantized: None,
            },
            pieces: pieces.iter().copied().map(Piece::from).collect(),
        }
    }

    #[test]
    fn absurd_numbers_are_found() {
        for (tensor, words) in [
            (tensor(&[usize::MAX, 2], &[]), "of shape"),
            (tensor(&[4], &[[2, 0, 4]]), "in file 2 of 2"),
            (tensor(&[4], &[[0, 0, 5]]), "from 0 to 5"),
            (tensor(&[4], &[[0, 0, 2], [1, 1, 4]]), "from 1 to 4 after 2"),
            (tensor(&[4], &[[0, 0, 2], [1, 3, 4]]), "from 3 to 4 after 2"),
            (tensor(&[4], &[[0, 0, 2]]), "2 of 4"),
            (tensor(&[4], &[[0, 0, 4], [0, 4, 4]]), "from 4 to 4"),
        ] {
            let fault = tensor.fault(2).unwrap_or_default();
            assert!(fault.contains(words), "{fault:?} has no {words:?}");
        }
        assert_eq!(tensor(&[2, 2], &[[0, 0, 1], [1, 1, 4]]).fault(2), None);
        assert_eq!(tensor(&[0, 3], &[]).fault(0), None);
    }

    #[test]
    fn a_range_is_found_in_its_pieces() {
        let tensor = tensor(&[10], &[[0, 0, 4], [1, 4, 6], [2, 6, 10]]);
        let found: Vec<_> = tensor.within(3..7).map(|(p, r)| (p.file, r)).collect();
        assert_eq!(found, [(0, 3..4), (1, 4..6), (2, 6..7)]);
        assert_eq!(tensor.within(4..6).count(), 1);
        assert_eq!(tensor.within(5..5).count(), 0);
        assert_eq!(tensor.within(10..10).count(), 0);
    }
}
