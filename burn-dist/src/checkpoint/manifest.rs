//! What a save claims to be.

use super::folder::sync_folder;
use super::state::UserState;
use super::trial::Behaviours;
use crate::error::{Error, Result};
use crate::layout::UnitLayout;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

const NAME: &str = "manifest.json";
const FORMAT: &str = "burn-dist save";
const VERSION: u32 = 2;

/// How the checksum begins in the file, and what stands for it while it is computed.
const CHECKSUM: &str = "\"crc32\": \"";
const BLANK: &str = "00000000";

/// A manifest has a few hundred bytes a parameter; more than this is none.
const LONGEST: u64 = 1 << 30;

/// The longest part of a found thing that a message repeats.
const QUOTED: usize = 100;

/// The file that makes a save a save.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Manifest {
    /// Of all of this file, with zeros in its own place.
    crc32: String,
    format: String,
    version: u32,
    /// Counts the saves in this folder.
    pub(super) number: u64,
    /// The strategy it was saved under; informative.
    pub(super) strategy: String,
    /// What is laid out, in order; the layout follows from it.
    pub(super) parameters: Vec<Described>,
    /// One file per rank, in rank order.
    pub(super) files: Vec<Listed>,
    /// What the optimizer does; nothing if it could not be tried.
    pub(super) optimizer: Option<Behaviours>,
    #[serde(flatten)]
    pub(super) state: UserState,
}

/// A parameter, as far as the layout cares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Described {
    pub(super) path: String,
    unit: String,
    shape: Vec<usize>,
    dtype: String,
    trainable: bool,
    replicated: bool,
    /// Ranks that share one copy of it.
    shard_group_size: usize,
}

/// A rank's file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Listed {
    pub(super) bytes: u64,
    pub(super) crc32: u32,
}

impl Described {
    /// A parameter with this path in the model, of which a part was sharded over so many ranks.
    pub(super) fn new(
        path: &str,
        layout: &UnitLayout,
        slot: usize,
        shard_group_size: usize,
    ) -> Self {
        let slot = &layout.slots[slot];
        // The unit's path is that in the part.
        let outer = path.strip_suffix(slot.path.as_str()).unwrap_or_default();
        let unit = format!("{outer}{}", layout.path);
        Self {
            path: path.into(),
            unit: unit.trim_end_matches('.').into(),
            shape: slot.shape.clone(),
            dtype: layout.dtype.name().to_string(),
            trainable: layout.trainable,
            replicated: layout.is_replicated(),
            shard_group_size,
        }
    }

    fn summary(&self) -> String {
        let Self {
            path,
            unit,
            shape,
            dtype,
            trainable,
            replicated,
            shard_group_size,
        } = self;
        let kind = if *trainable { "trainable" } else { "frozen" };
        let kind = if *replicated {
            format!("{kind}, replicated")
        } else {
            kind.to_string()
        };
        format!(
            "{path} {shape:?} {dtype}, {kind}, in unit \"{unit}\", sharded over {shard_group_size} rank(s)"
        )
    }
}

/// What is to be written.
#[derive(Debug)]
pub(super) struct Claims {
    pub(super) number: u64,
    pub(super) strategy: String,
    pub(super) parameters: Vec<Described>,
    pub(super) files: Vec<Listed>,
    pub(super) optimizer: Option<Behaviours>,
    pub(super) state: UserState,
}

/// Which manifest, of all that a folder has had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp(u64);

impl Stamp {
    fn of(text: &[u8]) -> Self {
        Self((text.len() as u64) << 32 | u64::from(crc32fast::hash(text)))
    }

    /// One number for it.
    pub(super) fn number(self) -> u64 {
        self.0
    }
}

impl std::fmt::Display for Stamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} bytes with checksum {:08x}",
            self.0 >> 32,
            self.0 as u32
        )
    }
}

impl From<u64> for Stamp {
    fn from(number: u64) -> Self {
        Self(number)
    }
}

impl Manifest {
    pub(super) fn new(claims: Claims) -> Self {
        let Claims {
            number,
            strategy,
            parameters,
            files,
            optimizer,
            state,
        } = claims;
        Self {
            crc32: BLANK.into(),
            format: FORMAT.into(),
            version: VERSION,
            number,
            strategy,
            parameters,
            files,
            optimizer,
            state,
        }
    }

