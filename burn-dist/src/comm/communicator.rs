//! One rank's handle on a group of ranks: the collectives on host memory.

use super::checks::{Caller, Elements};
use super::{
    Call, Dtype, Engine, Entry, Label, Ledger, Op, Recorder, Reduce, Span, SpanMut, State, local,
};
use crate::error::{Error, Result};
use crate::trace::TraceKind;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// One rank's handle on a group of ranks.
///
/// Collectives that several threads of one rank call run one after the other; their order is then
/// up to the threads, and an order that differs between ranks is an [`Error::Mismatch`].
///
/// ```
/// use burn_dist::comm::{Communicator, Reduce, Span, SpanMut, local};
/// use std::time::Duration;
///
/// let sums: Vec<[f32; 1]> = std::thread::scope(|s| {
///     let ranks = local::ranks(2, 1, Duration::from_secs(5));
///     let threads: Vec<_> = ranks
///         .into_iter()
///         .map(|engine| {
///             s.spawn(move || {
///                 let comm = Communicator::new(engine);
///                 let mut mine = [0.0f32];
///                 let send = [1.0f32, 2.0];
///                 comm.reduce_scatter(&"doc".into(), Reduce::Sum, Span::of(&send), SpanMut::of(&mut mine))
///                     .map(|()| mine)
///             })
///         })
///         .collect();
///     threads.into_iter().map(|t| t.join().unwrap().unwrap()).collect()
/// });
/// assert_eq!(sums, [[2.0], [4.0]]);
/// ```
#[derive(Debug)]
pub struct Communicator {
    pub(super) engine: Arc<dyn Engine>,
    members: Arc<[usize]>,
    ledger: Ledger,
    recorder: Recorder,
    /// How many collectives were issued; locked while one runs.
    sequence: Mutex<u64>,
}

impl Communicator {
    /// The handle of an engine, with a ledger of its own.
    pub fn new(engine: impl Engine + 'static) -> Self {
        Self::from_parts(Arc::new(engine), Ledger::default(), Recorder::default())
    }

    /// The handle of an engine, with a ledger of its own, whose calls `recorder` records.
    pub fn recorded_by(engine: impl Engine + 'static, recorder: Recorder) -> Self {
        Self::from_parts(Arc::new(engine), Ledger::default(), recorder)
    }

    /// The handle of an engine that was chosen at run time, whose calls `recorder` records.
    pub fn of(engine: Arc<dyn Engine>, recorder: Recorder) -> Self {
        Self::from_parts(engine, Ledger::default(), recorder)
    }

    fn from_parts(engine: Arc<dyn Engine>, ledger: Ledger, recorder: Recorder) -> Self {
        Self {
            members: engine.members().into(),
            engine,
            ledger,
            recorder,
            sequence: Mutex::new(0),
        }
    }

    /// This rank's index in the group, from 0.
    pub fn rank(&self) -> usize {
        self.engine.rank()
    }

    /// Number of ranks in the group.
    pub fn size(&self) -> usize {
        self.members().len()
    }

    /// The ranks of the group, by their rank in the world.
    pub fn members(&self) -> &[usize] {
        &self.members
    }

    /// What was communicated so far, by this group and those split from it.
    ///
    /// Groups of one rank communicate nothing, and splits are not counted.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The last calls of this group and those split from it.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// Concatenates every rank's `send`, in rank order, into every rank's `recv`.
    ///
    /// # Shapes
    /// `send`: `[n]`; `recv`: `[size * n]`.
    ///
    /// # Errors
    /// [`Error::Config`] if `recv` is not `size` times `send`, or if either holds partial or
    /// misaligned elements, before anything is moved;
    /// otherwise what every collective may return: [`Error::Mismatch`], [`Error::Timeout`],
    /// [`Error::PeerLeft`], [`Error::PeerFailed`].
    ///
    /// # Source
    /// NCCL: `ncclAllGather`.
    pub fn all_gather(&self, label: &Label, send: Span<'_>, mut recv: SpanMut<'_>) -> Result<()> {
        self.check_memory(Op::AllGather, label, send.bytes(), send.dtype())?;
        self.check_memory(Op::AllGather, label, recv.bytes(), recv.dtype())?;
        let whole = Elements::from(&send).times(self.size());
        let found = Elements::from(&recv);
        if found != whole {
            let expected = format!("room for {whole} from {} ranks", self.size());
            return Err(self.caller().refused(Op::AllGather, label, expected, found));
        }
        let start = send.bytes().len() * self.rank();
        recv.bytes_mut()[start..start + send.bytes().len()].copy_from_slice(send.bytes());
        self.all_gather_in_place(label, recv)
    }

