//! Saves in an object store, under the same names as in a folder:
//!
//! ```text
//! RUN/held-by                                          the run that saves here
//! RUN/step-00000100/manifest.json
//! RUN/step-00000100/rank-00000-of-00002.safetensors
//! RUN/step-00000100/rank-00001-of-00002.safetensors
//! ```
//!
//! An object is all there or not there, and durable when the store says so. There are no renames and no locks, but an
//! object can be made on the condition that there is none of its name. So:
//!
//! - a run takes a name for a save by making the marker in it, and the save is complete when its manifest is made, both
//!   on that condition: of two runs one fails, and neither writes into the other's save;
//! - the latest save is the one whose manifest has the highest number, the best follows from the metrics in the
//!   manifests and the rule in the latest one: there is no pointer that could be wrong;
//! - what an interrupted save has left may belong to a run that still lives; before it is removed an empty manifest is
//!   made in it, and so that run cannot complete it;
//! - the run that came last holds the place, and an earlier one that still lives fails at its next save.

mod download;
mod fault;
mod runtime;
mod stores;
mod upload;

use super::keep::{Keep, Known};
use super::{Hold, REMOVABLE, REMOVABLE_TEXT, Storage, is_save_name, save_name};
use crate::checkpoint::format::{Header, Manifest, OpenData, ReadData, WriteData};
use crate::error::{Error, Result};
use crate::host;
use download::Download;
use fault::fault;
use futures_util::TryStreamExt;
use object_store::path::Path as Key;
use object_store::{Error as StoreError, ObjectStore, ObjectStoreExt, PutMode, PutPayload};
use runtime::wait;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
pub use stores::register_object_store;
use upload::{FirstPass, Upload};

/// The object that names the run that saves here.
const HOLDER: &str = "held-by";

/// Saves under a key of an object store.
#[derive(Debug, Clone)]
pub(super) struct Objects {
    path: PathBuf,
    store: Arc<dyn ObjectStore>,
    key: Key,
    /// The complete saves whose manifests were read.
    known: Arc<Mutex<Vec<Known>>>,
}

/// The objects of each save, by name, with their bytes.
type Listed = BTreeMap<String, BTreeMap<String, u64>>;

/// A run that has named itself as the one that saves.
#[derive(Debug)]
struct Holder {
    at: Objects,
    text: String,
}

impl Hold for Holder {
    fn check(&self) -> Result<()> {
        let found = self.at.text(HOLDER, "the run that saves here")?;
        if found == self.text {
            return Ok(());
        }
        let expected = format!("{HOLDER} to say {:?}", self.text);
        let found = format!("{found:?}: that run saves here now, so this one ends");
        Err(Error::file(&self.at.path, expected, found))
    }
}

impl Objects {
    pub(super) fn new(path: &Path, scheme: &str) -> Result<Self> {
        let (store, key) = stores::store_of(path, scheme)?;
        Ok(Self {
            path: path.to_path_buf(),
            store,
            key,
            known: Arc::default(),
        })
    }

    /// The path and the key of an object.
    fn object(&self, name: &str) -> (PathBuf, Key) {
        let parts = name.split('/');
        let key = parts.fold(self.key.clone(), |key, part| key.join(part));
        (self.path.join(name), key)
    }

    fn text(&self, name: &str, expected: &str) -> Result<String> {
        let (path, key) = self.object(name);
        let store = self.store.clone();
        let read = wait(async move { store.get(&key).await?.bytes().await })?;
        let bytes = read.map_err(|e| fault(&path, expected, &e))?;
        String::from_utf8(bytes.into()).map_err(|e| Error::file(&path, expected, e))
    }

    fn put(&self, name: &str, text: &str, mode: PutMode) -> object_store::Result<()> {
        let (_, key) = self.object(name);
        let (store, payload) = (self.store.clone(), PutPayload::from(text.to_string()));
        let put = wait(async move { store.put_opts(&key, payload, mode.into()).await });
        put.map_err(|e| StoreError::Generic {
            store: "request",
            source: Box::new(e),
        })??;
        Ok(())
    }

