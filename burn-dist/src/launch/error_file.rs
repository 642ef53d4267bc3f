//! The file in which a rank writes why it failed, for its launcher to read.
//!
//! Its form is torchrun's, so that either launcher understands either kind of program.

use crate::error::{Error, Result};
use serde_json::{Value, json};
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::time::SystemTime;

/// The most that is read of a file.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Why a process failed, as it said itself.
///
/// ```
/// use burn_dist::launch::ErrorFile;
///
/// # let folder = tempfile::tempdir().unwrap();
/// let path = folder.path().join("error.json"); // in a child: $TORCHELASTIC_ERROR_FILE
/// ErrorFile::new("the disk is full", false, 3).write(&path)?;
/// let found = ErrorFile::read(&path)?.unwrap();
/// assert_eq!((found.message.as_str(), found.rank), ("the disk is full", Some(3)));
/// # Ok::<(), burn_dist::Error>(())
/// ```
///
/// # Source
/// PyTorch: `torch.distributed.elastic.multiprocessing.errors`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorFile {
    /// The error.
    pub message: String,
    /// Seconds since 1970 when it happened, where the process says so.
    pub timestamp: Option<u64>,
    /// Whether the process failed only because another one had failed.
    pub secondary: bool,
    /// The rank, where the process says so.
    pub rank: Option<usize>,
    /// The rank because of which this one failed, where the process says so.
    pub blames: Option<usize>,
}

impl ErrorFile {
    /// The environment variable in which a launcher tells a child where to write.
    pub const VARIABLE: &'static str = "TORCHELASTIC_ERROR_FILE";

    /// What a rank says that fails now.
    pub fn new(message: impl Into<String>, secondary: bool, rank: usize) -> Self {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Self {
            message: message.into(),
            timestamp: Some(since_1970.unwrap_or_default().as_secs()),
            secondary,
            rank: Some(rank),
            blames: None,
        }
    }

    /// Writes the file, so that a reader finds all of it or nothing.
    ///
    /// # Errors
    /// [`Error::File`] if that fails.
    pub fn write(&self, path: &Path) -> Result<()> {
        // torchrun reads the time as a string of digits.
        let time = self.timestamp.unwrap_or_default().to_string();
        let mut extra = json!({ "timestamp": time, "secondary": self.secondary });
        if let Some(rank) = self.rank {
            extra["rank"] = rank.into();
        }
        if let Some(rank) = self.blames {
            extra["blames"] = rank.into();
        }
        let whole = json!({ "message": { "message": self.message, "extraInfo": extra } });
        let mut unfinished = path.as_os_str().to_owned();
        unfinished.push(".unfinished");
        std::fs::write(&unfinished, whole.to_string())
            .and_then(|()| std::fs::rename(&unfinished, path))
            .map_err(|e| Error::file(path, "to write why this rank failed", e))
    }

    /// Reads what a process left; `None` if it left nothing.
    ///
    /// Other programs write other things there. What is not of the known form is taken for the
    /// message as it is.
    ///
    /// # Errors
    /// [`Error::File`] if the file is there and cannot be read.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let mut bytes = Vec::new();
        let read = std::fs::File::open(path)
            .and_then(|file| file.take(MAX_FILE_BYTES).read_to_end(&mut bytes));
        match read {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::file(path, "the error of a failed process", e)),
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim();
        Ok((!text.is_empty()).then(|| Self::parse(text)))
    }

    fn parse(text: &str) -> Self {
        let whole: Value = serde_json::from_str(text).unwrap_or_default();
        let outer = &whole["message"];
        let extra = &outer["extraInfo"];
        let message = outer.as_str().or_else(|| outer["message"].as_str());
        let number = |value: &Value| match value {
            Value::String(digits) => digits.trim().parse().ok(),
            // Some write the time with a fraction.
            other => other.as_f64().map(|seconds| seconds as u64),
        };
        Self {
            message: message.unwrap_or(text).trim().to_string(),
            timestamp: number(&extra["timestamp"]),
            secondary: extra["secondary"].as_bool().unwrap_or_default(),
            rank: number(&extra["rank"]).and_then(|rank| rank.try_into().ok()),
            blames: number(&extra["blames"]).and_then(|rank| rank.try_into().ok()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<ErrorFile> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("error.json");
        std::fs::write(&path, text).unwrap();
        ErrorFile::read(&path).unwrap()
    }

    #[test]
    fn a_file_gives_back_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("error.json");
        assert_eq!(ErrorFile::read(&path).unwrap(), None);
        let error = ErrorFile::new("\"no\"\nmore", true, 3);
        error.write(&path).unwrap();
        assert_eq!(ErrorFile::read(&path).unwrap(), Some(error));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        let nowhere = folder.path().join("none/error.json");
        let refused = ErrorFile::new("no", true, 3).write(&nowhere);
        assert!(matches!(refused, Err(Error::File { .. })), "{refused:?}");
    }

    #[test]
    fn torchrun_can_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("error.json");
        ErrorFile::new("no", true, 3).write(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let whole: Value = serde_json::from_str(&text).unwrap();
        let extra = &whole["message"]["extraInfo"];
        assert_eq!(whole["message"]["message"], "no");
        assert!(extra["timestamp"].as_str().unwrap().parse::<u64>().unwrap() > 1_600_000_000);
        assert_eq!(
            (&extra["secondary"], &extra["rank"]),
            (&json!(true), &json!(3))
        );
    }

    #[test]
    fn what_other_programs_write_is_read_too() {
        let torch = r#"{"message": {"message": "RuntimeError: no",
            "extraInfo": {"py_callstack": "...", "timestamp": "1700000000"}}}"#;
        let found = read(torch).unwrap();
        assert_eq!(found.message, "RuntimeError: no");
        assert_eq!(found.timestamp, Some(1_700_000_000));
        assert_eq!((found.secondary, found.rank), (false, None));

        let plain = read(r#"{"message": "no more\n"}"#).unwrap();
        assert_eq!((plain.message.as_str(), plain.timestamp), ("no more", None));
        let late = r#"{"message": {"message": "no", "extraInfo": {"timestamp": 17.5}}}"#;
        assert_eq!(read(late).unwrap().timestamp, Some(17));
        assert_eq!(
            read("Segmentation fault\n").unwrap().message,
            "Segmentation fault"
        );
        assert_eq!(read("[1, 2]").unwrap().message, "[1, 2]");
        assert_eq!(
            read(r#"{"message": {"#).unwrap().message,
            r#"{"message": {"#
        );
        assert_eq!(read(" \n"), None);
    }
}
