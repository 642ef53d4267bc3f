//! The folder of saves: where a save's files lie, and which saves may be removed.
//!
//! A folder may hold anything beside saves, and other people's copies of saves. So a save that may be
//! removed has a marker file inside: one that is being written, and one that another is about to replace.
//! Only a save with the marker is ever removed, and only while the manifest points to another one.

use crate::error::{Error, Result};
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The marker file of a save that may be removed.
const REMOVABLE: &str = "unfinished-or-replaced";

/// The folder of the files of save `number`.
pub(super) fn save_folder(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("save-{number:06}"))
}

/// The file of a rank in the folder of a save.
pub(super) fn rank_path(save: &Path, rank: usize, ranks: usize) -> PathBuf {
    save.join(format!("rank-{rank:05}-of-{ranks:05}.safetensors"))
}

/// Syncs a folder, so that renames and new files in it survive a power cut.
pub(super) fn sync_folder(folder: &Path) -> Result<()> {
    let failed = |e| Error::file(folder, "a folder that can be synced", e);
    File::open(folder)
        .and_then(|f| f.sync_all())
        .map_err(failed)
}

/// Makes an empty folder for the next save, and returns the save's number.
///
/// `current` is the number of the save that the manifest points to; what an interrupted save has left is
/// removed.
pub(super) fn create_save(folder: &Path, current: Option<u64>) -> Result<u64> {
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

/// Removes the save `before`, which the manifest has pointed to until it pointed to `number`.
pub(super) fn remove_replaced(folder: &Path, number: u64, before: Option<u64>) {
    unmark(&save_folder(folder, number));
    if before.is_some() {
        remove_marked(folder, Some(number));
    }
}

/// Marks the save of this number to be removed once the manifest points to another.
pub(super) fn mark_removable(folder: &Path, number: u64) -> Result<()> {
    let save = save_folder(folder, number);
    if save.is_dir() { mark(&save) } else { Ok(()) }
}

fn mark(save: &Path) -> Result<()> {
    let path = save.join(REMOVABLE);
    let failed = |e| Error::file(&path, "to be written", e);
    let text = "burn-dist removes this folder once manifest.json points to another one.\n";
    std::fs::write(&path, text).map_err(failed)
}

fn unmark(save: &Path) {
    let path = save.join(REMOVABLE);
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            log::warn!("cannot remove {}: {e}", path.display());
        }
        _ => {}
    }
}

/// Removes every save with the marker file but `keep`; a failure costs only disk space and is logged.
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
        let is_marked = || path.join(REMOVABLE).is_file() && !path.is_symlink();
        if is_save
            && number != keep
            && is_marked()
            && let Err(e) = std::fs::remove_dir_all(&path)
        {
            log::warn!("cannot remove the old save {}: {e}", path.display());
        }
    }
}