    /// The file.
    pub(super) fn path(folder: &Path) -> PathBuf {
        folder.join(NAME)
    }

    /// The manifest of a folder, and which it is; `None` only if there certainly is none.
    pub(super) fn find(folder: &Path) -> Result<Option<(Self, Stamp)>> {
        let path = Self::path(folder);
        if !Self::exists(folder)? {
            return Ok(None);
        }
        let wanted = "the manifest of a save made by world.save";
        let mut text = String::new();
        File::open(&path)
            .and_then(|file| file.take(LONGEST).read_to_string(&mut text))
            .map_err(|e| Error::file(&path, wanted, e))?;
        // Another version has other fields.
        let head: Head = serde_json::from_str(&text).map_err(|e| Error::file(&path, wanted, e))?;
        if (head.format.as_str(), head.version) != (FORMAT, VERSION) {
            let expected = format!("{FORMAT}, version {VERSION}");
            let found = format!("{}, version {}", short(&head.format), head.version);
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
            let found = format!("{computed} for a checksum of {}", short(found));
            return Err(Error::file(&path, expected, found));
        }
        Ok(Some((manifest, Stamp::of(text.as_bytes()))))
    }

    /// Reads the manifest of a folder.
    pub(super) fn read(folder: &Path) -> Result<(Self, Stamp)> {
        let none = || {
            Error::file(
                &Self::path(folder),
                "the manifest of a save",
                "no such file",
            )
        };
        Self::find(folder)?.ok_or_else(none)
    }

    /// Whether a folder has one.
    ///
    /// # Errors
    /// [`Error::File`] where that cannot be told: a look that fails is not a folder without a save.
    pub(super) fn exists(folder: &Path) -> Result<bool> {
        let path = Self::path(folder);
        match std::fs::symlink_metadata(&path) {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
            Err(e) => Err(Error::file(&path, "a manifest, or certainly none", e)),
        }
    }

    /// Replaces the folder's manifest, which makes this the save that counts.
    pub(super) fn commit(&self, folder: &Path) -> Result<Stamp> {
        let (path, temporary) = (Self::path(folder), folder.join("manifest.json.new"));
        let failed = |e: std::io::Error| Error::file(&path, "to be written", e);
        let blank = serde_json::to_string_pretty(self)
            .map_err(|e| Error::file(&path, "a state that JSON can hold", e))?;
        // The first place is its own: it is the first field.
        let sum = format!("{CHECKSUM}{}", checksum(&blank));
        let text = blank.replacen(&format!("{CHECKSUM}{BLANK}"), &sum, 1);
        let mut file = File::create(&temporary).map_err(failed)?;
        file.write_all(text.as_bytes()).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        std::fs::rename(&temporary, &path).map_err(failed)?;
        sync_folder(folder)?;
        Ok(Stamp::of(text.as_bytes()))
    }

    /// Checks that a save fits the model and the world that want it.
    pub(super) fn check(
        &self,
        folder: &Path,
        ranks: usize,
        parameters: &[Described],
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
        let find = |all: &[Described], path: &str| all.iter().find(|p| p.path == path).cloned();
        let mut all = self.parameters.iter().chain(parameters);
        let differs = all.find_map(|p| {
            let (saved, wanted) = (find(&self.parameters, &p.path), find(parameters, &p.path));
            (saved != wanted).then_some((saved, wanted))
        });
        if let Some((saved, wanted)) = differs {
            let say = |p: Option<Described>| p.map_or("no such parameter".into(), |p| p.summary());
            let saved = format!("{} (saved under {})", say(saved), self.strategy);
            return Err(Error::file(&path, say(wanted), saved));
        }
        Ok(())
    }
}

/// What a manifest of any version says.
#[derive(Deserialize)]
struct Head {
    format: String,
    version: u32,
}

fn checksum(text: &str) -> String {
    format!("{:08x}", crc32fast::hash(text.as_bytes()))
}

/// The beginning of what a file holds, for a message.
fn short(text: &str) -> String {
    text.chars().take(QUOTED).collect()
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
