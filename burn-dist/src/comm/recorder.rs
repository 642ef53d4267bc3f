//! The flight recorder: the last collectives of a rank.
//!
//! It is always on. Every collective adds a short entry; when a world fails, each process writes its
//! entries as JSON, and the files of all ranks together tell which rank waits for which.

use super::{Call, Dtype, Op};
use crate::error::{Error, Result};
use crate::trace::Tracer;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Collectives that are kept: several steps of a large model.
const CAPACITY: usize = 1024;

/// One rank's last collectives; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Recorder {
    events: Arc<Mutex<Events>>,
    step: Arc<AtomicU64>,
    tracer: Tracer,
}

#[derive(Debug, Default)]
struct Events {
    /// Collectives that were removed to make room.
    dropped: usize,
    kept: VecDeque<Recorded>,
}

/// One collective, with what many of them have in common shared: a rank keeps [`CAPACITY`] of them.
#[derive(Debug)]
struct Recorded {
    group: Arc<[usize]>,
    unit: Arc<str>,
    sequence: u64,
    op: Op,
    dtype: Dtype,
    len: usize,
    step: u64,
    issued_us: u64,
    state: State,
    took_us: u64,
    since: Instant,
}

impl Recorded {
    fn event(&self) -> Event {
        Event {
            group: self.group.to_vec(),
            sequence: self.sequence,
            op: self.op,
            unit: self.unit.to_string(),
            dtype: self.dtype,
            len: self.len,
            step: self.step,
            issued_us: self.issued_us,
            state: self.state,
            took_us: if self.state == State::Running {
                micros(self.since.elapsed())
            } else {
                self.took_us
            },
        }
    }
}

/// One collective of one rank.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The ranks that take part, by their rank in the world.
    #[serde(with = "runs")]
    pub group: Vec<usize>,
    /// How many collectives the group had issued before.
    pub sequence: u64,
    /// The kind.
    pub op: Op,
    /// The unit it serves.
    pub unit: String,
    /// The element type.
    pub dtype: Dtype,
    /// Elements that one rank sends; in an all-to-all, what all ranks together send.
    pub len: usize,
    /// Completed training steps when it was issued.
    pub step: u64,
    /// Microseconds since 1970 when it was issued.
    pub issued_us: u64,
    /// Whether it is running, done or failed.
    pub state: State,
    /// How long it took, or how long it had lasted when the record was written.
    pub took_us: u64,
}

/// The state of a collective.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Not ended yet.
    Running,
    /// Completed.
    Done,
    /// Ended with an error.
    Failed,
}

/// The flight record that one rank writes when its world fails.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flight {
    /// The rank.
    pub rank: usize,
    /// Number of ranks in the world.
    pub world: usize,
    /// The host it ran on.
    pub host: String,
    /// Its process.
    pub pid: u32,
    /// Completed training steps.
    pub step: u64,
    /// Why it ended.
    pub error: String,
    /// Its last collectives, oldest first.
    pub events: Vec<Event>,
}

impl Recorder {
    /// Records that a collective begins; returns the key for [`end`](Self::end).
    pub(super) fn begin(&self, group: &Arc<[usize]>, call: &Call) -> usize {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let recorded = Recorded {
            group: group.clone(),
            unit: call.label.unit.clone(),
            sequence: call.sequence,
            op: call.op,
            dtype: call.dtype,
            len: call.len,
            step: call.step,
            issued_us: micros(since_1970.unwrap_or_default()),
            state: State::Running,
            took_us: 0,
            since: Instant::now(),
        };
        let mut events = self.lock();
        if events.kept.len() == CAPACITY {
            events.kept.pop_front();
            events.dropped += 1;
        }
        events.kept.push_back(recorded);
        events.dropped + events.kept.len() - 1
    }

    /// Records how the collective with this key ended.
    pub(super) fn end(&self, key: usize, state: State) {
        let mut events = self.lock();
        let index = key.checked_sub(events.dropped);
        if let Some(recorded) = index.and_then(|index| events.kept.get_mut(index)) {
            recorded.state = state;
            recorded.took_us = micros(recorded.since.elapsed());
        }
    }

    /// The last collectives, oldest first.
    pub fn events(&self) -> Vec<Event> {
        self.lock().kept.iter().map(Recorded::event).collect()
    }

    /// The last collective, in words; empty before the first.
    pub fn last(&self) -> String {
        let events = self.lock();
        let last = events.kept.back();
        last.map_or_else(String::new, |recorded| recorded.event().to_string())
    }

    /// What records spans of this rank, on request.
    pub fn tracer(&self) -> &Tracer {
        &self.tracer
    }