    /// Makes an object if there is none of its name; false if there is one with other text.
    fn make(&self, name: &str, text: &str) -> Result<bool> {
        match self.put(name, text, PutMode::Create) {
            Ok(()) => Ok(true),
            // A request that was tried again may have come through the first time.
            Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }) => {
                Ok(self.text(name, "an object that was made")? == text)
            }
            // A lost answer does not say that the object was not made.
            Err(e) => match self.text(name, "an object that was made") {
                Ok(found) if found == text => Ok(true),
                _ => Err(fault(
                    &self.path.join(name),
                    "an object that can be made",
                    &e,
                )),
            },
        }
    }

    fn delete(&self, name: &str) -> Result<()> {
        let (path, key) = self.object(name);
        let store = self.store.clone();
        match wait(async move { store.delete(&key).await })? {
            Ok(()) | Err(StoreError::NotFound { .. }) => Ok(()),
            Err(e) => Err(fault(&path, "an object that can be removed", &e)),
        }
    }

    /// What is stored of saves.
    fn list(&self) -> Result<Listed> {
        let (store, key) = (self.store.clone(), self.key.clone());
        let request = async move {
            let prefix = Some(&key).filter(|key| !key.as_ref().is_empty());
            store.list(prefix).try_collect::<Vec<_>>().await
        };
        let expected = "objects that can be listed";
        let objects = wait(request)?.map_err(|e| fault(&self.path, expected, &e))?;
        let mut listed = Listed::new();
        for object in objects {
            let Some(parts) = object.location.prefix_match(&self.key) else {
                continue;
            };
            let parts: Vec<String> = parts.map(|part| part.as_ref().to_string()).collect();
            if let [save, file] = parts.as_slice()
                && is_save_name(save)
            {
                let files = listed.entry(save.clone()).or_default();
                files.insert(file.clone(), object.size);
            }
        }
        Ok(listed)
    }

    /// Removes what is stored under the name of a save but its manifest, the marker last.
    fn remove_files(&self, name: &str, files: &BTreeMap<String, u64>) -> Result<()> {
        let kept = [REMOVABLE, Manifest::NAME];
        let others = files.keys().filter(|file| !kept.contains(&file.as_str()));
        others
            .map(String::as_str)
            .chain([REMOVABLE])
            .try_for_each(|file| self.delete(&format!("{name}/{file}")))
    }

    /// Removes what an interrupted save has left; nothing that is not marked so.
    fn remove_left(&self, name: &str, files: &BTreeMap<String, u64>) -> Result<()> {
        // Files of a run that could not complete its save come after the empty manifest, which prevented it.
        let is_prevented = files.get(Manifest::NAME) == Some(&0) && files.len() > 1;
        if !files.contains_key(REMOVABLE) && !is_prevented {
            return Ok(());
        }
        if is_complete(files) {
            return self.delete(&format!("{name}/{REMOVABLE}"));
        }
        // The run that writes it cannot complete it any more; if it just has, it stays.
        if self.make(&format!("{name}/{}", Manifest::NAME), "")? {
            self.remove_files(name, files)?;
        }
        Ok(())
    }

    /// All complete saves.
    ///
    /// # Errors
    /// Also for a damaged manifest: it might be that of the latest.
    fn all(&self) -> Result<Vec<Known>> {
        let names = self.names()?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|save| names.contains(&save.name));
        for name in &names {
            if known.iter().all(|save| save.name != *name) {
                known.extend(self.known(name)?);
            }
        }
        Ok(known.clone())
    }
}

/// Whether there is a manifest, and none of those that only prevent one.
fn is_complete(files: &BTreeMap<String, u64>) -> bool {
    files.get(Manifest::NAME).is_some_and(|bytes| *bytes > 0)
}

impl OpenData for Objects {
    fn open(
        &self,
        save: &str,
        file: &str,
        read_ahead: u64,
        expected: &str,
    ) -> Result<Box<dyn ReadData>> {
        let object = self.object(&format!("{save}/{file}"));
        let download = Download::open(&self.store, object, read_ahead, expected)?;
        Ok(Box::new(download))
    }
}

