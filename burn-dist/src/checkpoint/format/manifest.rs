//! The manifest of a save: what the save consists of, and of which models and optimizers it is.

use super::behaviour::OptimizerBehaviour;
use super::data_file::DataFile;
use super::tensor::SavedTensor;
use super::user_state::UserState;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const FORMAT: &str = "burn-dist save";
const VERSION: u32 = 3;

/// The text before the checksum in the file, and the digits in its place while it is computed.
const CHECKSUM: &str = "\"crc32\":\"";
const BLANK: &str = "00000000";

/// Which direction of a metric is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Best {
    /// Of a loss.
    Lowest,
    /// Of an accuracy.
    Highest,
}

/// The manifest of a save, which is none without it.
///
/// It has no time and no host, so that equal runs write equal saves, byte for byte.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::checkpoint) struct Manifest {
    /// The checksum of this file with zeros in the place of the checksum.
    crc32: String,
    format: String,
    version: u32,
    /// The name of the save's folder; in another one, a copy, the save is not one of its run.
    pub(in crate::checkpoint) name: String,
    pub(in crate::checkpoint) step: u64,
    /// Counts the saves in the folder of the run.
    pub(in crate::checkpoint) sequence: u64,
    /// The number of ranks that wrote it; informative.
    pub(in crate::checkpoint) ranks: usize,
    pub(in crate::checkpoint) files: Vec<DataFile>,
    pub(in crate::checkpoint) models: BTreeMap<String, SavedModel>,
    pub(in crate::checkpoint) states: BTreeMap<String, UserState>,
    /// As text, because JSON has no infinities.
    pub(in crate::checkpoint) metrics: BTreeMap<String, String>,
    /// The metric by which the run keeps the best save, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::checkpoint) best_by: Option<(String, Best)>,
}

/// A model of a save.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::checkpoint) struct SavedModel {
    /// The strategies it was saved under; informative.
    pub(in crate::checkpoint) strategy: String,
    /// Forwards in training of each part that was sharded by itself, by the part's path: its dropout layers draw
    /// from the count.
    pub(in crate::checkpoint) forwards: BTreeMap<String, u64>,
    /// In the order of the model.
    pub(in crate::checkpoint) tensors: Vec<SavedTensor>,
    /// None if the model was saved without.
    pub(in crate::checkpoint) optimizer: Option<SavedOptimizer>,
}

/// An optimizer of a save.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::checkpoint) struct SavedOptimizer {
    /// None if it panicked in the trial.
    pub(in crate::checkpoint) behaviour: Option<OptimizerBehaviour>,
    /// By name.
    pub(in crate::checkpoint) tensors: Vec<SavedTensor>,
    /// Numbers such as the steps taken, by name, as [`scalar_text`](super::super::part::scalar_text) writes them.
    pub(in crate::checkpoint) scalars: BTreeMap<String, String>,
}

/// The fields of a new manifest; see those of [`Manifest`].
#[derive(Debug)]
pub(in crate::checkpoint) struct ManifestFields {
    pub(in crate::checkpoint) name: String,
    pub(in crate::checkpoint) step: u64,
    pub(in crate::checkpoint) sequence: u64,
    pub(in crate::checkpoint) ranks: usize,
    pub(in crate::checkpoint) files: Vec<DataFile>,
    pub(in crate::checkpoint) models: BTreeMap<String, SavedModel>,
    pub(in crate::checkpoint) states: BTreeMap<String, UserState>,
    pub(in crate::checkpoint) metrics: BTreeMap<String, String>,
    pub(in crate::checkpoint) best_by: Option<(String, Best)>,
}

impl Manifest {
    /// Its name in the folder of a save.
    pub(in crate::checkpoint) const NAME: &str = "manifest.json";

    /// Bytes of a manifest that are read. It has a few hundred a tensor, so a larger file is none.
    pub(in crate::checkpoint) const MAX_BYTES: u64 = 1 << 30;

