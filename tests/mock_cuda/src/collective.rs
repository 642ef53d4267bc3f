//! Collectives of a communicator, which begin when all ranks have called.

use crate::knobs::note;
use crate::numbers::Dtype;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

/// The kinds, with their reduction or root.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    Gather,
    Scatter(u32),
    Reduce(u32),
    Broadcast(usize),
}

/// One rank's part; addresses are those of the host's memory.
#[derive(Clone, Copy)]
pub(crate) struct Part {
    pub(crate) kind: Kind,
    pub(crate) send: usize,
    pub(crate) recv: usize,
    /// Elements, as NCCL counts them for this kind.
    pub(crate) count: usize,
    pub(crate) dtype: Dtype,
}

impl Part {
    /// Bytes that are read and written.
    fn sizes(&self, ranks: usize) -> (usize, usize) {
        let size = self.count * self.dtype.size().unwrap();
        match self.kind {
            Kind::Gather => (size, size * ranks),
            Kind::Scatter(_) => (size * ranks, size),
            Kind::Reduce(_) | Kind::Broadcast(_) => (size, size),
        }
    }

    fn read(&self, ranks: usize) -> Vec<u8> {
        // SAFETY: the rank gave memory of this size, and keeps it until its stream was here.
        unsafe { std::slice::from_raw_parts(self.send as *const u8, self.sizes(ranks).0) }.to_vec()
    }

    fn write(&self, ranks: usize, bytes: &[u8]) {
        assert_eq!(bytes.len(), self.sizes(ranks).1);
        // SAFETY: as for reading, and the memory does not overlap with a copy.
        unsafe { (self.recv as *mut u8).copy_from(bytes.as_ptr(), bytes.len()) };
    }
}

/// One send or receive of a group of them.
#[derive(Clone, Copy)]
pub(crate) struct Move {
    pub(crate) is_send: bool,
    pub(crate) peer: usize,
    pub(crate) address: usize,
    pub(crate) bytes: usize,
}

/// The ranks that share a unique id.
pub(crate) struct Clique {
    pub(crate) size: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    joined: usize,
    /// By the number of the collective: which ranks have called, and whether all had.
    parts: HashMap<u64, (Vec<Option<Part>>, bool)>,
    /// What was sent from one rank to another and is not received.
    sent: HashMap<(usize, usize), VecDeque<Vec<u8>>>,
}

impl Clique {
    pub(crate) fn new(size: usize) -> Self {
        Self {
            size,
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    pub(crate) fn join(&self) {
        self.state.lock().unwrap().joined += 1;
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.state.lock().unwrap().joined >= self.size
    }

    pub(crate) fn notify(&self) {
        self.changed.notify_all();
    }

    /// Sends and receives, each with its peer alone, until all is there or `aborted`.
    pub(crate) fn exchange(&self, rank: usize, moves: &[Move], aborted: &AtomicBool) {
        let mut state = self.state.lock().unwrap();
        for out in moves.iter().filter(|one| one.is_send) {
            // SAFETY: the rank gave memory of this size, and keeps it until its stream was here.
            let bytes = unsafe { std::slice::from_raw_parts(out.address as *const u8, out.bytes) };
            let sent = state.sent.entry((rank, out.peer)).or_default();
            sent.push_back(bytes.to_vec());
        }
        self.changed.notify_all();
        for into in moves.iter().filter(|one| !one.is_send) {
            let bytes = loop {
                if aborted.load(Ordering::SeqCst) {
                    break vec![0xee; into.bytes];
                }
                let sent = state.sent.entry((into.peer, rank)).or_default();
                if let Some(bytes) = sent.pop_front() {
                    break bytes;
                }
                let woken = self.changed.wait_timeout(state, Duration::from_millis(5));
                state = woken.unwrap().0;
            };
            if bytes.len() != into.bytes {
                note("MISUSE a receive of another length than the send".into());
                return;
            }
            // SAFETY: as for reading.
            unsafe { (into.address as *mut u8).copy_from(bytes.as_ptr(), bytes.len()) };
        }
    }

    /// Waits until all ranks have called collective `number` and it is done, or `aborted`.
    pub(crate) fn meet(&self, rank: usize, number: u64, part: Part, aborted: &AtomicBool) {
        let mut state = self.state.lock().unwrap();
        let empty = || (vec![None; self.size], false);
        let (parts, done) = state.parts.entry(number).or_insert_with(empty);
        if aborted.load(Ordering::SeqCst) {
            return;
        }
        parts[rank] = Some(part);
        if parts.iter().all(Option::is_some) {
            let parts: Vec<Part> = parts.iter().flatten().copied().collect();
            *done = true;
            perform(&parts);
            self.changed.notify_all();
            return;
        }
        loop {
            let (parts, done) = state.parts.get_mut(&number).unwrap();
            if *done {
                return;
            }
            if aborted.load(Ordering::SeqCst) {
                // What an aborted collective leaves is anything.
                parts[rank] = None;
                let garbage = vec![0xee; part.sizes(self.size).1];
                part.write(self.size, &garbage);
                return;
            }
            let woken = self.changed.wait_timeout(state, Duration::from_millis(5));
            state = woken.unwrap().0;
        }
    }
}

/// Moves the bytes of all ranks.
fn perform(parts: &[Part]) {
    let (ranks, first) = (parts.len(), parts[0]);
    let same = |p: &Part| (p.kind, p.count, p.dtype) == (first.kind, first.count, first.dtype);
    if !parts.iter().all(same) {
        note("MISUSE the ranks do not agree".into());
        return;
    }
    let sent: Vec<Vec<u8>> = parts.iter().map(|part| part.read(ranks)).collect();
    let size = first.dtype.size().unwrap();
    let reduced = |op| {
        let mut all = vec![0; sent[0].len()];
        for (index, element) in all.chunks_mut(size).enumerate() {
            first.dtype.reduce(op, &sent, index * size, element);
        }
        all
    };
    let all = match first.kind {
        Kind::Gather => sent.concat(),
        Kind::Scatter(op) | Kind::Reduce(op) => reduced(op),
        Kind::Broadcast(root) => sent[root].clone(),
    };
    for (rank, part) in parts.iter().enumerate() {
        match part.kind {
            Kind::Scatter(_) => {
                let chunk = all.len() / ranks;
                part.write(ranks, &all[chunk * rank..chunk * (rank + 1)]);
            }
            _ => part.write(ranks, &all),
        }
    }
}
