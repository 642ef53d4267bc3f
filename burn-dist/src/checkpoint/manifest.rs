//! The manifest of a save: what the save consists of, and of which model and optimizer it is.

use super::behaviour::OptimizerBehaviour;
use super::digest::FileDigest;
use super::folder::sync_folder;
use super::parameter::SavedParameter;
use super::state::UserState;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

const NAME: &str = "manifest.json";
const FORMAT: &str = "burn-dist save";
const VERSION: u32 = 2;

/// The text before the checksum in the file, and the digits in its place while it is computed.
const CHECKSUM: &str = "\"crc32\": \"";
const BLANK: &str = "00000000";

/// Bytes of a manifest that are read. It has a few hundred a parameter, so a larger file is none.
const MAX_BYTES: u64 = 1 << 30;

/// Characters of a file's text that a message quotes.
const MAX_QUOTED: usize = 100;

/// The manifest of the last complete save in a folder, which is not a save without it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Manifest {
    /// The checksum of this file with zeros in the place of the checksum.
    crc32: String,
    format: String,
    version: u32,
    /// Counts the saves in this folder.
    pub(super) number: u64,
    /// The strategy it was saved under; informative.
    pub(super) strategy: String,
    /// All sharded parameters in module order; the layout follows from them.
    pub(super) parameters: Vec<SavedParameter>,
    /// The digest of each rank's file, in rank order.
    pub(super) files: Vec<FileDigest>,
    /// The optimizer's behaviour; `None` if it panicked in the trial.
    pub(super) optimizer: Option<OptimizerBehaviour>,
    /// Forwards that each part of the model has run in training, from which its dropout layers draw.
    #[serde(default)]
    pub(super) forwards: Vec<u64>,
    #[serde(flatten)]
    pub(super) state: UserState,
}

/// The fields of a new manifest; see those of [`Manifest`].
#[derive(Debug)]
pub(super) struct ManifestFields {
    pub(super) number: u64,
    pub(super) strategy: String,
    pub(super) parameters: Vec<SavedParameter>,
    pub(super) files: Vec<FileDigest>,
    pub(super) optimizer: Option<OptimizerBehaviour>,
    pub(super) forwards: Vec<u64>,
    pub(super) state: UserState,
}

/// The length and checksum of a manifest's text, which tell one manifest of a folder from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint(u64);

impl Fingerprint {
    fn of(text: &[u8]) -> Self {
        Self((text.len() as u64) << 32 | u64::from(crc32fast::hash(text)))
    }

    /// Both as one number, for other ranks.
    pub(super) fn number(self) -> u64 {
        self.0
    }
}

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} bytes with checksum {:08x}",
            self.0 >> 32,
            self.0 as u32
        )
    }
}

impl From<u64> for Fingerprint {
    fn from(number: u64) -> Self {
        Self(number)
    }
}

impl Manifest {
    pub(super) fn new(fields: ManifestFields) -> Self {
        let ManifestFields {
            number,
            strategy,
            parameters,
            files,
            optimizer,
            forwards,
            state,
        } = fields;
        Self {
            crc32: BLANK.into(),
            format: FORMAT.into(),
            version: VERSION,
            number,
            strategy,
            parameters,
            files,
            optimizer,
            forwards,
            state,
        }
    }

    /// The path of a folder's manifest.
    pub(super) fn path(folder: &Path) -> PathBuf {
        folder.join(NAME)
    }

