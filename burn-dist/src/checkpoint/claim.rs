//! The claim of a run to the folder that it saves to.
//!
//! Two runs that save to one folder would remove each other's saves. So the run that saves holds a lock
//! for as long as its process lives, and remembers which save it has written or loaded last: any other
//! save belongs to another run, and is not replaced.

use super::manifest::{Fingerprint, Manifest};
use crate::comm::Communicator;
use crate::error::{Error, Result};
use crate::lock::{Lock, LockError};
use crate::world::World;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

/// The file that is locked.
const NAME: &str = "lock";

/// The time to wait for the lock: a run that is restarted at once may come before the system has released
/// the lock of the killed process.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// The claim of a world's rank 0 to a folder.
#[derive(Debug)]
struct Claim {
    /// The world, by the communicator that all its clones share.
    world: Weak<Communicator>,
    folder: PathBuf,
    lock: Option<Lock>,
    /// The save that this run has written or loaded last.
    own_save: Option<Fingerprint>,
}

/// The claims of all worlds of this process.
static CLAIMS: Mutex<Vec<Claim>> = Mutex::new(Vec::new());

/// The claims of worlds that still exist; those of others are dropped, and their locks with them.
fn claims() -> MutexGuard<'static, Vec<Claim>> {
    let mut claims = CLAIMS.lock().unwrap_or_else(PoisonError::into_inner);
    claims.retain(|claim| claim.world.strong_count() > 0);
    claims
}

/// The claim of `world` to a folder, which must exist.
fn claim_of<'a>(claims: &'a mut Vec<Claim>, world: &World, folder: &Path) -> Result<&'a mut Claim> {
    let folder = std::fs::canonicalize(folder)
        .map_err(|e| Error::file(folder, "a folder that can be found", e))?;
    let is = |claim: &Claim| {
        claim.folder == folder && std::ptr::eq(claim.world.as_ptr(), Arc::as_ptr(world.comm()))
    };
    let at = claims.iter().position(is).unwrap_or(claims.len());
    if at == claims.len() {
        claims.push(Claim {
            world: Arc::downgrade(world.comm()),
            folder,
            lock: None,
            own_save: None,
        });
    }
    Ok(&mut claims[at])
}

/// Notes on rank 0 that this run has loaded or written a save, and so may replace it.
pub(super) fn set_own_save(world: &World, folder: &Path, save: Fingerprint) -> Result<()> {
    claim_of(&mut claims(), world, folder)?.own_save = Some(save);
    Ok(())
}

/// Makes the folder if it does not exist, and locks it for this run.
pub(super) fn lock(world: &World, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)
        .map_err(|e| Error::file(folder, "a folder that can be made", e))?;
    let mut claims = claims();
    let claim = claim_of(&mut claims, world, folder)?;
    if claim.lock.is_some() {
        return Ok(());
    }
    let path = claim.folder.join(NAME);
    let refused = |found: String| Error::file(folder, "a folder that no other run saves to", found);
    let lock = Lock::take(&path, LOCK_TIMEOUT).map_err(|error| match error {
        LockError::Held(who) => refused(format!(
            "one that is in use ({who}): end that run first, or choose another folder"
        )),
        LockError::Failed(e) => Error::file(&path, "a file that can be locked", e),
    })?;
    if !lock.is_real {
        log::warn!(
            "{} is on a file system without locks: let no other run save there",
            folder.display()
        );
    }
    claim.lock = Some(lock);
    Ok(())
}

/// Reads the manifest of the folder's save, which must be this run's; `None` if there is no save.
///
/// # Errors
/// [`Error::File`] for one that this run has neither loaded nor written, and for one that cannot be read.
pub(super) fn own_save(world: &World, folder: &Path) -> Result<Option<Manifest>> {
    let found = Manifest::find(folder)?;
    let own = claim_of(&mut claims(), world, folder)?.own_save;
    match found {
        None => Ok(None),
        Some((manifest, fingerprint)) if own == Some(fingerprint) => Ok(Some(manifest)),
        Some((manifest, _)) => {
            let expected = "no save but what this run has loaded or written";
            let found = format!(
                "number {} of another run: load it first, or choose another folder",
                manifest.number
            );
            Err(Error::file(&Manifest::path(folder), expected, found))
        }
    }
}

impl World {
    /// Makes this world the only one that saves to a folder, from now until its process ends.
    ///
    /// [`save`](Self::save) does so itself; called before training starts, it lets the second of two runs
    /// fail before it has computed anything. Makes the folder if need be. Collective.
    ///
    /// Rank 0 locks the file `lock` in it with `flock`. The lock ends with the process, however that ends,
    /// so that a run that was killed can be started again at once; one that is just ending is waited
    /// for, up to five seconds. Over NFS the lock holds between hosts where the server runs its lock
    /// service; where a file system knows no locks, this is a warning.
    ///
    /// # Errors
    /// [`Error::File`] if another run saves there, with its host and process, or if the folder cannot be
    /// written to. What fails on rank 0 fails on all.
    ///
    /// ```
    /// use burn_dist::launch::Threads;
    ///
    /// # let folder = tempfile::tempdir().unwrap();
    /// let folder = folder.path().join("run");
    /// Threads::new(2).run(|world| {
    ///     world.claim_saves(&folder)?;
    ///     assert!(!world.has_save(&folder)?);
    ///     Ok(())
    /// })?;
    /// # Ok::<(), burn_dist::Error>(())
    /// ```
    pub fn claim_saves(&self, folder: impl AsRef<Path>) -> Result<()> {
        self.together("claim the folder for saves", || {
            if self.is_chief() {
                lock(self, folder.as_ref())?;
            }
            Ok([0; 2])
        })
        .map(drop)
    }
}
