//! Files of a data set: finding and reading them, with the same errors for all data sets.

use burn_dist::{Error, Result};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The folder `name`: the given one, or the one of that name inside it.
///
/// # Errors
///
/// [`Error::File`] if there is neither; `what` says what was expected.
pub(super) fn folder(given: &Path, name: &str, what: &str) -> Result<PathBuf> {
    let nested = given.join(name);
    if nested.is_dir() {
        return Ok(nested);
    }
    if given.is_dir() {
        return Ok(given.into());
    }
    let found = if given.exists() { "a file" } else { "nothing" };
    Err(Error::file(
        given,
        format!("the folder {name} {what}, or its parent"),
        found,
    ))
}

/// A file's bytes.
///
/// # Errors
///
/// [`Error::File`] if it is missing or cannot be read; `what` says what was expected.
pub(super) fn read(path: &Path, what: &str) -> Result<Vec<u8>> {
    fs::read(path).map_err(|cause| match cause.kind() {
        ErrorKind::NotFound => Error::file(path, what, "no such file"),
        _ => Error::file(path, what, cause),
    })
}

/// The names that a file lists, one a line, or the usual ones if there is no such file.
///
/// # Errors
///
/// [`Error::File`] if it cannot be read.
pub(super) fn names(path: &Path, known: &[&str]) -> Result<Vec<String>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(cause) if cause.kind() == ErrorKind::NotFound => known.join("\n"),
        Err(cause) => return Err(Error::file(path, "a text file", cause)),
    };
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    Ok(lines.map(String::from).collect())
}
