//! A file that grows by whole lines.

use burn_dist::{Error, Result};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a line may wait in memory.
const FLUSH_EVERY: Duration = Duration::from_secs(1);

/// Lines that are written about once a second, whole ones only: what a killed process leaves can be read.
#[derive(Debug)]
pub(crate) struct Lines {
    file: File,
    path: PathBuf,
    waiting: String,
    flushed: Instant,
}

impl Lines {
    /// Opens a file to append to, and writes the first line of a new one.
    pub(crate) fn open(path: PathBuf, header: Option<&str>) -> Result<Self> {
        let refused = |e| Error::file(&path, "a file to append to", e);
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(refused)?;
        let is_new = file.metadata().map_err(refused)?.len() == 0;
        let mut lines = Self {
            file,
            path,
            waiting: String::new(),
            flushed: Instant::now(),
        };
        if let (true, Some(header)) = (is_new, header) {
            lines.push(header)?;
            lines.flush()?;
        }
        Ok(lines)
    }

    /// Adds a line.
    pub(crate) fn push(&mut self, line: &str) -> Result<()> {
        self.waiting.push_str(line);
        self.waiting.push('\n');
        if self.flushed.elapsed() < FLUSH_EVERY {
            return Ok(());
        }
        self.flush()
    }

    /// Writes what waits.
    pub(crate) fn flush(&mut self) -> Result<()> {
        let refused = |e| Error::file(&self.path, "to be written", e);
        self.file
            .write_all(self.waiting.as_bytes())
            .map_err(refused)?;
        self.waiting.clear();
        self.flushed = Instant::now();
        Ok(())
    }
}

/// Writes a whole file, which is either there or not: a reader never sees a part of it.
pub(crate) fn write_whole(path: &Path, text: &str) -> Result<()> {
    let refused = |e| Error::file(path, "to be written", e);
    let beside = path.with_extension("new");
    std::fs::write(&beside, text).map_err(refused)?;
    std::fs::rename(&beside, path).map_err(refused)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_lines_are_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lines");
        let mut lines = Lines::open(path.clone(), Some("head")).unwrap();
        lines.push("first").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "head\n");
        lines.flush().unwrap();
        lines.push("second").unwrap();
        // As a kill does: what waits is lost, what was flushed is not.
        drop(lines);
        let mut lines = Lines::open(path.clone(), Some("head")).unwrap();
        lines.push("third").unwrap();
        lines.flush().unwrap();
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "head\nfirst\nthird\n"
        );
    }
}
