//! Which storage a path means.

use super::Storage;
use super::folder::Folder;
use super::scheme::scheme;
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The storage at a path: a folder, or a URL such as `s3://bucket/runs/1`.
///
/// # Errors
/// [`Error::Config`] for a URL of a scheme that is not known, or needs a feature that this program was built without;
/// [`Error::File`] if the environment lacks what the object store needs.
pub(in crate::checkpoint) fn open(path: &Path) -> Result<Arc<dyn Storage>> {
    if let Some(folder) = folder_of_saves(path) {
        return Ok(Arc::new(Folder::new(folder)));
    }
    let (scheme, _) = scheme(path).unwrap_or_default();
    objects(path, scheme)
}

/// The folder that a path of saves means, which may be a URL `file:///PATH`; none for another URL, an object store.
///
/// ```
/// use burn_dist::checkpoint::folder_of_saves;
/// use std::path::Path;
///
/// let folder = |path| folder_of_saves(Path::new(path));
/// assert_eq!(folder("runs/1"), Some(Path::new("runs/1")));
/// assert_eq!(folder("file:///data/run"), Some(Path::new("/data/run")));
/// assert_eq!(folder("s3://bucket/runs/1"), None);
/// ```
pub fn folder_of_saves(path: &Path) -> Option<&Path> {
    match scheme(path) {
        None => Some(path),
        Some(("file", rest)) if rest.starts_with('/') => Some(Path::new(rest)),
        Some(_) => None,
    }
}

/// What tells a storage from others in this process.
pub(in crate::checkpoint) fn identity(path: &Path) -> Result<PathBuf> {
    let Some(path) = folder_of_saves(path) else {
        return Ok(path.to_path_buf());
    };
    let failed = |e| Error::file(path, "the path of a folder", e);
    // The folder need not exist yet, nor on this host.
    let path = std::path::absolute(path).map_err(failed)?;
    Ok(std::fs::canonicalize(&path).unwrap_or(path))
}

#[cfg(feature = "object-store")]
fn objects(path: &Path, scheme: &str) -> Result<Arc<dyn Storage>> {
    Ok(Arc::new(super::objects::Objects::new(path, scheme)?))
}

#[cfg(not(feature = "object-store"))]
fn objects(path: &Path, scheme: &str) -> Result<Arc<dyn Storage>> {
    Err(super::scheme::lacks_feature(path, scheme))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_file_url_is_a_folder() {
        let folder = open(Path::new("file:///data/run")).unwrap();
        assert_eq!(folder.path(), Path::new("/data/run"));
        let same = identity(Path::new("file:///data/run")).unwrap();
        assert_eq!(identity(Path::new("/data/run")).ok(), Some(same));
    }
}
