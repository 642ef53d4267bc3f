//! Saves in the folder of a run.
//!
//! ```text
//! RUN/lock                                             held by the run that saves here
//! RUN/latest                                           the name of the last complete save
//! RUN/best                                             the name of the best one, if the run keeps it
//! RUN/step-00000100/manifest.json
//! RUN/step-00000100/rank-00000-of-00002.safetensors
//! RUN/step-00000100/rank-00001-of-00002.safetensors
//! ```
//!
//! A save is complete when its manifest has its name, by a rename, after all files are on disk; `latest` is
//! replaced after that, in the same way. So a kill or a power cut at any moment leaves a `latest` that names a
//! complete save.
//!
//! A run folder may hold anything beside saves, and other people's copies of saves. So a folder that may be removed
//! has a marker file in the manifest's place, and a save of another name than its folder's is nobody's of this run.

use super::keep::Known;
use crate::checkpoint::format::Manifest;
use crate::error::{Error, Result};
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

/// The pointer to the last complete save.
const LATEST: &str = "latest";
/// The pointer to the best save.
const BEST: &str = "best";
/// The marker of a save that is not complete, or is no longer wanted.
const REMOVABLE: &str = "unfinished-or-removed";
/// What the names of saves begin with.
const PREFIX: &str = "step-";
/// Bytes of a pointer that are read.
const MAX_NAME: u64 = 200;

/// The folder of a run.
#[derive(Debug, Clone)]
pub(in crate::checkpoint) struct RunFolder(PathBuf);

/// The name of a rank's data file.
pub(in crate::checkpoint) fn data_file_name(rank: usize, ranks: usize) -> String {
    format!("rank-{rank:05}-of-{ranks:05}.safetensors")
}

/// Syncs a folder, so that renames and new files in it survive a power cut.
fn sync(folder: &Path) -> Result<()> {
    let synced = File::open(folder).and_then(|f| f.sync_all());
    synced.map_err(|e| Error::file(folder, "a folder that can be synced", e))
}