    /// [`all_gather`](Self::all_gather) where each rank has written its shard to `buffer` already.
    ///
    /// # Shapes
    /// `buffer`: `[size * n]`, of which this rank has written the part that starts at `rank * n`.
    ///
    /// # Errors
    /// As [`all_gather`](Self::all_gather).
    pub fn all_gather_in_place(&self, label: &Label, buffer: SpanMut<'_>) -> Result<()> {
        self.check_memory(Op::AllGather, label, buffer.bytes(), buffer.dtype())?;
        let (call, sent) = self.caller().all_gather(label, &buffer)?;
        if self.size() == 1 {
            return Ok(());
        }
        self.run(call, sent, |call| self.engine.all_gather(call, buffer))
    }

    /// Reduces over ranks and leaves each rank the chunk of the result with its own number.
    ///
    /// # Shapes
    /// `send`: `[size * n]`; `recv`: `[n]`.
    ///
    /// # Numerics
    /// Rank 0 first, then rank 1, and so on; f16 and bf16 are summed in f32 and rounded once.
    /// Sums of integers wrap.
    ///
    /// # Errors
    /// As [`all_gather`](Self::all_gather); also [`Error::Config`] for the mean of integers.
    ///
    /// # Source
    /// NCCL: `ncclReduceScatter`.
    pub fn reduce_scatter(
        &self,
        label: &Label,
        op: Reduce,
        send: Span<'_>,
        mut recv: SpanMut<'_>,
    ) -> Result<()> {
        self.check_memory(Op::ReduceScatter, label, send.bytes(), send.dtype())?;
        self.check_memory(Op::ReduceScatter, label, recv.bytes(), recv.dtype())?;
        let (call, sent) = self.caller().reduce_scatter(label, op, &send, &recv)?;
        if self.size() == 1 {
            recv.bytes_mut().copy_from_slice(send.bytes());
            return Ok(());
        }
        self.run(call, sent, |call| {
            self.engine.reduce_scatter(call, op, send, recv)
        })
    }

    /// Replaces `buffer` by its reduction over all ranks.
    ///
    /// # Numerics and errors
    /// As [`reduce_scatter`](Self::reduce_scatter); every rank receives the same bits.
    ///
    /// # Source
    /// NCCL: `ncclAllReduce`.
    pub fn all_reduce(&self, label: &Label, op: Reduce, buffer: SpanMut<'_>) -> Result<()> {
        self.check_memory(Op::AllReduce, label, buffer.bytes(), buffer.dtype())?;
        let (call, sent) = self.caller().all_reduce(label, op, &buffer)?;
        if self.size() == 1 {
            return Ok(());
        }
        self.run(call, sent, |call| self.engine.all_reduce(call, op, buffer))
    }

    /// Replaces `buffer` by that of rank `root`.
    ///
    /// # Errors
    /// As [`all_gather`](Self::all_gather); [`Error::Config`] if there is no rank `root`.
    ///
    /// # Source
    /// NCCL: `ncclBroadcast`.
    pub fn broadcast(&self, label: &Label, root: usize, buffer: SpanMut<'_>) -> Result<()> {
        self.check_memory(Op::Broadcast, label, buffer.bytes(), buffer.dtype())?;
        let (call, sent) = self.caller().broadcast(label, root, &buffer)?;
        if self.size() == 1 {
            return Ok(());
        }
        self.run(call, sent, |call| self.engine.broadcast(call, root, buffer))
    }

    /// Gives each rank its part of what every rank sends.
    ///
    /// `counts` has a row for each rank that sends and a column for each that receives, the same table on
    /// all ranks: `counts[from * size + to]` elements go from rank `from` to rank `to`.
    ///
    /// # Shapes
    /// `send`: the sum of this rank's row, in the order of the ranks that receive; `recv`: the sum of
    /// its column, in the order of the ranks that have sent.
    ///
    /// # Errors
    /// As [`all_gather`](Self::all_gather): [`Error::Config`] for a table of another size, or buffers of
    /// other lengths than it says; [`Error::Mismatch`] if tables differ, before a byte moves.
    ///
    /// ```
    /// use burn_dist::comm::{Span, SpanMut};
    /// use burn_dist::prelude::*;
    ///
    /// // Rank 0 has two numbers for rank 1 and keeps one, rank 1 has nothing for anybody.
    /// let counts = [1, 2, 0, 0];
    /// let received = Threads::new(2).run(|world| {
    ///     let (send, mut recv): (&[f32], Vec<f32>) = match world.rank() {
    ///         0 => (&[5.0, 6.0, 7.0], vec![0.0]),
    ///         _ => (&[], vec![0.0; 2]),
    ///     };
    ///     let comm = world.comm();
    ///     comm.all_to_all(&"doc".into(), &counts, Span::of(send), SpanMut::of(&mut recv))?;
    ///     Ok(recv)
    /// })?;
    /// assert_eq!(received, [vec![5.0], vec![6.0, 7.0]]);
    /// # Ok::<(), burn_dist::Error>(())
    /// ```
    ///
    /// # Source
    /// MPI: `MPI_Alltoallv`; PyTorch: `all_to_all_single` with split sizes.
    pub fn all_to_all(
        &self,
        label: &Label,
        counts: &[usize],
        send: Span<'_>,
        mut recv: SpanMut<'_>,
    ) -> Result<()> {
        self.check_memory(Op::AllToAll, label, send.bytes(), send.dtype())?;
        self.check_memory(Op::AllToAll, label, recv.bytes(), recv.dtype())?;
        let (call, sent) = self.caller().all_to_all(label, counts, &send, &recv)?;
        if self.size() == 1 {
            recv.bytes_mut().copy_from_slice(send.bytes());
            return Ok(());
        }
        self.run(call, sent, |call| {
            self.engine.all_to_all(call, counts, send, recv)
        })
    }

