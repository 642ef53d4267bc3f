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
    match scheme(path) {
        None => Ok(Arc::new(Folder::new(path))),
        Some(("file", rest)) if rest.starts_with('/') => Ok(Arc::new(Folder::new(rest))),
        Some((scheme, _)) => objects(path, scheme),
    }
}

/// What tells a storage from others in this process.
pub(in crate::checkpoint) fn identity(path: &Path) -> Result<PathBuf> {
    let path = match scheme(path) {
        None => path,
        Some(("file", rest)) => Path::new(rest),
        Some(_) => return Ok(path.to_path_buf()),
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
