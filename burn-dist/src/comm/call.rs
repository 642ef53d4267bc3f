//! The description of a collective, which ranks compare before they run it.
//!
//! Ranks that run different programs would deadlock or add unrelated numbers. So every collective
//! carries a [`Call`], and an engine moves no byte before the calls of all ranks are equal.

use super::Dtype;
use crate::error::{CallLabel, Error};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// The kinds of collectives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// Every rank receives every rank's shard.
    AllGather,
    /// Every rank receives the reduction of its chunk.
    ReduceScatter,
    /// Every rank receives the reduction of the whole buffer.
    AllReduce,
    /// Every rank receives one rank's buffer.
    Broadcast,
    /// Every rank receives a part of its own from every rank.
    AllToAll,
    /// No rank returns before every rank has called it.
    Barrier,
    /// The group is divided.
    Split,
}

impl Op {
    /// The name used in messages and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::AllGather => "all_gather",
            Self::ReduceScatter => "reduce_scatter",
            Self::AllReduce => "all_reduce",
            Self::Broadcast => "broadcast",
            Self::AllToAll => "all_to_all",
            Self::Barrier => "barrier",
            Self::Split => "split",
        }
    }
}

/// How a reduction combines elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reduce {
    /// Their sum.
    Sum,
    /// Their sum divided once by the number of ranks; floats only.
    Mean,
    /// The largest element; a NaN anywhere gives NaN.
    Max,
}

impl Reduce {
    /// Refuses the mean of integers.
    pub(super) fn check(self, dtype: Dtype) -> Result<(), Error> {
        let float = matches!(dtype, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::Bf16);
        if self == Self::Mean && !float {
            let expected = "a float type (sum integers and divide)";
            return Err(Error::config("mean over ranks", expected, dtype));
        }
        Ok(())
    }
}

/// What a collective is for: its unit, and anything else that ranks must agree on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// The unit, as tables and messages name it.
    pub unit: Arc<str>,
    /// More that must be equal on all ranks, for example the set of parameters that take part.
    pub detail: Arc<str>,
}

impl Label {
    /// A label with nothing more to agree on.
    pub fn new(unit: impl Into<Arc<str>>) -> Self {
        Self {
            unit: unit.into(),
            detail: Arc::from(""),
        }
    }

    /// The same unit, with more to agree on.
    pub fn with_detail(&self, detail: impl Into<Arc<str>>) -> Self {
        Self {
            unit: self.unit.clone(),
            detail: detail.into(),
        }
    }
}

impl Label {
    fn to_error(&self) -> CallLabel {
        CallLabel {
            unit: self.unit.to_string(),
            detail: self.detail.to_string(),
        }
    }
}

impl From<&str> for Label {
    fn from(unit: &str) -> Self {
        Self::new(unit)
    }
}

/// Everything that must be equal on all ranks of one collective, and when it was issued.
#[derive(Debug, Clone)]
pub struct Call {
    /// How many collectives this group has issued before.
    pub sequence: u64,
    /// The kind.
    pub op: Op,
    /// The unit it is for, and what else must agree.
    pub label: Label,
    /// The element type.
    pub dtype: Dtype,
    /// Elements that one rank sends; in an all-to-all, what all ranks together send.
    pub len: usize,
    /// How elements are combined, in a reduction.
    pub reduce: Option<Reduce>,
    /// The rank that sends, in a broadcast.
    pub root: Option<usize>,
    /// Training steps completed before. For messages only: communication overlaps with the program,
    /// so ranks may be a step apart in this and still agree.
    pub step: u64,
}

impl PartialEq for Call {
    fn eq(&self, other: &Self) -> bool {
        let Self {
            sequence,
            op,
            label,
            dtype,
            len,
            reduce,
            root,
            step: _,
        } = self;
        *sequence == other.sequence
            && *op == other.op
            && *label == other.label
            && *dtype == other.dtype
            && *len == other.len
            && *reduce == other.reduce
            && *root == other.root
    }
}

impl Eq for Call {}

impl Call {
    /// A call with sequence number 0, without reduction and root.
    ///
    /// An engine needs it only for collectives of its own, such as an exchange of addresses; those of its
    /// users come with their call.
    pub fn new(op: Op, label: &Label, dtype: Dtype, len: usize) -> Self {
        Self {
            sequence: 0,
            op,
            label: label.clone(),
            dtype,
            len,
            reduce: None,
            root: None,
            step: 0,
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.op.name())?;
        if let Some(reduce) = self.reduce {
            write!(f, "({reduce:?})")?;
        }
        if let Some(root) = self.root {
            write!(f, " from rank {root}")?;
        }
        write!(
            f,
            " of {} #{}, step {}",
            self.label.unit, self.sequence, self.step
        )?;
        if !matches!(self.op, Op::Barrier | Op::Split) {
            write!(f, " ({} {})", self.len, self.dtype)?;
        }
        if !self.label.detail.is_empty() {
            write!(f, " [{}]", self.label.detail)?;
        }
        Ok(())
    }
}

/// Compares the calls of all ranks of a group, in rank order; `members` are their ranks in the world.
///
/// # Errors
/// [`Error::Mismatch`], the same on every rank: it names the first rank that deviates from the
/// majority, because with three ranks or more that is the one with the bug.
pub fn agree(calls: &[&Call], members: &[usize]) -> Result<(), Error> {
    match odd_one_out(calls) {
        None => Ok(()),
        Some((reference, odd)) => Err(Error::Mismatch {
            rank: members[reference],
            ours: calls[reference].to_string(),
            peer: members[odd],
            theirs: calls[odd].to_string(),
            labels: Some(Box::new(
                [reference, odd].map(|at| calls[at].label.to_error()),
            )),
        }),
    }
}

/// The index of the first value of the majority, and that of the first value which differs from it;
/// `None` if all are equal. Of equally frequent values the first one is the majority.
pub(crate) fn odd_one_out<T: PartialEq>(all: &[T]) -> Option<(usize, usize)> {
    if all.windows(2).all(|pair| pair[0] == pair[1]) {
        return None;
    }
    let votes = |one: &T| all.iter().filter(|other| *other == one).count();
    let mut majority = (0, 0);
    for (rank, one) in all.iter().enumerate() {
        let votes = votes(one);
        if votes > majority.1 {
            majority = (rank, votes);
        }
    }
    let odd = all.iter().position(|one| *one != all[majority.0])?;
    Some((majority.0, odd))
}