    /// Returns when every rank has called it.
    ///
    /// # Errors
    /// As [`all_gather`](Self::all_gather).
    pub fn barrier(&self, label: &Label) -> Result<()> {
        if self.size() == 1 {
            return Ok(());
        }
        let call = Call::new(Op::Barrier, label, Dtype::U8, 0);
        self.run(call, 0, |call| self.engine.barrier(call))
    }

    /// Divides the group: the ranks that give the same `color` form a new one, ordered by `key`.
    ///
    /// # Errors
    /// As [`all_gather`](Self::all_gather).
    ///
    /// # Source
    /// MPI: `MPI_Comm_split`; NCCL: `ncclCommSplit`.
    pub fn split(&self, color: usize, key: usize) -> Result<Self> {
        let call = Call::new(Op::Split, &"group".into(), Dtype::U64, 2);
        let engine = self.next(call, |call| self.engine.split(call, color, key))?;
        Ok(self.sharing_records(engine))
    }

    /// A group of this rank alone, whose collectives move nothing; keeps the same ledger.
    pub fn alone(&self) -> Self {
        let mut engines = local::ranks(1, 1, std::time::Duration::MAX);
        self.sharing_records(Arc::new(engines.remove(0)))
    }

    /// The handle of another group of this rank, with the same ledger and recorder.
    fn sharing_records(&self, engine: Arc<dyn Engine>) -> Self {
        Self::from_parts(engine, self.ledger.clone(), self.recorder.clone())
    }

    /// Makes all ranks' pending and later collectives fail with `error`; the first one wins.
    pub fn abort(&self, error: Error) {
        self.engine.abort(error);
    }

    /// Why this group is broken, as far as this rank has been told; does not wait.
    pub fn fault(&self) -> Option<Error> {
        self.engine.fault()
    }

    /// Tells the other ranks that this one will call no more collectives: one that waits for it gets
    /// [`Error::PeerLeft`].
    pub fn leave(&self) {
        self.engine.leave();
    }

    /// Checks the arguments of this rank's collectives.
    pub(super) fn caller(&self) -> Caller {
        Caller {
            rank: self.rank(),
            size: self.size(),
        }
    }

    /// Runs `f` as this group's next collective.
    fn next<T>(&self, mut call: Call, f: impl FnOnce(&Call) -> Result<T>) -> Result<T> {
        let mut sequence = self.sequence.lock().unwrap_or_else(PoisonError::into_inner);
        call.sequence = *sequence;
        call.step = self.recorder.step();
        *sequence += 1;
        let key = self.recorder.begin(&self.members, &call);
        let named = || format!("{} of {}", call.op.name(), call.label.unit);
        let span = self.recorder.tracer().span(TraceKind::Collective, named);
        let result = f(&call);
        drop(span);
        let state = if result.is_ok() {
            State::Done
        } else {
            State::Failed
        };
        self.recorder.end(key, state);
        result
    }

    /// As [`next`](Self::next), and counts it in the ledger.
    pub(super) fn run<T>(
        &self,
        call: Call,
        bytes: usize,
        f: impl FnOnce(&Call) -> Result<T>,
    ) -> Result<T> {
        self.next(call, |call| {
            let start = Instant::now();
            let result = f(call);
            let entry = Entry {
                calls: 1,
                bytes: bytes as u64,
                time: start.elapsed(),
            };
            self.ledger.record(call.op, &call.label.unit, entry);
            result
        })
    }

    /// A span holds any bytes; an engine needs whole elements that are aligned for their type.
    fn check_memory(&self, op: Op, label: &Label, bytes: &[u8], dtype: Dtype) -> Result<()> {
        if dtype.is_aligned(bytes) {
            return Ok(());
        }
        let address = bytes.as_ptr().addr();
        let expected = format!("whole, aligned elements of type {dtype}");
        let found = format!("{} bytes at address {address:#x}", bytes.len());
        Err(self.caller().refused(op, label, expected, found))
    }
}
