//! Writing a save, in the training thread or in another one.

use super::format::{
    DataFile, DataWriter, Finished, Header, Manifest, ManifestFields, OptimizerBehaviour,
};
use super::part::{RankContents, RankModel, Snapshot, merge};
use super::save::Taken;
use super::storage::data_file_name;
use super::writer::{Complete, Writer};
use crate::comm::{Communicator, Label};
use crate::error::{Error, Result};
use crate::finite;
use crate::trace::TraceKind;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

const WHAT: &str = "save";

/// What is to be written, and where.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) writer: Arc<Writer>,
    pub(super) taken: Taken,
}

/// What must be the same on all ranks.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Outline {
    step: Option<u64>,
    names: Vec<String>,
    /// Their bits, so that NaN is equal to NaN.
    metrics: BTreeMap<String, u64>,
}

impl Job {
    /// Writes the save, and notes that it is durable.
    pub(super) fn run_and_note(self, comm: &Communicator) -> Result<()> {
        let writer = self.writer.clone();
        let _span = comm.recorder().tracer().span(TraceKind::Save, String::new);
        let complete = self.run(comm)?;
        writer.background().durable = Some(complete);
        Ok(())
    }

    /// Writes the save. Collective over the ranks of `comm`, which are all of the world.
    ///
    /// # Errors
    /// As [`World::save`](crate::World::save), the same on every rank.
    fn run(self, comm: &Communicator) -> Result<Complete> {
        self.agree(comm)?;
        for snapshot in &self.taken.snapshots {
            snapshot.replicas.check(comm)?;
            snapshot.replicas.check_plain(comm)?;
        }
        let is_chief = comm.rank() == 0;
        let label: Label = WHAT.into();
        let begun = if is_chief { self.begin() } else { Ok(None) };
        let begun: Vec<Option<(String, u64)>> =
            comm.exchange(&label, begun.as_ref().map_err(Clone::clone))?;
        let Some((name, sequence)) = begun.into_iter().next().flatten() else {
            return Err(Error::file(
                self.writer.storage.path(),
                "a save that was begun",
                "none",
            ));
        };
        let written = self.written(comm, &name).inspect_err(|_| {
            // It would be removed before the next save too, but a full disk cannot wait.
            if is_chief {
                self.writer.storage.remove_unfinished(&name);
            }
        })?;
        let saved = Complete {
            step: self.taken.step.unwrap_or(sequence),
            name,
        };
        let committed = if is_chief {
            self.commit(&saved, sequence, &written)
        } else {
            Ok(())
        };
        comm.exchange::<(), ()>(&label, committed.as_ref().map_err(Clone::clone))?;
        Ok(saved)
    }

    /// Fails on every rank if ranks save different things.
    fn agree(&self, comm: &Communicator) -> Result<()> {
        let Taken {
            step,
            names,
            metrics,
            ..
        } = &self.taken;
        let mine = Outline {
            step: *step,
            names: names.clone(),
            metrics: metrics
                .iter()
                .map(|(n, x)| (n.clone(), x.to_bits()))
                .collect(),
        };
        let all: Vec<Outline> = comm.exchange(&WHAT.into(), Ok(&mine))?;
        for (rank, other) in all.iter().enumerate() {
            if let Some((field, ours, theirs)) = all[0].difference(other) {
                return Err(Error::Disagreement {
                    what: "what is saved".into(),
                    field,
                    rank: 0,
                    ours,
                    peer: rank,
                    theirs,
                });
            }
        }
        Ok(())
    }

    /// Makes the folder of the save; its name and its number.
    fn begin(&self) -> Result<Option<(String, u64)>> {
        let storage = &*self.writer.storage;
        let best_by = self.writer.keep().best_by().cloned();
        let lacking = best_by.filter(|(name, _)| !self.taken.metrics.contains_key(name));
        if let Some((metric, _)) = lacking {
            let expected = format!("{metric}, by which the best save is kept");
            return Err(Error::config("the metrics of a save", expected, "none"));
        }
        let mut claim = self.writer.claim();
        // First, because to hold an object store ends the run that held it.
        if storage.is_shared() && !claim.is_held() {
            claim.check(storage)?;
        }
        claim.hold(storage)?;
        claim.check(storage)?;
        drop(claim);
        let mut known = self.writer.known();
        storage.refresh(&mut known)?;
        let sequence = known.iter().map(|save| save.sequence).max();
        let sequence = sequence.unwrap_or(0).checked_add(1).ok_or_else(|| {
            Error::file(
                storage.path(),
                "a number for the next save",
                "the highest that there is",
            )
        })?;
        let name = storage.create(self.taken.step.unwrap_or(sequence))?;
        Ok(Some((name, sequence)))
    }

