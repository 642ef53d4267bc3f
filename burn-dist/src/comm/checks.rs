//! The checks before a collective, for host and device memory alike: each returns the call to
//! compare between ranks and the bytes to count in the ledger.

use super::{Call, DeviceBuffer, Dtype, Label, Op, Parts, Reduce, Span, SpanMut};
use crate::error::{Error, Result};
use std::fmt;

/// A number of elements of one type, in host or device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Elements {
    len: usize,
    dtype: Dtype,
}

impl Elements {
    fn size(self) -> usize {
        self.len * self.dtype.size()
    }

    /// As many elements from each of `ranks` ranks.
    pub(super) fn times(self, ranks: usize) -> Self {
        let len = self.len * ranks;
        Self { len, ..self }
    }
}

impl fmt::Display for Elements {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.len, self.dtype)
    }
}

macro_rules! elements_of {
    ($($memory:ty),*) => { $(impl From<&$memory> for Elements {
        fn from(memory: &$memory) -> Self {
            let (len, dtype) = (memory.len(), memory.dtype());
            Self { len, dtype }
        }
    })* };
}
elements_of!(Span<'_>, SpanMut<'_>, DeviceBuffer);

/// A call whose arguments are valid, and how many bytes this rank sends in it.
pub(super) type Checked = (Call, usize);

/// The rank whose arguments are checked, and the size of its group.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller {
    pub(super) rank: usize,
    pub(super) size: usize,
}

impl Caller {
    /// An all-gather where every rank has written its shard of `buffer`.
    pub(super) fn all_gather(self, label: &Label, buffer: impl Into<Elements>) -> Result<Checked> {
        let (buffer, size) = (buffer.into(), self.size);
        if !buffer.len.is_multiple_of(size) {
            let expected = format!("a buffer that {size} ranks can share evenly");
            return Err(self.refused(Op::AllGather, label, expected, buffer.len));
        }
        let call = Call::new(Op::AllGather, label, buffer.dtype, buffer.len / size);
        Ok((call, buffer.size() / size * (size - 1)))
    }

    /// A reduce-scatter of `send` into `recv`.
    pub(super) fn reduce_scatter(
        self,
        label: &Label,
        op: Reduce,
        send: impl Into<Elements>,
        recv: impl Into<Elements>,
    ) -> Result<Checked> {
        let (send, recv) = (send.into(), recv.into());
        let whole = recv.times(self.size);
        op.check(send.dtype)?;
        if send != whole {
            let expected = format!("to send {whole} for {} ranks", self.size);
            return Err(self.refused(Op::ReduceScatter, label, expected, send));
        }
        let mut call = Call::new(Op::ReduceScatter, label, send.dtype, send.len);
        call.reduce = Some(op);
        Ok((call, recv.size() * (self.size - 1)))
    }

    /// An all-reduce of `buffer`.
    pub(super) fn all_reduce(
        self,
        label: &Label,
        op: Reduce,
        buffer: impl Into<Elements>,
    ) -> Result<Checked> {
        let (buffer, size) = (buffer.into(), self.size);
        op.check(buffer.dtype)?;
        let mut call = Call::new(Op::AllReduce, label, buffer.dtype, buffer.len);
        call.reduce = Some(op);
        Ok((call, 2 * buffer.size() * (size - 1) / size))
    }

    /// A broadcast of the `buffer` of rank `root`.
    pub(super) fn broadcast(
        self,
        label: &Label,
        root: usize,
        buffer: impl Into<Elements>,
    ) -> Result<Checked> {
        let buffer = buffer.into();
        if root >= self.size {
            let expected = format!("a rank below {}", self.size);
            return Err(Error::config("root of a broadcast", expected, root));
        }
        let mut call = Call::new(Op::Broadcast, label, buffer.dtype, buffer.len);
        call.root = Some(root);
        Ok((call, buffer.size()))
    }

    /// An all-to-all of `send` into `recv`.
    pub(super) fn all_to_all(
        self,
        label: &Label,
        counts: &[usize],
        send: impl Into<Elements>,
        recv: impl Into<Elements>,
    ) -> Result<Checked> {
        let (send, recv, Self { rank, size }) = (send.into(), recv.into(), self);
        let refused =
            |expected, found: String| Err(self.refused(Op::AllToAll, label, expected, found));
        if counts.len() != size * size {
            let expected = format!("{} counts, one for each pair of {size} ranks", size * size);
            return refused(expected, counts.len().to_string());
        }
        let sum = counts.iter().try_fold(0usize, |sum, n| sum.checked_add(*n));
        let Some(len) = sum else {
            let expected = "counts whose sum is a number of elements".to_string();
            return refused(expected, "a larger one".to_string());
        };
        let parts = Parts::new(counts, size);
        let dtype = send.dtype;
        let (sent, received) = (parts.sent(rank), parts.received(rank));
        let whole = |len| Elements { len, dtype };
        if send != whole(sent) {
            let expected = format!("to send {}, as the counts say", whole(sent));
            return refused(expected, send.to_string());
        }
        if recv != whole(received) {
            let expected = format!("room for {}, as the counts say", whole(received));
            return refused(expected, recv.to_string());
        }
        let table = format!("{} counts {:016x}", label.detail, parts.digest());
        let label = label.with_detail(table.trim_start());
        let call = Call::new(Op::AllToAll, &label, dtype, len);
        let own = parts.count(rank, rank);
        Ok((call, (sent - own) * dtype.size()))
    }

    /// The error of a collective whose arguments are invalid on this rank.
    pub(super) fn refused(
        self,
        op: Op,
        label: &Label,
        expected: String,
        found: impl fmt::Display,
    ) -> Error {
        let what = format!("{} of {} on rank {}", op.name(), label.unit, self.rank);
        Error::config(what, expected, found)
    }
}
