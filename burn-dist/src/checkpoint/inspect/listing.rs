//! The saves of a run's folder.

use crate::checkpoint::format::Manifest;
use crate::checkpoint::storage::open;
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::path::Path;

/// The saves of a run's folder, oldest first, and what of it is damaged.
///
/// ```
/// use burn::{nn::LinearConfig, optim::AdamWConfig};
/// use burn_dist::checkpoint::RunListing;
/// use burn_dist::prelude::*;
///
/// # let folder = tempfile::tempdir().unwrap();
/// # let folder = folder.path();
/// Threads::new(2).run(|world| {
///     let layer = LinearConfig::new(8, 4).init(&world.device());
///     let layer = Strategy::fsdp().shard(layer, &world)?;
///     let optim = world.optimizer(AdamWConfig::new().init(), &layer)?;
///     world.save(folder, &layer, &optim, &7)
/// })?;
/// let listing = RunListing::of(folder)?;
/// assert_eq!((listing.saves.len(), listing.damaged.len()), (1, 0));
/// assert!(listing.saves[0].is_latest);
/// # Ok::<(), burn_dist::Error>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RunListing {
    /// The complete saves, by their sequence.
    pub saves: Vec<ListedSave>,
    /// What cannot be read, by name.
    pub damaged: Vec<DamagedSave>,
}

/// A complete save of a run.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ListedSave {
    /// The name of its folder.
    pub name: String,
    /// The step that it was made at.
    pub step: u64,
    /// Counts the saves of the run.
    pub sequence: u64,
    /// What was measured for it, by name.
    pub metrics: BTreeMap<String, f64>,
    /// The bytes of its data files.
    pub bytes: u64,
    /// Whether a run that resumes begins with it.
    pub is_latest: bool,
    /// Whether it is the best one of a run that keeps it.
    pub is_best: bool,
}

/// A save whose manifest cannot be read, or one of the files `latest` and `best` that names no save.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DamagedSave {
    /// The name of its folder or file.
    pub name: String,
    /// What is wrong with it.
    pub error: Error,
}

impl RunListing {
    /// Reads the manifests of a run's saves.
    ///
    /// # Cost
    /// No data file is opened.
    ///
    /// # Errors
    /// [`Error::File`] if the folder cannot be listed. A save that is damaged is none: it is in the list of those.
    pub fn of(folder: impl AsRef<Path>) -> Result<Self> {
        let storage = open(folder.as_ref())?;
        let mut damaged = Vec::new();
        let mut manifests = Vec::new();
        for (name, manifest) in storage.manifests()? {
            match manifest {
                Ok(manifest) => manifests.push(manifest),
                Err(error) => damaged.push(DamagedSave { name, error }),
            }
        }
        let mut pointed = |pointer: &str, read: Result<Option<String>>| {
            let names = || manifests.iter().map(|manifest| &manifest.name);
            let error = match read {
                Ok(None) => return None,
                Ok(Some(name)) if names().any(|known| *known == name) => return Some(name),
                Ok(Some(name)) => {
                    let path = storage.path().join(pointer);
                    Error::file(&path, "the name of a complete save", name)
                }
                Err(error) => error,
            };
            let name = pointer.to_string();
            damaged.push(DamagedSave { name, error });
            None
        };
        let latest = pointed("latest", storage.latest());
        let best = pointed("best", storage.best());
        let saves = manifests.iter().map(|manifest| ListedSave {
            name: manifest.name.clone(),
            step: manifest.step,
            sequence: manifest.sequence,
            metrics: metrics(manifest),
            bytes: manifest.files.iter().map(|file| file.bytes).sum(),
            is_latest: latest.as_ref() == Some(&manifest.name),
            is_best: best.as_ref() == Some(&manifest.name),
        });
        let mut saves: Vec<ListedSave> = saves.collect();
        saves.sort_by(|a, b| (a.sequence, &a.name).cmp(&(b.sequence, &b.name)));
        damaged.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Self { saves, damaged })
    }
}

/// The metrics of a save as numbers.
pub(super) fn metrics(manifest: &Manifest) -> BTreeMap<String, f64> {
    let names = manifest.metrics.keys();
    let metrics = names.filter_map(|name| Some((name.clone(), manifest.metric(name)?)));
    metrics.collect()
}
