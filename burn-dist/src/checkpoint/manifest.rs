//! What a save claims to be.

use crate::error::{Error, Result};
use crate::layout::Parameter;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

const NAME: &str = "manifest.json";
const FORMAT: &str = "burn-dist save";
const VERSION: u32 = 1;

/// The file that makes a save a save.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Manifest {
    format: String,
    version: u32,
    /// Counts the saves in this folder.
    pub(super) number: u64,
    /// The strategy it was saved under; informative.
    pub(super) strategy: String,
    /// Ranks that share one copy of the state.
    pub(super) cut_over: usize,
    /// What is laid out, in order; the layout follows from it.
    pub(super) parameters: Vec<Described>,
    /// One file per rank, in rank order.
    pub(super) files: Vec<Listed>,
    /// What the user gave.
    pub(super) state: serde_json::Value,
}

/// A parameter, as far as the layout cares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Described {
    pub(super) path: String,
    unit: String,
    shape: Vec<usize>,
    dtype: String,
    trainable: bool,
    whole: bool,
}

/// A rank's file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Listed {
    pub(super) bytes: u64,
    pub(super) crc32: u32,
}

impl From<&Parameter> for Described {
    fn from(p: &Parameter) -> Self {
        Self {
            path: p.path.clone(),
            unit: p.unit.clone(),
            shape: p.shape.clone(),
            dtype: p.dtype.name().to_string(),
            trainable: p.trainable,
            whole: p.whole,
        }
    }
}

impl Described {
    fn summary(&self) -> String {
        let Self {
            path,
            unit,
            shape,
            dtype,
            trainable,
            whole,
        } = self;
        let kind = if *trainable { "trainable" } else { "frozen" };
        let kind = if *whole {
            format!("{kind}, whole")
        } else {
            kind.to_string()
        };
        format!("{path} {shape:?} {dtype}, {kind}, in unit \"{unit}\"")
    }
}

impl Manifest {
    pub(super) fn new(
        number: u64,
        strategy: String,
        cut_over: usize,
        parameters: Vec<Described>,
        files: Vec<Listed>,
        state: serde_json::Value,
    ) -> Self {
        Self {
            format: FORMAT.into(),
            version: VERSION,
            number,
            strategy,
            cut_over,
            parameters,
            files,
            state,
        }
    }

    /// Reads the manifest of a folder.
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(NAME);
        let wanted = "the manifest of a save made by world.save";
        let text = std::fs::read_to_string(&path).map_err(|e| Error::file(&path, wanted, e))?;
        let manifest: Self =
            serde_json::from_str(&text).map_err(|e| Error::file(&path, wanted, e))?;
        match (manifest.format.as_str(), manifest.version) {
            (FORMAT, VERSION) => Ok(manifest),
            (format, version) => {
                let expected = format!("{FORMAT}, version {VERSION}");
                Err(Error::file(
                    &path,
                    expected,
                    format!("{format}, version {version}"),
                ))
            }
        }
    }

    /// Whether a folder has one.
    pub(super) fn exists(folder: &Path) -> bool {
        folder.join(NAME).exists()
    }

    /// The number of the next save in a folder.
    pub(super) fn next_number(folder: &Path) -> Result<u64> {
        match Self::exists(folder) {
            true => Self::read(folder).map(|m| m.number + 1),
            false => Ok(1),
        }
    }

    /// Replaces the folder's manifest, which makes this the save that counts.
    pub(super) fn commit(&self, folder: &Path) -> Result<()> {
        let (path, temporary) = (folder.join(NAME), folder.join("manifest.json.new"));
        let failed = |e: std::io::Error| Error::file(&path, "to be written", e);
        let text = serde_json::to_string_pretty(self)
            .map_err(|e| Error::file(&path, "a state that JSON can hold", e))?;
        let mut file = File::create(&temporary).map_err(failed)?;
        file.write_all(text.as_bytes()).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        std::fs::rename(&temporary, &path).map_err(failed)?;
        sync_folder(folder)
    }

    /// Checks that a save fits the model and the world that want it.
    pub(super) fn check(
        &self,
        folder: &Path,
        cut_over: usize,
        ranks: usize,
        parameters: &[Described],
    ) -> Result<()> {
        let path = folder.join(NAME);
        if self.files.len() != ranks || self.cut_over != cut_over {
            let split = |ranks: usize, cut: usize| format!("{ranks} rank(s), cut over {cut}");
            let expected = format!("a save of {}", split(ranks, cut_over));
            let found = format!(
                "one of {} (saved under {}; start as many ranks with a strategy that cuts alike)",
                split(self.files.len(), self.cut_over),
                self.strategy
            );
            return Err(Error::file(&path, expected, found));
        }
        let find = |all: &[Described], path: &str| all.iter().find(|p| p.path == path).cloned();
        let mut all = self.parameters.iter().chain(parameters);
        let differs = all.find_map(|p| {
            let (saved, wanted) = (find(&self.parameters, &p.path), find(parameters, &p.path));
            (saved != wanted).then_some((saved, wanted))
        });
        if let Some((saved, wanted)) = differs {
            let say = |p: Option<Described>| p.map_or("no such parameter".into(), |p| p.summary());
            return Err(Error::file(&path, say(wanted), say(saved)));
        }
        Ok(())
    }
}

/// Where save `number` keeps its files.
pub(super) fn save_folder(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("save-{number:06}"))
}

/// The file of a rank in it.
pub(super) fn rank_file(save: &Path, rank: usize, ranks: usize) -> PathBuf {
    save.join(format!("rank-{rank:05}-of-{ranks:05}.safetensors"))
}

/// Makes renames and new files in a folder survive a power cut.
pub(super) fn sync_folder(folder: &Path) -> Result<()> {
    let failed = |e| Error::file(folder, "a folder that can be synced", e);
    File::open(folder)
        .and_then(|f| f.sync_all())
        .map_err(failed)
}

/// Length and checksum of a file.
pub(super) fn measure(path: &Path) -> Result<Listed> {
    let failed = |e| Error::file(path, "a readable file", e);
    let mut file = File::open(path).map_err(failed)?;
    let mut crc = crc32fast::Hasher::new();
    let mut block = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        match file.read(&mut block).map_err(failed)? {
            0 => break,
            n => {
                crc.update(&block[..n]);
                bytes += n as u64;
            }
        }
    }
    let crc32 = crc.finalize();
    Ok(Listed { bytes, crc32 })
}
