//! The claim of a run to the folder that it saves to.
//!
//! Two runs that save to one folder would remove each other's saves. So the run that saves holds a lock
//! for as long as its process lives, and remembers which save it has written or loaded last: if another one is the
//! latest, another run has been here.

use super::RunFolder;
use crate::checkpoint::format::Manifest;
use crate::error::{Error, Result};
use crate::lock::{Lock, LockError};
use std::path::Path;
use std::time::Duration;

/// The file that is locked.
const NAME: &str = "lock";

/// The time to wait for the lock: a run that is restarted at once may come before the system has released
/// the lock of the killed process.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// The claim of a world's rank 0 to a folder.
#[derive(Debug, Default)]
pub(in crate::checkpoint) struct Claim {
    lock: Option<Lock>,
    /// The name and the manifest's checksum of the latest save, when this run has written or loaded one.
    latest: Option<(String, u32)>,
}

/// What tells a save from another one of the same name.
fn fingerprint(name: &str, manifest: &str) -> (String, u32) {
    (name.to_string(), crc32fast::hash(manifest.as_bytes()))
}

impl Claim {
    /// Makes the folder if it does not exist, and locks it for this run; false if it was locked before.
    pub(in crate::checkpoint) fn lock(&mut self, folder: &RunFolder) -> Result<bool> {
        if self.lock.is_some() {
            return Ok(false);
        }
        make(folder.path())?;
        let path = folder.path().join(NAME);
        let refused = |found: String| {
            let expected = "a folder that no other run saves to";
            Error::file(folder.path(), expected, found)
        };
        let lock = Lock::take(&path, LOCK_TIMEOUT).map_err(|error| match error {
            LockError::Held(who) => refused(format!(
                "one that is in use ({who}): end that run first, or choose another folder"
            )),
            LockError::Failed(e) => Error::file(&path, "a file that can be locked", e),
        })?;
        if !lock.is_real {
            log::warn!(
                "{} is on a file system without locks: let no other run save there",
                folder.path().display()
            );
        }
        self.lock = Some(lock);
        Ok(true)
    }

    /// Gives the folder free.
    pub(in crate::checkpoint) fn release(&mut self) {
        self.lock = None;
    }

    /// Notes that this run has written or loaded a save of the folder, and may remove its saves.
    pub(in crate::checkpoint) fn set_latest(&mut self, name: &str, manifest: &str) {
        self.latest = Some(fingerprint(name, manifest));
    }

    /// Notes the latest save of the folder, of which this run has loaded one.
    pub(in crate::checkpoint) fn take_over(&mut self, folder: &RunFolder) -> Result<()> {
        if let Some(name) = folder.latest()? {
            let text = Manifest::text(&folder.save(&name))?;
            self.set_latest(&name, &text);
        }
        Ok(())
    }

    /// Fails if another run has saved to the folder since this one has last written or loaded a save of it.
    pub(in crate::checkpoint) fn check(&self, folder: &RunFolder) -> Result<()> {
        let Some(name) = folder.latest()? else {
            return Ok(());
        };
        let text = Manifest::text(&folder.save(&name))?;
        if self.latest.as_ref() == Some(&fingerprint(&name, &text)) {
            return Ok(());
        }
        let expected = "no saves but those of this run, which it has loaded or written";
        let found = format!("{name} of another run: load it first, or choose another folder");
        Err(Error::file(folder.path(), expected, found))
    }
}

/// Makes a folder that survives a power cut.
fn make(folder: &Path) -> Result<()> {
    let failed = |e: std::io::Error| Error::file(folder, "a folder that can be made", e);
    if folder.is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(folder).map_err(failed)?;
    // The names of new folders are in those that hold them.
    let absolute = std::path::absolute(folder).map_err(failed)?;
    for outer in absolute.ancestors().skip(1) {
        // Of those above, this process may not be allowed to open some; they were there before.
        let Ok(outer) = std::fs::File::open(outer) else {
            break;
        };
        outer.sync_all().map_err(failed)?;
    }
    Ok(())
}