    pub(in crate::checkpoint) fn new(fields: ManifestFields) -> Self {
        let ManifestFields {
            name,
            step,
            sequence,
            ranks,
            files,
            models,
            states,
            metrics,
            best_by,
        } = fields;
        Self {
            crc32: BLANK.into(),
            format: FORMAT.into(),
            version: VERSION,
            name,
            step,
            sequence,
            ranks,
            files,
            models,
            states,
            metrics,
            best_by,
        }
    }

    /// The path of the manifest in the folder of a save.
    pub(in crate::checkpoint) fn path(save: &Path) -> PathBuf {
        save.join(Self::NAME)
    }

    /// Reads the text of the manifest in the folder of a save.
    ///
    /// # Errors
    /// [`Error::File`] if it is of another format or version, was changed, or has numbers that no save has.
    pub(in crate::checkpoint) fn parse(text: &str, save: &Path) -> Result<Self> {
        let path = Self::path(save);
        let wanted = "the manifest of a save";
        // A manifest of another version has other fields, so the version is read alone first.
        let head: VersionHeader =
            serde_json::from_str(text).map_err(|e| Error::file(&path, wanted, e))?;
        if (head.format.as_str(), head.version) != (FORMAT, VERSION) {
            let expected = format!("{FORMAT}, version {VERSION}");
            let found = format!("{}, version {}", head.format, head.version);
            return Err(Error::file(&path, expected, found));
        }
        let manifest: Self =
            serde_json::from_str(text).map_err(|e| Error::file(&path, wanted, e))?;
        let found = &manifest.crc32;
        let computed = text
            .split_once(&format!("{CHECKSUM}{found}"))
            .map(|(before, after)| checksum(&format!("{before}{CHECKSUM}{BLANK}{after}")));
        if computed.as_ref() != Some(found) {
            let expected = "a manifest that nobody has changed since it was written";
            let computed = computed.unwrap_or_else(|| "no checksum".into());
            let found = format!("{computed} for a checksum of {found}");
            return Err(Error::file(&path, expected, found));
        }
        match manifest.fault() {
            None => Ok(manifest),
            Some(fault) => {
                let expected = "the manifest of a save, with numbers that fit together";
                Err(Error::file(&path, expected, fault))
            }
        }
    }

    /// Its text, with the checksum.
    ///
    /// # Errors
    /// [`Error::File`] for a state that JSON cannot hold.
    pub(in crate::checkpoint) fn sealed(&self, save: &Path) -> Result<String> {
        let blank = serde_json::to_string(self)
            .map_err(|e| Error::file(&Self::path(save), "states that JSON can hold", e))?;
        // The checksum is the first field, so the first match is not in a user's state.
        let sum = format!("{CHECKSUM}{}", checksum(&blank));
        Ok(blank.replacen(&format!("{CHECKSUM}{BLANK}"), &sum, 1))
    }

    /// The number of a metric; NaN for text that is none.
    pub(in crate::checkpoint) fn metric(&self, name: &str) -> Option<f64> {
        let text = self.metrics.get(name)?;
        Some(text.parse().unwrap_or(f64::NAN))
    }

    /// All tensors, with the names they have in the files.
    pub(in crate::checkpoint) fn tensors(&self) -> impl Iterator<Item = (String, &SavedTensor)> {
        self.models.iter().flat_map(|(name, model)| {
            let own = model.tensors.iter();
            let own = own.map(move |tensor| (model_tensor(name, &tensor.facts.name), tensor));
            let states = model.optimizer.iter().flat_map(|o| &o.tensors);
            let states = states.map(|t| (optimizer_tensor(name, &t.facts.name), t));
            own.chain(states)
        })
    }