impl Storage for Objects {
    fn path(&self) -> &Path {
        &self.path
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn hold(&self) -> Result<Box<dyn Hold>> {
        let (number, process) = (rand::random::<u64>(), std::process::id());
        let text = format!("{}, process {process}, run {number:016x}", host::name());
        let held = self.put(HOLDER, &text, PutMode::Overwrite);
        let expected = "a place to which this run can save";
        held.map_err(|e| fault(&self.path, expected, &e))?;
        Ok(Box::new(Holder {
            at: self.clone(),
            text,
        }))
    }

    fn latest(&self) -> Result<Option<String>> {
        let all = self.all()?;
        let latest = all.into_iter().max_by_key(|save| save.sequence);
        Ok(latest.map(|save| save.name))
    }

    fn best(&self) -> Result<Option<String>> {
        let all = self.all()?;
        let latest = all.iter().max_by_key(|save| save.sequence);
        let Some((metric, best)) = latest.and_then(|save| save.best_by.clone()) else {
            return Ok(None);
        };
        let keep = Keep::all().best(metric, best);
        Ok(keep.best_of(&all).map(str::to_string))
    }

    fn names(&self) -> Result<Vec<String>> {
        let complete = self.list()?.into_iter();
        let complete = complete.filter(|(_, files)| is_complete(files));
        Ok(complete.map(|(name, _)| name).collect())
    }

    fn manifest(&self, name: &str) -> Result<String> {
        self.text(
            &format!("{name}/{}", Manifest::NAME),
            "the manifest of a save",
        )
    }

    fn create(&self, step: u64) -> Result<String> {
        let listed = self.list()?;
        for (name, files) in &listed {
            self.remove_left(name, files)?;
        }
        let mut attempt = 1;
        loop {
            let name = save_name(step, attempt);
            // With a number, so that of two runs that make it at once one alone takes it for its own.
            let text = format!("{REMOVABLE_TEXT}{:016x}\n", rand::random::<u64>());
            if !listed.contains_key(&name) && self.make(&format!("{name}/{REMOVABLE}"), &text)? {
                return Ok(name);
            }
            attempt += 1;
        }
    }

    fn write(&self, name: &str, file: &str, header: &Header) -> Result<Box<dyn WriteData>> {
        match header {
            Header::Room(_) => Ok(Box::new(FirstPass)),
            Header::Known { header, bytes } => {
                let object = self.object(&format!("{name}/{file}"));
                let upload = Upload::begin(&self.store, object, header.clone(), *bytes)?;
                Ok(Box::new(upload))
            }
        }
    }

    fn commit(&self, name: &str, manifest: &str) -> Result<()> {
        let object = format!("{name}/{}", Manifest::NAME);
        if !self.make(&object, manifest)? {
            let expected = "a save that this run alone completes";
            let found = "one that another run has removed or completed";
            return Err(Error::file(&self.path.join(object), expected, found));
        }
        if let Err(e) = self.delete(&format!("{name}/{REMOVABLE}")) {
            log::warn!("{e}");
        }
        Ok(())
    }

    fn set_best(&self, _: Option<&str>) -> Result<()> {
        // The manifests say it.
        Ok(())
    }

    fn remove(&self, name: &str) {
        let marker = format!("{name}/{REMOVABLE}");
        let marked = self.put(&marker, REMOVABLE_TEXT, PutMode::Overwrite);
        let removed = marked
            .map_err(|e| fault(&self.path.join(&marker), "an object that can be made", &e))
            // From here on it is no save, and what remains of it is removed before the next one.
            .and_then(|()| self.delete(&format!("{name}/{}", Manifest::NAME)))
            .and_then(|()| self.list())
            .and_then(|listed| match listed.get(name) {
                Some(files) => self.remove_files(name, files),
                None => Ok(()),
            });
        if let Err(e) = removed {
            log::warn!("cannot remove the save {name}: {e}");
        }
    }

    fn remove_unfinished(&self, name: &str) {
        let removed = self.list().and_then(|listed| match listed.get(name) {
            Some(files) if !is_complete(files) => self.remove_files(name, files),
            _ => Ok(()),
        });
        if let Err(e) = removed {
            log::warn!("cannot remove the save {name}: {e}");
        }
    }
}

#[cfg(test)]
mod lost_answer;
