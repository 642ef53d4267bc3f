//! Where the saves of a run lie, which is the latest, and which may be removed.
//!
//! - `folder` keeps them in a folder of a file system, `objects` in an object store; `location` says which of the
//!   two a path means, by its `scheme`;
//! - `claim` is a run's sole right to save there;
//! - `keep` says which saves stay.

mod claim;
mod folder;
mod keep;
mod location;
#[cfg(feature = "object-store")]
mod objects;
mod scheme;

use super::format::{Header, Manifest, OpenData, WriteData};
use crate::error::{Error, Result};
pub(super) use claim::{Claim, Fingerprint, fingerprint, latest_fingerprint};
pub use keep::Keep;
pub(super) use keep::Known;
pub use location::folder_of_saves;
pub(super) use location::{identity, open};
#[cfg(feature = "object-store")]
pub use objects::register_object_store;
use std::fmt::Debug;
use std::path::{Path, PathBuf};

/// What the names of saves begin with.
const PREFIX: &str = "step-";
/// The marker of a save that is not complete, or is no longer wanted.
const REMOVABLE: &str = "unfinished-or-removed";
/// What the marker says to people.
const REMOVABLE_TEXT: &str =
    "This folder is no complete save, and is removed before the next one.\n";

/// A place for the saves of a run, each with a name and files.
///
/// A save is complete once its manifest is there, which comes after all its files.
pub(super) trait Storage: OpenData {
    /// The place as the user gave it.
    fn path(&self) -> &Path;

    /// Whether all hosts see the same here without doubt.
    fn is_shared(&self) -> bool;

    /// Makes this run the one that saves here, and the place if need be.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File) if that cannot be, or another run is known to save here.
    fn hold(&self) -> Result<Box<dyn Hold>>;

    /// The name of the last complete save; none if there is none.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File) if the storage fails to say so: there may be one then; and for a save of an
    /// earlier version.
    fn latest(&self) -> Result<Option<String>>;

    /// The name of the best save; none if the run keeps none.
    fn best(&self) -> Result<Option<String>>;

    /// The names of what has a manifest, in any order.
    fn names(&self) -> Result<Vec<String>>;

    /// The text of a save's manifest.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File) if there is none, or it cannot be read.
    fn manifest(&self, name: &str) -> Result<String>;

    /// Makes room for the next save, and returns its name; removes what interrupted saves have left.
    fn create(&self, step: u64) -> Result<String>;

    /// Begins a data file of a save anew.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File) if the storage refuses it.
    fn write(&self, name: &str, file: &str, header: &Header) -> Result<Box<dyn WriteData>>;

    /// Makes a save complete and the latest, once all its data files are durable.
    fn commit(&self, name: &str, manifest: &str) -> Result<()>;

    /// Makes a save the best; none if the run keeps none.
    fn set_best(&self, name: Option<&str>) -> Result<()>;

    /// Removes a complete save. A failure costs room only, and is logged.
    fn remove(&self, name: &str);

    /// Removes a save that failed; a full disk cannot wait for the next one.
    fn remove_unfinished(&self, name: &str);

    /// The path of a save.
    fn save(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// The manifest of each save, by its name, or what is wrong with it.
    fn manifests(&self) -> Result<Vec<(String, Result<Manifest>)>> {
        let read = |name: String| {
            let manifest = self.parsed(&name).and_then(|manifest| {
                if manifest.name == name {
                    return Ok(manifest);
                }
                let expected = format!("the manifest of {name}");
                let found = format!("one of {}: is it a copy?", manifest.name);
                Err(Error::file(
                    &Manifest::path(&self.save(&name)),
                    expected,
                    found,
                ))
            });
            (name, manifest)
        };
        Ok(self.names()?.into_iter().map(read).collect())
    }

    /// Brings a list of saves up to date, and reads those alone that are new.
    ///
    /// A save that cannot be read is left out, and where it is, it stays.
    fn refresh(&self, known: &mut Vec<Known>) -> Result<()> {
        let mut all = Vec::new();
        for name in self.names()? {
            if let Some(at) = known.iter().position(|known| known.name == name) {
                all.push(known.swap_remove(at));
                continue;
            }
            match self.known(&name) {
                Ok(save) => all.extend(save),
                Err(error) => log::warn!("{error}"),
            }
        }
        *known = all;
        Ok(())
    }

    /// What is remembered of a save; none of a copy, which has another name than its own.
    fn known(&self, name: &str) -> Result<Option<Known>> {
        let manifest = self.parsed(name)?;
        Ok((manifest.name == name).then(|| Known::of(&manifest)))
    }

    /// The manifest under a name, of whatever save it is.
    fn parsed(&self, name: &str) -> Result<Manifest> {
        Manifest::parse(&self.manifest(name)?, &self.save(name))
    }
}

/// A run's sole right to save, for as long as this lives.
pub(super) trait Hold: Debug + Send {
    /// Fails if another run has taken it over.
    fn check(&self) -> Result<()>;
}

/// The name of a rank's data file.
pub(super) fn data_file_name(rank: usize, ranks: usize) -> String {
    format!("rank-{rank:05}-of-{ranks:05}.safetensors")
}

/// The name of a save of a step: a run that went back to an earlier save may come to a step again, and a name may
/// be taken by something else.
fn save_name(step: u64, attempt: u64) -> String {
    match attempt {
        1 => format!("{PREFIX}{step:08}"),
        _ => format!("{PREFIX}{step:08}.{attempt}"),
    }
}

/// Whether a name is one that [`save_name`] makes.
fn is_save_name(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(PREFIX) else {
        return false;
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match rest.split_once('.') {
        None => rest.len() >= 8 && digits(rest),
        Some((step, attempt)) => step.len() >= 8 && digits(step) && digits(attempt),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_saves() {
        for name in ["step-00000001", "step-123456789", "step-00000001.2"] {
            assert!(is_save_name(name), "{name}");
        }
        for name in [
            "step-1",
            "step-best",
            "../x",
            "step-0000000x",
            "step-00000001.",
            "",
        ] {
            assert!(!is_save_name(name), "{name}");
        }
    }
}