    fn fault(&self) -> Option<String> {
        let names: BTreeSet<&str> = self.files.iter().map(|f| f.name.as_str()).collect();
        if names.len() < self.files.len() {
            return Some("two files of one name".into());
        }
        let odd = self.files.iter().find(|file| {
            let path = Path::new(&file.name);
            let is_name = path.file_name().is_some_and(|n| n == file.name.as_str());
            !is_name || !file.sums.fit(file.bytes)
        });
        if let Some(file) = odd {
            let (name, bytes) = (&file.name, file.bytes);
            return Some(format!(
                "a file {name:?} of {bytes} bytes, or its checksums"
            ));
        }
        let files = self.files.len();
        self.tensors().find_map(|(_, tensor)| tensor.fault(files))
    }
}

/// The name in the data files of a model's tensor.
pub(in crate::checkpoint) fn model_tensor(model: &str, tensor: &str) -> String {
    format!("models/{model}/{tensor}")
}

/// The name in the data files of an optimizer's state.
pub(in crate::checkpoint) fn optimizer_tensor(model: &str, state: &str) -> String {
    format!("optimizers/{model}/{state}")
}

/// The fields that manifests of all versions have.
#[derive(Deserialize)]
struct VersionHeader {
    format: String,
    version: u32,
}

fn checksum(text: &str) -> String {
    format!("{:08x}", crc32fast::hash(text.as_bytes()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::tensor::{Kind, Piece, TensorFacts};
    use super::*;

    fn manifest() -> Manifest {
        let tensor = SavedTensor {
            facts: TensorFacts {
                name: "weight".into(),
                shape: vec![2],
                dtype: "f32".into(),
                kind: Kind::Trainable,
                quantized: None,
            },
            pieces: vec![Piece::from([0, 0, 2])],
        };
        let model = SavedModel {
            strategy: "fsdp".into(),
            forwards: BTreeMap::from([(String::new(), 3)]),
            tensors: vec![tensor],
            optimizer: None,
        };
        let files = r#"[{"name":"rank-0","bytes":9,"sums":"0123abcd"}]"#;
        Manifest::new(ManifestFields {
            name: "step-000001".into(),
            step: 1,
            sequence: 1,
            ranks: 1,
            files: serde_json::from_str(files).unwrap(),
            models: BTreeMap::from([("model".into(), model)]),
            states: BTreeMap::new(),
            metrics: BTreeMap::from([("loss".into(), f64::INFINITY.to_string())]),
            best_by: Some(("loss".into(), Best::Lowest)),
        })
    }

    #[test]
    fn a_changed_manifest_is_an_error() {
        let save = Path::new("save");
        let text = manifest().sealed(save).unwrap();
        let read = Manifest::parse(&text, save).unwrap();
        assert_eq!(read.metric("loss"), Some(f64::INFINITY));
        assert_eq!(read.models["model"].forwards[""], 3);
        assert_eq!(read.best_by, Some(("loss".into(), Best::Lowest)));
        for (from, to, words) in [
            ("\"step\":1", "\"step\":2", "nobody has changed"),
            ("\"crc32\":\"", "\"crc32\":\"0", "nobody has changed"),
            ("\"version\":3", "\"version\":2", "version 3"),
            ("{", "", "the manifest of a save"),
        ] {
            let changed = text.replacen(from, to, 1);
            let error = Manifest::parse(&changed, save).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn absurd_numbers_are_errors_though_the_checksum_fits() {
        let save = Path::new("save");
        type Change = fn(&mut Manifest);
        let faults: [(Change, &str); 4] = [
            (|m| m.files[0].name = "../other".into(), "../other"),
            (|m| m.files[0].bytes = u64::MAX, "checksums"),
            (|m| m.files.clear(), "in file 0 of 0"),
            (|m| m.files.push(m.files[0].clone()), "one name"),
        ];
        for (change, words) in faults {
            let mut changed = manifest();
            change(&mut changed);
            let text = changed.sealed(save).unwrap();
            let error = Manifest::parse(&text, save).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