/// Writes a file under another name, syncs it, and gives it its name.
fn replace(path: &Path, text: &str) -> Result<()> {
    let temporary = path.with_extension("new");
    let write = || -> io::Result<()> {
        let mut file = File::create(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    write().map_err(|e| Error::file(path, "to be written", e))?;
    sync(path.parent().unwrap_or(Path::new(".")))
}

impl RunFolder {
    pub(in crate::checkpoint) fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    pub(in crate::checkpoint) fn path(&self) -> &Path {
        &self.0
    }

    /// The folder of a save.
    pub(in crate::checkpoint) fn save(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The name of the last complete save; none if there is none.
    ///
    /// # Errors
    /// [`Error::File`] if the file system fails to say so: there may be one then; and for a folder with a save of an
    /// earlier version.
    pub(in crate::checkpoint) fn latest(&self) -> Result<Option<String>> {
        let latest = self.pointed(LATEST)?;
        // Versions 1 and 2 had one manifest for the folder of the run.
        let earlier = Manifest::path(&self.0);
        if latest.is_none() && earlier.exists() {
            let expected = "no save of an earlier version";
            let found =
                "one: end that run with the version that wrote it, or choose another folder";
            return Err(Error::file(&earlier, expected, found));
        }
        Ok(latest)
    }

    /// The name of the best save; none if the run keeps none.
    pub(in crate::checkpoint) fn best(&self) -> Result<Option<String>> {
        self.pointed(BEST)
    }

    fn pointed(&self, pointer: &str) -> Result<Option<String>> {
        let path = self.0.join(pointer);
        let mut text = String::new();
        let read = File::open(&path).and_then(|file| {
            io::Read::read_to_string(&mut io::Read::take(file, MAX_NAME), &mut text)
        });
        match read {
            Ok(_) if is_name(text.trim_end()) => Ok(Some(text.trim_end().to_string())),
            Ok(_) => Err(Error::file(
                &path,
                "the name of a save",
                format!("{text:?}"),
            )),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::file(
                &path,
                "the name of a save, or certainly none",
                e,
            )),
        }
    }

    /// The complete saves of this folder, in any order.
    pub(in crate::checkpoint) fn saves(&self) -> Result<Vec<Known>> {
        let mut all = Vec::new();
        self.refresh(&mut all)?;
        Ok(all)
    }

    /// Brings a list of saves up to date, and reads those alone that are new.
    ///
    /// A save that cannot be read is left out, and where it is, it stays.
    pub(in crate::checkpoint) fn refresh(&self, known: &mut Vec<Known>) -> Result<()> {
        let mut all = Vec::new();
        for name in self.names()? {
            let save = self.save(&name);
            if !Manifest::path(&save).is_file() {
                continue;
            }
            if let Some(at) = known.iter().position(|known| known.name == name) {
                all.push(known.swap_remove(at));
                continue;
            }
            match Manifest::read(&save) {
                Ok(manifest) if manifest.name == name => all.push(Known::of(&manifest)),
                Ok(_) => {}
                Err(error) => log::warn!("{error}"),
            }
        }
        *known = all;
        Ok(())
    }

    /// The manifest of each folder that may be a save and has one, by its name.
    ///
    /// # Errors
    /// [`Error::File`] if the folder cannot be listed.
    pub(in crate::checkpoint) fn manifests(&self) -> Result<Vec<(String, Result<Manifest>)>> {
        let mut all = Vec::new();
        for name in self.names()? {
            let save = self.save(&name);
            let path = Manifest::path(&save);
            if !path.exists() {
                continue;
            }
            let manifest = Manifest::read(&save).and_then(|manifest| {
                if manifest.name == name {
                    return Ok(manifest);
                }
                let found = format!("one of {}: is the folder a copy?", manifest.name);
                Err(Error::file(&path, format!("the manifest of {name}"), found))
            });
            all.push((name, manifest));
        }
        Ok(all)
    }

    /// The names of folders that may be saves.
    fn names(&self) -> Result<Vec<String>> {
        let listed = std::fs::read_dir(&self.0);
        let listed = listed.map_err(|e| Error::file(&self.0, "a folder that can be listed", e))?;
        let names = listed.flatten().filter(|entry| {
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            is_folder && entry.file_name().to_str().is_some_and(is_name)
        });
        Ok(names
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect())
    }

    /// Makes the folder of the next save, and returns its name; removes what interrupted saves have left.
    pub(in crate::checkpoint) fn create(&self, step: u64) -> Result<String> {
        for name in self.names()? {
            self.remove_marked(&name);
        }
        let mut attempt = 1u64;
        loop {
            let name = match attempt {
                1 => format!("{PREFIX}{step:08}"),
                // A run that went back to an earlier save may come to a step again; and a folder may be
                // somebody else's.
                _ => format!("{PREFIX}{step:08}.{attempt}"),
            };
            let save = self.save(&name);
            match std::fs::create_dir(&save) {
                Ok(()) => {
                    mark(&save)?;
                    return Ok(name);
                }
                Err(e) if e.kind() == ErrorKind::AlreadyExists => attempt += 1,
                Err(e) => return Err(Error::file(&save, "a folder that can be made", e)),
            }
        }
    }

    /// Makes a data file that was written to a save survive a power cut. Each rank calls it for its own: the
    /// folders of several hosts need not be one.
    pub(in crate::checkpoint) fn sync(&self, name: &str) -> Result<()> {
        sync(&self.save(name))?;
        sync(&self.0)
    }

    /// Makes a save the latest, once all its data files are on disk.
    pub(in crate::checkpoint) fn commit(&self, name: &str, manifest: &str) -> Result<()> {
        let save = self.save(name);
        replace(&Manifest::path(&save), manifest)?;
        replace(&self.0.join(LATEST), &format!("{name}\n"))?;
        unmark(&save);
        Ok(())
    }

    /// Makes a save the best.
    pub(in crate::checkpoint) fn set_best(&self, name: &str) -> Result<()> {
        replace(&self.0.join(BEST), &format!("{name}\n"))
    }

    /// Removes a complete save. A failure costs disk space only, and is logged.
    pub(in crate::checkpoint) fn remove(&self, name: &str) {
        let save = self.save(name);
        // From here on it is none, and what remains of it is removed before the next save.
        let renamed = std::fs::rename(Manifest::path(&save), save.join(REMOVABLE));
        match renamed.and_then(|()| File::open(&save)?.sync_all()) {
            Ok(()) => self.remove_marked(name),
            Err(e) => log::warn!("cannot remove the save {}: {e}", save.display()),
        }
    }

    /// Removes a save that failed; a full disk cannot wait for the next one.
    pub(in crate::checkpoint) fn remove_marked(&self, name: &str) {
        let save = self.save(name);
        let is_marked = save.join(REMOVABLE).is_file() && !save.is_symlink();
        if !is_marked {
            return;
        }
        if Manifest::path(&save).exists() {
            // It is complete: only the marker was left.
            return unmark(&save);
        }
        if let Err(e) = remove_files(&save) {
            log::warn!("cannot remove the old save {}: {e}", save.display());
        }
    }
}

/// Removes a folder and its files, the marker last: an interruption leaves a folder that is known again.
fn remove_files(save: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(save)? {
        let entry = entry?;
        if entry.file_name() != REMOVABLE {
            std::fs::remove_file(entry.path())?;
        }
    }
    std::fs::remove_file(save.join(REMOVABLE))?;
    std::fs::remove_dir(save)
}

/// Whether a name is one that [`RunFolder::create`] makes.
fn is_name(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(PREFIX) else {
        return false;
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match rest.split_once('.') {
        None => rest.len() >= 8 && digits(rest),
        Some((step, attempt)) => step.len() >= 8 && digits(step) && digits(attempt),
    }
}

fn mark(save: &Path) -> Result<()> {
    let path = save.join(REMOVABLE);
    let text = "This folder is no complete save, and is removed before the next one.\n";
    std::fs::write(&path, text).map_err(|e| Error::file(&path, "to be written", e))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_saves() {
        for name in ["step-00000001", "step-123456789", "step-00000001.2"] {
            assert!(is_name(name), "{name}");
        }
        for name in [
            "step-1",
            "step-best",
            "../x",
            "step-0000000x",
            "step-00000001.",
            "",
        ] {
            assert!(!is_name(name), "{name}");
        }
    }
}