    /// Writes this rank's file; what all ranks have written.
    fn written(&self, comm: &Communicator, name: &str) -> Result<Vec<RankContents>> {
        let mine = self.write(comm, name);
        let first = mine.as_ref().map_or(None, |(_, first)| *first);
        let told = mine.as_ref().map(|(contents, _)| contents);
        let all = comm.exchange(&WHAT.into(), told.map_err(Clone::clone))?;
        finite::agree(comm, first, WHAT, |number| self.not_finite_name(number))?;
        Ok(all)
    }

    fn write(&self, comm: &Communicator, name: &str) -> Result<(RankContents, Option<usize>)> {
        let behaviours = self.taken.snapshots.iter().map(Snapshot::behaviour);
        let behaviours = behaviours.collect::<Result<Vec<_>>>()?;
        let parts = self.taken.snapshots.iter().zip(&behaviours);
        let mut header = Header::Room(parts.map(|(part, b)| part.header(b.as_ref())).sum());
        loop {
            let (finished, models, first) = self.write_file(comm, name, &header, &behaviours)?;
            match finished {
                Finished::File(file) => return Ok((RankContents { file, models }, first)),
                Finished::Again(known) => header = known,
            }
        }
    }

    fn write_file(
        &self,
        comm: &Communicator,
        name: &str,
        header: &Header,
        behaviours: &[Option<OptimizerBehaviour>],
    ) -> Result<Written> {
        let storage = &self.writer.storage;
        let file = data_file_name(comm.rank(), comm.size());
        let out = storage.write(name, &file, header)?;
        let mut out = DataWriter::new(storage.save(name).join(&file), out, header);
        let (mut models, mut first) = (BTreeMap::new(), None);
        let mut before = 0;
        for (snapshot, behaviour) in self.taken.snapshots.iter().zip(behaviours) {
            // The manifest has it from rank 0.
            let behaviour = behaviour.clone().filter(|_| comm.rank() == 0);
            let (model, found) = snapshot.write(behaviour, &mut out)?;
            first = first.or(found.map(|number| before + number));
            before += 2 * snapshot.model.tensors.len();
            models.insert(snapshot.name.clone(), model);
        }
        Ok((out.finish()?, models, first))
    }

    /// The name of what a number of [`write_file`](Self::write_file) means, which may be another rank's.
    fn not_finite_name(&self, number: usize) -> String {
        let mut number = number;
        for snapshot in &self.taken.snapshots {
            let own = 2 * snapshot.model.tensors.len();
            if number < own {
                return snapshot.not_finite_name(number);
            }
            number -= own;
        }
        "this save".into()
    }

    /// Completes the save, and removes those that do not stay.
    fn commit(&self, saved: &Complete, sequence: u64, ranks: &[RankContents]) -> Result<()> {
        let storage = &*self.writer.storage;
        let keep = self.writer.keep().clone();
        let files: Vec<DataFile> = ranks.iter().map(|rank| rank.file.clone()).collect();
        let metrics = self.taken.metrics.iter();
        let manifest = Manifest::new(ManifestFields {
            name: saved.name.clone(),
            step: saved.step,
            sequence,
            ranks: ranks.len(),
            files,
            models: merge(ranks)?,
            states: self.taken.states.clone(),
            metrics: metrics
                .map(|(name, x)| (name.clone(), x.to_string()))
                .collect(),
            best_by: keep.best_by().cloned(),
        });
        let text = manifest.sealed(&storage.save(&saved.name))?;
        self.writer.claim().check_held()?;
        self.writer.claim().set_committing(&saved.name, &text);
        storage.commit(&saved.name, &text)?;
        self.writer.claim().set_latest(&saved.name, &text);
        let mut known = self.writer.known();
        storage.refresh(&mut known)?;
        storage.set_best(keep.best_of(&known))?;
        for name in keep.superfluous(&known) {
            storage.remove(&name);
        }
        Ok(())
    }
}

/// How writing the file ended, what is in it, and the first tensor that is not finite.
type Written = (Finished, BTreeMap<String, RankModel>, Option<usize>);

impl Outline {
    /// The first field that differs, with both values.
    fn difference(&self, other: &Self) -> Option<(String, String, String)> {
        let shown = |field: &str, a: &dyn std::fmt::Debug, b: &dyn std::fmt::Debug| {
            Some((field.to_string(), format!("{a:?}"), format!("{b:?}")))
        };
        if self.step != other.step {
            return shown("step", &self.step, &other.step);
        }
        if self.names != other.names {
            return shown("parts", &self.names, &other.names);
        }
        let mut metrics = self.metrics.iter();
        let (name, ours) = metrics.find(|(name, x)| other.metrics.get(*name) != Some(*x))?;
        let theirs = other.metrics.get(name).copied().unwrap_or_default();
        shown(name, &f64::from_bits(*ours), &f64::from_bits(theirs))
    }
}
