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

mod file;

use super::{Hold, REMOVABLE, REMOVABLE_TEXT, Storage, is_save_name, save_name};
use crate::checkpoint::format::{Header, Manifest, OpenData, ReadData, WriteData};
use crate::error::{Error, Result};
use crate::lock::{Lock, LockError};
use file::{FileWriter, MappedFile, sync};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The pointer to the last complete save.
const LATEST: &str = "latest";
/// The pointer to the best save.
const BEST: &str = "best";
/// The file that the run that saves here has locked.
const LOCK: &str = "lock";
/// The time to wait for the lock: a run that is restarted at once may come before the system has released
/// the lock of the killed process.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of a pointer that are read.
const MAX_NAME: u64 = 200;

/// The folder of a run.
#[derive(Debug, Clone)]
pub(super) struct Folder(PathBuf);

impl Hold for Lock {
    // The system sees to it that there is no other.
    fn check(&self) -> Result<()> {
        Ok(())
    }
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

impl Folder {
    pub(super) fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    fn pointed(&self, pointer: &str) -> Result<Option<String>> {
        let path = self.0.join(pointer);
        let mut text = String::new();
        let read = File::open(&path).and_then(|f| f.take(MAX_NAME).read_to_string(&mut text));
        match read {
            Ok(_) if is_save_name(text.trim_end()) => Ok(Some(text.trim_end().to_string())),
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

    /// The names of folders that may be saves.
    fn folders(&self) -> Result<Vec<String>> {
        let listed = std::fs::read_dir(&self.0);
        let listed = listed.map_err(|e| Error::file(&self.0, "a folder that can be listed", e))?;
        let names = listed.flatten().filter(|entry| {
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            is_folder && entry.file_name().to_str().is_some_and(is_save_name)
        });
        Ok(names
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect())
    }
}

impl OpenData for Folder {
    fn open(&self, save: &str, file: &str, _: u64, expected: &str) -> Result<Box<dyn ReadData>> {
        let path = self.save(save).join(file);
        Ok(Box::new(MappedFile::open(path, expected)?))
    }
}

impl Storage for Folder {
    fn path(&self) -> &Path {
        &self.0
    }

    fn is_shared(&self) -> bool {
        false
    }

    fn hold(&self) -> Result<Box<dyn Hold>> {
        make(&self.0)?;
        let path = self.0.join(LOCK);
        let refused = |found: String| {
            let expected = "a folder that no other run saves to";
            Error::file(&self.0, expected, found)
        };
        let lock = Lock::take(&path, LOCK_TIMEOUT).map_err(|error| match error {
            LockError::Held(who) => refused(format!(
                "one that is in use ({who}): end that run first, or choose another folder"
            )),
            LockError::Failed(e) => Error::file(&path, "a file that can be locked", e),
        })?;
        if !lock.is_real {
            log::warn!(
                "{} is on a file system without locks: let no other run save there",
                self.0.display()
            );
        }
        Ok(Box::new(lock))
    }

    fn latest(&self) -> Result<Option<String>> {
        let mut latest = self.pointed(LATEST)?;
        if latest.is_none() && self.0.is_dir() {
            // A copy of a save from elsewhere, or one whose run was killed before it had replaced the pointer.
            let mut complete = Vec::new();
            for name in self.names()? {
                complete.extend(self.known(&name)?);
            }
            let last = complete.into_iter().max_by_key(|save| save.sequence);
            latest = last.map(|save| save.name);
        }
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

    fn best(&self) -> Result<Option<String>> {
        self.pointed(BEST)
    }

    fn names(&self) -> Result<Vec<String>> {
        let mut names = self.folders()?;
        names.retain(|name| Manifest::path(&self.save(name)).is_file());
        Ok(names)
    }

    fn manifest(&self, name: &str) -> Result<String> {
        let path = Manifest::path(&self.save(name));
        let mut text = String::new();
        let file = File::open(&path);
        let read = file.and_then(|f| f.take(Manifest::MAX_BYTES).read_to_string(&mut text));
        read.map_err(|e| Error::file(&path, "the manifest of a save", e))?;
        Ok(text)
    }

    fn create(&self, step: u64) -> Result<String> {
        for name in self.folders()? {
            self.remove_unfinished(&name);
        }
        let mut attempt = 1;
        loop {
            let name = save_name(step, attempt);
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

    fn write(&self, name: &str, file: &str, header: &Header) -> Result<Box<dyn WriteData>> {
        let save = self.save(name);
        // On a host of its own disk it does not exist yet.
        std::fs::create_dir_all(&save)
            .map_err(|e| Error::file(&save, "a folder that can be made", e))?;
        let writer = FileWriter::create(save.join(file), header.room())?;
        Ok(Box::new(writer))
    }

    fn commit(&self, name: &str, manifest: &str) -> Result<()> {
        let save = self.save(name);
        replace(&Manifest::path(&save), manifest)?;
        replace(&self.0.join(LATEST), &format!("{name}\n"))?;
        unmark(&save);
        Ok(())
    }

    fn set_best(&self, name: Option<&str>) -> Result<()> {
        let path = self.0.join(BEST);
        match name {
            Some(name) if self.best()?.as_deref() == Some(name) => Ok(()),
            Some(name) => replace(&path, &format!("{name}\n")),
            // Of a run before, which kept it; the save that it names may go now.
            None if path.exists() => std::fs::remove_file(&path)
                .map_err(|e| Error::file(&path, "a file that can be removed", e)),
            None => Ok(()),
        }
    }

    fn remove(&self, name: &str) {
        let save = self.save(name);
        // From here on it is none, and what remains of it is removed before the next save.
        let renamed = std::fs::rename(Manifest::path(&save), save.join(REMOVABLE));
        match renamed.and_then(|()| File::open(&save)?.sync_all()) {
            Ok(()) => self.remove_unfinished(name),
            Err(e) => log::warn!("cannot remove the save {}: {e}", save.display()),
        }
    }

    fn remove_unfinished(&self, name: &str) {
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

/// Makes a folder that survives a power cut.
fn make(folder: &Path) -> Result<()> {
    let failed = |e: std::io::Error| Error::file(folder, "a folder that can be made", e);
    if folder.is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(folder).map_err(failed)?;
    // The names of new folders are in those that hold them.
    let absolute = std::path::absolute(folder).map_err(failed)?;
    for outer in absolute.ancestors().skip(1) {
        // Of those above, this process may not be allowed to open some; they were there before.
        let Ok(outer) = std::fs::File::open(outer) else {
            break;
        };
        outer.sync_all().map_err(failed)?;
    }
    Ok(())
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

fn mark(save: &Path) -> Result<()> {
    let path = save.join(REMOVABLE);
    std::fs::write(&path, REMOVABLE_TEXT).map_err(|e| Error::file(&path, "to be written", e))
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
