//! Reading and writing the files of a matrix.

use crate::{Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::File;
use std::path::{Path, PathBuf};

/// The file that is locked while runs are made in a folder.
pub(crate) const LOCK: &str = ".lock";

/// Makes a folder and those above it.
pub(crate) fn make_folder(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).map_err(|e| Error::file(path, "a folder that can be made", e))
}

/// Writes a whole file, which is there or not: a reader never sees a part of it.
pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    let refused = |e| Error::file(path, "a file that can be written", e);
    let beside = path.with_extension("new");
    std::fs::write(&beside, text).map_err(refused)?;
    std::fs::rename(&beside, path).map_err(refused)
}

/// Reads a text file.
pub(crate) fn read(path: &Path, expected: &str) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| Error::file(path, expected, e))
}

/// Writes a value as JSON.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| Error::file(path, "what JSON can hold", e))?;
    write(path, &(text + "\n"))
}

/// Reads a value as JSON.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path, expected: &str) -> Result<T> {
    let text = read(path, expected)?;
    serde_json::from_str(&text).map_err(|e| Error::file(path, expected, e))
}

/// Makes sure that no other process makes runs in a folder, for as long as the file is held.
pub(crate) fn lock(folder: &Path) -> Result<File> {
    make_folder(folder)?;
    let path = folder.join(LOCK);
    let refused = |e| Error::file(&path, "a file that can be locked", e);
    let file = File::create(&path).map_err(refused)?;
    file.try_lock().map_err(|e| {
        let found = format!("{e}: another `experiments` makes runs in this folder; wait for it");
        Error::file(&path, "a folder that nobody else is using", found)
    })?;
    Ok(file)
}

/// Moves a folder aside, to the first free name of `NAME.incomplete-1` and so on.
pub(crate) fn move_aside(folder: &Path) -> Result<PathBuf> {
    let mut candidates = (1..10_000).map(|n| {
        let mut name = folder.as_os_str().to_owned();
        name.push(format!(".incomplete-{n}"));
        PathBuf::from(name)
    });
    let Some(free) = candidates.find(|path| !path.exists()) else {
        return Err(Error::file(
            folder,
            "less than ten thousand incomplete runs",
            "more",
        ));
    };
    std::fs::rename(folder, &free)
        .map_err(|e| Error::file(folder, "a folder that can be moved aside", e))?;
    Ok(free)
}
