//! A matrix as it stands in the folder of its runs, so that another one never lands there.

use super::{Axes, Expansion, Experiment};
use crate::files;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The file that a folder of runs has.
const FILE: &str = "matrix.json";

/// Which runs there are to be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Matrix {
    /// Its name, the report's title.
    pub name: String,
    /// The command that made it.
    pub command: String,
    /// All runs, in their order.
    pub experiments: Vec<Experiment>,
    /// Combinations that cannot be, and why.
    pub left_out: Vec<String>,
}

impl Matrix {
    /// What axes span.
    ///
    /// # Errors
    /// [`Error::Value`] if that is nothing, or if two runs have one name.
    pub fn of(name: &str, command: &str, axes: &[Axes]) -> Result<Self> {
        let mut all = Expansion::default();
        for axes in axes {
            all.extend(axes.expand());
        }
        let Expansion {
            experiments,
            left_out,
        } = all;
        if experiments.is_empty() {
            let found = match left_out.first() {
                Some(first) => format!("none; {first}"),
                None => "an axis without a value".into(),
            };
            return Err(Error::value(
                "the matrix",
                "at least one run that can be",
                found,
            ));
        }
        Ok(Self {
            name: name.into(),
            command: command.into(),
            experiments,
            left_out,
        })
    }

    /// Reads it from a folder of runs.
    ///
    /// # Errors
    /// [`Error::File`] if there is none, or one that cannot be read.
    pub fn read(folder: &Path) -> Result<Self> {
        files::read_json(
            &folder.join(FILE),
            "the matrix of a folder made by `experiments`",
        )
    }

    /// Writes it into a folder of runs, which it makes; one that is there must be of the same experiments.
    ///
    /// # Errors
    /// [`Error::File`] if the folder holds something else, or cannot be written to.
    pub fn claim(&self, folder: &Path) -> Result<()> {
        if folder.join(FILE).exists() {
            return self.compare(folder);
        }
        let mut entries = match std::fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                files::make_folder(folder)?;
                return files::write_json(&folder.join(FILE), self);
            }
            Err(e) => return Err(Error::file(folder, "a folder for runs", e)),
        };
        if let Some(Ok(entry)) = entries.find(|entry| {
            let name = entry.as_ref().map(|entry| entry.file_name());
            name.is_ok_and(|name| name != files::LOCK)
        }) {
            let expected = "an empty folder, or one of these runs";
            let found = format!("{:?} in it; give --out another folder", entry.file_name());
            return Err(Error::file(folder, expected, found));
        }
        files::write_json(&folder.join(FILE), self)
    }

    fn compare(&self, folder: &Path) -> Result<()> {
        let there = Self::read(folder)?;
        let lacks = |a: &Self, b: &Self| {
            let missing = a
                .experiments
                .iter()
                .find(|one| !b.experiments.contains(one));
            missing.map(Experiment::name)
        };
        let found = match (lacks(self, &there), lacks(&there, self)) {
            (None, None) => return Ok(()),
            (Some(new), None) => format!("another one, without {new}"),
            (None, Some(old)) => format!("another one, with {old}"),
            (Some(new), Some(old)) if new == old => {
                format!("another one, where {new} has another recipe")
            }
            (Some(new), Some(old)) => format!("another one, with {old} and without {new}"),
        };
        let found =
            format!("{found}; give --out another folder, or repeat the command that is in {FILE}");
        Err(Error::file(folder, "the matrix that is asked for", found))
    }
}