    /// Completed training steps.
    pub fn step(&self) -> u64 {
        self.step.load(Ordering::Relaxed)
    }

    /// Records that the gradients of a step are complete.
    pub(crate) fn stepped(&self) {
        self.step.fetch_add(1, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Events> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Display for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            unit,
            sequence,
            step,
            ..
        } = self;
        write!(f, "{} of {unit} #{sequence}, step {step}", self.op.name())
    }
}

impl Flight {
    /// The file of a rank's record inside a folder.
    pub fn file(folder: &Path, rank: usize) -> std::path::PathBuf {
        folder.join(format!("flight-{rank}.json"))
    }

    /// Writes the record to its file in `folder`.
    ///
    /// # Errors
    /// [`Error::File`] if that fails.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let path = Self::file(folder, self.rank);
        let refused =
            |e: &dyn std::fmt::Display| Error::file(&path, "to write the flight record", e);
        let text = serde_json::to_vec(self).map_err(|e| refused(&e))?;
        std::fs::write(&path, text).map_err(|e| refused(&e))
    }

    /// Reads the record of a rank.
    ///
    /// # Errors
    /// [`Error::File`] if there is none, or it is damaged.
    pub fn read(folder: &Path, rank: usize) -> Result<Self> {
        let path = Self::file(folder, rank);
        let expected = "the flight record of a rank";
        let text = std::fs::read(&path).map_err(|e| Error::file(&path, expected, e))?;
        serde_json::from_slice(&text).map_err(|e| Error::file(&path, expected, e))
    }
}

/// Ranks in a file, as ranges of a first and a last one, so that records of large worlds stay small.
mod runs {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    /// The largest world that is read.
    const MAX_RANKS: usize = 1 << 20;

    pub(super) fn serialize<S: Serializer>(group: &[usize], to: S) -> Result<S::Ok, S::Error> {
        let mut runs: Vec<[usize; 2]> = Vec::new();
        for rank in group {
            match runs.last_mut() {
                Some([_, last]) if *last + 1 == *rank => *last = *rank,
                _ => runs.push([*rank, *rank]),
            }
        }
        runs.serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<usize>, D::Error> {
        let runs = Vec::<[usize; 2]>::deserialize(from)?;
        let mut group = Vec::new();
        for [first, last] in runs {
            if last >= MAX_RANKS || group.len() + last.saturating_sub(first) >= MAX_RANKS {
                return Err(D::Error::custom("a group of so many ranks"));
            }
            group.extend(first..=last);
        }
        Ok(group)
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn call(sequence: u64) -> Call {
        let mut call = Call::new(Op::AllGather, &"blocks.1".into(), Dtype::F32, 8);
        (call.sequence, call.step) = (sequence, 3);
        call
    }

    #[test]
    fn the_last_collectives_are_kept_and_say_how_they_went() {
        let (recorder, group) = (Recorder::default(), [0, 1].into());
        let first = recorder.begin(&group, &call(0));
        for sequence in 1..=CAPACITY as u64 {
            let key = recorder.begin(&group, &call(sequence));
            recorder.end(key, State::Done);
        }
        // Forgotten in the meantime: nothing else is touched.
        recorder.end(first, State::Failed);
        let last = recorder.begin(&group, &call(5000));
        recorder.end(last, State::Failed);
        let events = recorder.events();
        assert_eq!(events.len(), CAPACITY);
        assert_eq!((events[0].sequence, events[0].state), (2, State::Done));
        assert_eq!(events[CAPACITY - 1].state, State::Failed);
        assert_eq!(recorder.last(), "all_gather of blocks.1 #5000, step 3");
    }

    #[test]
    fn a_record_survives_its_file() {
        let recorder = Recorder::default();
        recorder.begin(&[0, 1, 2, 7, 5].into(), &call(7));
        let mut events = recorder.events();
        assert_eq!(events[0].state, State::Running);
        events[0].took_us = 12;
        let flight = Flight {
            rank: 1,
            world: 2,
            host: "here".into(),
            pid: 7,
            step: 3,
            error: "no".into(),
            events,
        };
        let folder = tempfile::tempdir().unwrap();
        flight.write(folder.path()).unwrap();
        let text = std::fs::read_to_string(Flight::file(folder.path(), 1)).unwrap();
        assert!(text.contains("[[0,2],[7,7],[5,5]]"), "{text}");
        assert_eq!(Flight::read(folder.path(), 1).unwrap(), flight);
        let missing = Flight::read(folder.path(), 0).unwrap_err().to_string();
        assert!(missing.contains("flight-0.json"), "{missing}");
    }
}
