//! A lock file that one process at a time holds, and that the system releases when that process ends.

use crate::host;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// The time between two attempts to take a lock that another process holds.
const RETRY_EVERY: Duration = Duration::from_millis(20);

/// Bytes of the file that are read: more than [`Lock::take`] writes.
const MAX_HOLDER_BYTES: u64 = 300;

/// A lock, held until this is dropped or the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
    /// False on a file system without locks, where this excludes nobody.
    pub(crate) is_real: bool,
}

/// The reason why a lock was not taken.
#[derive(Debug)]
pub(crate) enum LockError {
    /// Another process holds it: its host and number, as far as it says so.
    Held(String),
    /// The file cannot be opened or written.
    Failed(io::Error),
}

impl From<io::Error> for LockError {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

impl Lock {
    /// Locks the file at `path`, and retries for at most `timeout` while another process holds it.
    ///
    /// The file stays; it names the last holder. Children that become other programs do not inherit the
    /// lock. Over NFS it holds between hosts where the server runs its lock service.
    pub(crate) fn take(path: &Path, timeout: Duration) -> Result<Self, LockError> {
        let mut options = File::options();
        let mut file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        let until = Instant::now() + timeout;
        let is_real = loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break true,
                Err(Errno::NOSYS | Errno::NOTSUP | Errno::NOLCK) => break false,
                Err(Errno::WOULDBLOCK | Errno::ACCESS) if Instant::now() >= until => {
                    return Err(LockError::Held(holder(&mut file)));
                }
                Err(Errno::WOULDBLOCK | Errno::ACCESS | Errno::INTR) => {
                    std::thread::sleep(RETRY_EVERY)
                }
                Err(errno) => return Err(LockError::Failed(errno.into())),
            }
        };
        file.rewind()?;
        file.set_len(0)?;
        let process = std::process::id();
        writeln!(file, "host {}, process {process}", host::name())?;
        Ok(Self {
            _file: file,
            is_real,
        })
    }
}

/// The line that the holder has written.
fn holder(file: &mut File) -> String {
    let mut bytes = Vec::new();
    let read = file
        .rewind()
        .and_then(|()| file.take(MAX_HOLDER_BYTES).read_to_end(&mut bytes));
    let text = String::from_utf8_lossy(&bytes);
    match (read, text.lines().next().map(str::trim)) {
        (Ok(_), Some(line)) if !line.is_empty() => line.to_string(),
        _ => "a process that has not said which".to_string(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_holds_it_and_the_next_is_told_who() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let first = Lock::take(&path, Duration::ZERO).unwrap();
        let error = Lock::take(&path, Duration::ZERO).unwrap_err();
        let process = format!("process {}", std::process::id());
        assert!(matches!(&error, LockError::Held(who) if who.contains(&process)));
        drop(first);
        Lock::take(&path, Duration::ZERO).unwrap();
    }
}
