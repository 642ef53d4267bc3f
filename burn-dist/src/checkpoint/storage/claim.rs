//! The claim of a run to the place that it saves to.
//!
//! Two runs that save to one place would remove each other's saves. So the run that saves holds the place,
//! and remembers which save it has written or loaded last: if another one is the latest, another run has been here.

use super::{Hold, Storage};
use crate::error::{Error, Result};

/// The name of a save, and its manifest's checksum.
pub(in crate::checkpoint) type Fingerprint = (String, u32);

/// The claim of a world's rank 0.
#[derive(Debug, Default)]
pub(in crate::checkpoint) struct Claim {
    held: Option<Box<dyn Hold>>,
    /// Whether the place was read once, so that it is known to be there.
    is_reached: bool,
    /// The name and the manifest's checksum of the latest save, when this run has written or loaded one.
    latest: Option<Fingerprint>,
    /// The same of the one that it is completing: it may be complete though the answer was lost.
    committing: Option<Fingerprint>,
}

/// What tells a save from another one of the same name.
pub(in crate::checkpoint) fn fingerprint(name: &str, manifest: &str) -> Fingerprint {
    (name.to_string(), crc32fast::hash(manifest.as_bytes()))
}

/// The latest save of a place.
pub(in crate::checkpoint) fn latest_fingerprint(
    storage: &dyn Storage,
) -> Result<Option<Fingerprint>> {
    let Some(name) = storage.latest()? else {
        return Ok(None);
    };
    let text = storage.manifest(&name)?;
    Ok(Some(fingerprint(&name, &text)))
}

impl Claim {
    /// Makes sure, once, that the place can be read, and does not hold it yet.
    pub(in crate::checkpoint) fn reach(&mut self, storage: &dyn Storage) -> Result<()> {
        if !self.is_reached {
            storage.latest()?;
            self.is_reached = true;
        }
        Ok(())
    }

    /// Whether this run has made itself the one that saves there.
    pub(in crate::checkpoint) fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// Makes this run the one that saves there; false if it was before.
    pub(in crate::checkpoint) fn hold(&mut self, storage: &dyn Storage) -> Result<bool> {
        if self.held.is_some() {
            return Ok(false);
        }
        self.held = Some(storage.hold()?);
        Ok(true)
    }

    /// Fails if another run has taken the place over.
    pub(in crate::checkpoint) fn check_held(&self) -> Result<()> {
        self.held.as_ref().map_or(Ok(()), |held| held.check())
    }

    /// Gives the place free.
    pub(in crate::checkpoint) fn release(&mut self) {
        self.held = None;
    }

    /// Notes that this run has written or loaded a save of the place, and may remove its saves.
    pub(in crate::checkpoint) fn set_latest(&mut self, name: &str, manifest: &str) {
        self.latest = Some(fingerprint(name, manifest));
        self.committing = None;
    }

    /// Notes that this run is about to complete a save.
    pub(in crate::checkpoint) fn set_committing(&mut self, name: &str, manifest: &str) {
        self.committing = Some(fingerprint(name, manifest));
    }

    /// Notes which save was the latest when this run opened one that it has loaded.
    pub(in crate::checkpoint) fn take_over(&mut self, latest: Option<Fingerprint>) {
        self.latest = latest;
        self.committing = None;
    }

    /// Fails if another run has saved there since this one has last written or loaded a save of it.
    pub(in crate::checkpoint) fn check(&self, storage: &dyn Storage) -> Result<()> {
        self.check_held()?;
        let found = latest_fingerprint(storage)?;
        let Some((name, _)) = &found else {
            return Ok(());
        };
        if found == self.latest || found == self.committing {
            return Ok(());
        }
        let expected = "no saves but those of this run, which it has loaded or written";
        let found = format!("{name} of another run: load it first, or choose another folder");
        Err(Error::file(storage.path(), expected, found))
    }
}
