//! Which storage a path means.

use super::Storage;
use super::folder::Folder;
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The scheme of a path that is a URL, and what follows `://`.
fn scheme(path: &Path) -> Option<(&str, &str)> {
    path.to_str()?.split_once("://")
}

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
    Err(lacks_feature(path, scheme))
}

/// The error of a URL for which this program was not built.
pub(super) fn lacks_feature(path: &Path, scheme: &str) -> Error {
    let feature = match scheme {
        "s3" | "s3a" => "s3",
        "gs" => "gs",
        "az" | "azure" | "abfs" | "abfss" | "adl" => "az",
        "memory" => "object-store",
        _ => {
            let expected = "a folder, file:///, s3://, gs:// or az://";
            return Error::config("the place of saves", expected, path.display());
        }
    };
    let expected = format!("burn-dist built with the feature {feature:?}, for {scheme}://");
    let found = format!("{} without it", path.display());
    Error::config("the place of saves", expected, found)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_scheme_that_is_not_built_in_names_its_feature() {
        for (url, feature) in [("s3://b/run", "\"s3\""), ("gs://b", "\"gs\"")] {
            let (scheme, _) = scheme(Path::new(url)).unwrap();
            let error = lacks_feature(Path::new(url), scheme).to_string();
            assert!(error.contains(feature) && error.contains(url), "{error}");
        }
        let error = open(Path::new("ftp://host/run")).unwrap_err().to_string();
        assert!(error.contains("s3://"), "{error}");
    }

    #[test]
    fn a_file_url_is_a_folder() {
        let folder = open(Path::new("file:///data/run")).unwrap();
        assert_eq!(folder.path(), Path::new("/data/run"));
        let same = identity(Path::new("file:///data/run")).unwrap();
        assert_eq!(identity(Path::new("/data/run")).ok(), Some(same));
    }
}