    /// Reads the manifest of a folder; `None` if there is no such file.
    pub(super) fn find(folder: &Path) -> Result<Option<(Self, Fingerprint)>> {
        let path = Self::path(folder);
        if !Self::exists(folder)? {
            return Ok(None);
        }
        let wanted = "the manifest of a save made by world.save";
        let mut text = String::new();
        File::open(&path)
            .and_then(|file| file.take(MAX_BYTES).read_to_string(&mut text))
            .map_err(|e| Error::file(&path, wanted, e))?;
        // A manifest of another version has other fields, so the version is read alone first.
        let head: VersionHeader =
            serde_json::from_str(&text).map_err(|e| Error::file(&path, wanted, e))?;
        if (head.format.as_str(), head.version) != (FORMAT, VERSION) {
            let expected = format!("{FORMAT}, version {VERSION}");
            let found = format!("{}, version {}", quoted(&head.format), head.version);
            return Err(Error::file(&path, expected, found));
        }
        let manifest: Self =
            serde_json::from_str(&text).map_err(|e| Error::file(&path, wanted, e))?;
        let found = &manifest.crc32;
        let computed = text
            .split_once(&format!("{CHECKSUM}{found}"))
            .map(|(before, after)| checksum(&format!("{before}{CHECKSUM}{BLANK}{after}")));
        if computed.as_ref() != Some(found) {
            let expected = "a manifest that nobody has changed since world.save wrote it";
            let computed = computed.unwrap_or_else(|| "no checksum".into());
            let found = format!("{computed} for a checksum of {}", quoted(found));
            return Err(Error::file(&path, expected, found));
        }
        Ok(Some((manifest, Fingerprint::of(text.as_bytes()))))
    }

    /// Reads the manifest of a folder that must have one.
    pub(super) fn read(folder: &Path) -> Result<(Self, Fingerprint)> {
        let none = || {
            Error::file(
                &Self::path(folder),
                "the manifest of a save",
                "no such file",
            )
        };
        Self::find(folder)?.ok_or_else(none)
    }

    /// True if a folder has a manifest.
    ///
    /// # Errors
    /// [`Error::File`] if the file system fails to say so: the folder may have a save then.
    pub(super) fn exists(folder: &Path) -> Result<bool> {
        let path = Self::path(folder);
        match std::fs::symlink_metadata(&path) {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
            Err(e) => Err(Error::file(&path, "a manifest, or certainly none", e)),
        }
    }

    /// Replaces the folder's manifest by a rename: from then on a load reads this save.
    pub(super) fn commit(&self, folder: &Path) -> Result<Fingerprint> {
        let (path, temporary) = (Self::path(folder), folder.join("manifest.json.new"));
        let failed = |e: std::io::Error| Error::file(&path, "to be written", e);
        let blank = serde_json::to_string_pretty(self)
            .map_err(|e| Error::file(&path, "a state that JSON can hold", e))?;
        // The checksum is the first field, so the first match is not in the user's state.
        let sum = format!("{CHECKSUM}{}", checksum(&blank));
        let text = blank.replacen(&format!("{CHECKSUM}{BLANK}"), &sum, 1);
        let mut file = File::create(&temporary).map_err(failed)?;
        file.write_all(text.as_bytes()).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        std::fs::rename(&temporary, &path).map_err(failed)?;
        sync_folder(folder)?;
        Ok(Fingerprint::of(text.as_bytes()))
    }

    /// Checks that the save is of so many ranks and of these parameters.
    pub(super) fn check(
        &self,
        folder: &Path,
        ranks: usize,
        parameters: &[SavedParameter],
    ) -> Result<()> {
        let path = Self::path(folder);
        if self.files.len() != ranks {
            let expected = format!("a save of {ranks} rank(s)");
            let found = format!(
                "one of {} (saved under {}; start as many ranks with a strategy that cuts alike)",
                self.files.len(),
                self.strategy
            );
            return Err(Error::file(&path, expected, found));
        }
        let find =
            |all: &[SavedParameter], path: &str| all.iter().find(|p| p.path == path).cloned();
        let mut all = self.parameters.iter().chain(parameters);
        let differs = all.find_map(|p| {
            let (saved, wanted) = (find(&self.parameters, &p.path), find(parameters, &p.path));
            (saved != wanted).then_some((saved, wanted))
        });
        if let Some((saved, wanted)) = differs {
            let describe =
                |p: Option<SavedParameter>| p.map_or("no such parameter".into(), |p| p.to_string());
            let saved = format!("{} (saved under {})", describe(saved), self.strategy);
            return Err(Error::file(&path, describe(wanted), saved));
        }
        Ok(())
    }
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

/// The beginning of a text, for a message.
fn quoted(text: &str) -> String {
    text.chars().take(MAX_QUOTED).collect()
}
