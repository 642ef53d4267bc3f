//! The files that outlive ranks: their output, their errors, their flight records.

use super::program::Program;
use super::terminal::Stream;
use crate::comm::Flight;
use crate::error::{Error, Result};
use crate::launch::{ErrorFile, Node};
use crate::lock::{Lock, LockError};
use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

/// The name of private folders begins with this.
const FOLDER_PREFIX: &str = "burn-dist-";
/// The file in a private folder that its launcher holds locked: who is killed cannot remove the folder.
const LOCK_FILE: &str = "launcher.lock";

/// The folders of one call of `supervise`.
#[derive(Debug)]
pub(super) struct Records {
    logs: Option<PathBuf>,
    errors: PathBuf,
    flights: PathBuf,
    /// Goes with this.
    _private: Option<Private>,
}

/// A folder of this launcher alone.
#[derive(Debug)]
struct Private {
    folder: TempDir,
    _lock: Lock,
}

impl Private {
    /// Makes one in the system's folder for temporary files, and removes those of launchers that have ended.
    fn new() -> io::Result<Self> {
        sweep(&std::env::temp_dir());
        let folder = tempfile::Builder::new().prefix(FOLDER_PREFIX).tempdir()?;
        // It gets its name once it is locked, so that no other launcher finds it unlocked.
        let unlocked = folder.path().join("new.lock");
        let lock = Lock::take(&unlocked, Duration::ZERO).map_err(|denied| match denied {
            LockError::Held(who) => io::Error::other(format!("locked by {who}")),
            LockError::Failed(e) => e,
        })?;
        std::fs::rename(unlocked, folder.path().join(LOCK_FILE))?;
        Ok(Self {
            folder,
            _lock: lock,
        })
    }
}

/// Removes the private folders of launchers that were killed; what cannot be removed stays.
fn sweep(place: &Path) {
    let entries = std::fs::read_dir(place).into_iter().flatten().flatten();
    for entry in entries {
        let (path, name) = (entry.path(), entry.file_name());
        let is_ours = name.to_string_lossy().starts_with(FOLDER_PREFIX)
            && entry.file_type().is_ok_and(|kind| kind.is_dir())
            && path.join(LOCK_FILE).is_file();
        if is_ours
            && let Ok(lock) = Lock::take(&path.join(LOCK_FILE), Duration::ZERO)
            && lock.is_real
            && let Err(e) = std::fs::remove_dir_all(&path)
        {
            log::debug!("cannot remove {}: {e}", path.display());
        }
    }
}

impl Records {
    /// Makes the folders: inside `node.log_dir`, or in a private folder, which is removed at the end.
    pub(super) fn open(node: &Node, program: &Program) -> Result<Self> {
        let absolute = |path: &Path| {
            std::path::absolute(path).map_err(|e| Error::file(path, "a folder for records", e))
        };
        let logs = node.log_dir.as_deref().map(absolute).transpose()?;
        let private = match &logs {
            Some(_) => None,
            None => {
                let folder = std::env::temp_dir();
                Some(
                    Private::new()
                        .map_err(|e| Error::file(&folder, "room for a private folder", e))?,
                )
            }
        };
        let private_path = private.as_ref().map(|p| p.folder.path().to_path_buf());
        let errors = logs.clone().or(private_path).unwrap_or_default();
        let flights = match program.variable("BURN_DIST_FLIGHT_DIR") {
            Some(folder) => absolute(Path::new(&folder))?,
            None => errors.clone(),
        };
        let records = Self {
            logs,
            errors,
            flights,
            _private: private,
        };
        folder(&records.flights)?;
        Ok(records)
    }

    /// Folders that are not made.
    #[cfg(test)]
    pub(super) fn in_folders(errors: &str, flights: &str) -> Self {
        Self {
            logs: None,
            errors: errors.into(),
            flights: flights.into(),
            _private: None,
        }
    }

    /// Makes the folders of the ranks that are about to start here, and removes what others with their numbers
    /// have left there.
    pub(super) fn prepare(&self, ranks: Range<usize>) -> Result<()> {
        for rank in ranks {
            folder(&self.rank(rank))?;
            let left = [
                self.error_path(rank),
                self.ready_path(rank),
                Flight::file(&self.flights, rank),
            ];
            for path in left {
                match std::fs::remove_file(&path) {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                        return Err(Error::file(&path, "to remove an old record", e));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// The file that keeps one output of a rank; what it holds already stays, with a line between.
    pub(super) fn log(&self, rank: usize, stream: Stream, attempt: usize) -> Result<Option<File>> {
        if self.logs.is_none() {
            return Ok(None);
        }
        let path = self.rank(rank).join(match stream {
            Stream::Out => "stdout.log",
            Stream::Err => "stderr.log",
        });
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = since_1970.unwrap_or_default().as_secs();
        let open = || {
            let mut file = File::options().create(true).append(true).open(&path)?;
            if file.metadata()?.len() > 0 {
                writeln!(
                    file,
                    "==== burn-dist: attempt {attempt}, at {now} s since 1970 ===="
                )?;
            }
            Ok(file)
        };
        let opened: std::io::Result<File> = open();
        let refused = |e| Error::file(&path, "a file for a rank's output", e);
        opened.map(Some).map_err(refused)
    }

    /// Where a rank writes why it failed.
    pub(super) fn error_path(&self, rank: usize) -> PathBuf {
        self.rank(rank).join("error.json")
    }

    /// The file that a rank makes once it has joined its world.
    pub(super) fn ready_path(&self, rank: usize) -> PathBuf {
        self.rank(rank).join("ready")
    }

    /// Why a rank failed, if it said so.
    pub(super) fn error(&self, rank: usize) -> Option<ErrorFile> {
        ErrorFile::read(&self.error_path(rank)).ok().flatten()
    }

    /// Where ranks write their flight records.
    pub(super) fn flight_folder(&self) -> &Path {
        &self.flights
    }

    /// The flight records of all ranks that write to this folder.
    pub(super) fn flights(&self, world: usize) -> Vec<Flight> {
        let read = |rank| Flight::read(&self.flights, rank).ok();
        // Another world may have left records in the same folder.
        let of_this = |flight: &Flight| flight.world == world;
        (0..world).filter_map(read).filter(of_this).collect()
    }

    fn rank(&self, rank: usize) -> PathBuf {
        self.errors.join(format!("rank-{rank}"))
    }
}

fn folder(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).map_err(|e| Error::file(path, "a folder for records", e))
}
