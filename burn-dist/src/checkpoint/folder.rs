//! The folder that saves go to: which of its contents are whose.
//!
//! A folder may hold anything beside saves, and other people's copies of saves. So a save that may go
//! carries a mark inside: one that is being written, and one that another is about to replace. Only
//! what has the mark is ever removed, and only while the manifest points elsewhere.

use super::manifest::Manifest;
use crate::error::{Error, Result};
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The file in a save that says that it may be removed.
const MARK: &str = "unfinished-or-replaced";

/// Where save `number` keeps its files.
pub(super) fn save_folder(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("save-{number:06}"))
}

/// The file of a rank in it.
pub(super) fn rank_file(save: &Path, rank: usize, ranks: usize) -> PathBuf {
    save.join(format!("rank-{rank:05}-of-{ranks:05}.safetensors"))
}

/// Makes renames and new files in a folder survive a power cut.
pub(super) fn sync_folder(folder: &Path) -> Result<()> {
    let failed = |e| Error::file(folder, "a folder that can be synced", e);
    File::open(folder)
        .and_then(|f| f.sync_all())
        .map_err(failed)
}

/// Makes room for the next save, and returns its number: an empty folder of that name is there then.
///
/// What an interrupted save has left goes.
pub(super) fn begin(folder: &Path, current: Option<&Manifest>) -> Result<u64> {
    let current = current.map(|manifest| manifest.number);
    if let Some(number) = current {
        unmark(&save_folder(folder, number));
    }
    remove_marked(folder, current);
    let mut number = current.unwrap_or(0);
    loop {
        number = number.checked_add(1).ok_or_else(|| {
            Error::file(
                folder,
                "a number for the next save",
                "the highest that there is",
            )
        })?;
        let save = save_folder(folder, number);
        let failed = |e| Error::file(&save, "a folder that can be made", e);
        match std::fs::create_dir(&save) {
            Ok(()) => {
                mark(&save)?;
                return Ok(number);
            }
            // Somebody else's: a copy, or anything of that name.
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            Err(e) => return Err(failed(e)),
        }
    }
}

/// The save of this number counts from now on, in the place of that of the other.
pub(super) fn replaced(folder: &Path, number: u64, before: Option<u64>) {
    unmark(&save_folder(folder, number));
    if before.is_some() {
        remove_marked(folder, Some(number));
    }
}

/// The save of this number may be removed once the manifest points to another.
pub(super) fn replaceable(folder: &Path, number: u64) -> Result<()> {
    let save = save_folder(folder, number);
    if save.is_dir() { mark(&save) } else { Ok(()) }
}

fn mark(save: &Path) -> Result<()> {
    let path = save.join(MARK);
    let failed = |e| Error::file(&path, "to be written", e);
    let text = "burn-dist removes this folder once manifest.json points to another one.\n";
    std::fs::write(&path, text).map_err(failed)
}

fn unmark(save: &Path) {
    let path = save.join(MARK);
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            log::warn!("cannot remove {}: {e}", path.display());
        }
        _ => {}
    }
}

/// Removes every save that has the mark, but for one; a failure to do so costs only disk space.
fn remove_marked(folder: &Path, keep: Option<u64>) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for path in entries.flatten().map(|e| e.path()) {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned());
        let number: Option<u64> = name
            .as_deref()
            .and_then(|n| n.strip_prefix("save-")?.parse().ok());
        let is_save = number.is_some_and(|n| save_folder(folder, n) == path);
        let is_marked = || path.join(MARK).is_file() && !path.is_symlink();
        if is_save
            && number != keep
            && is_marked()
            && let Err(e) = std::fs::remove_dir_all(&path)
        {
            log::warn!("cannot remove the old save {}: {e}", path.display());
        }
    }
}
