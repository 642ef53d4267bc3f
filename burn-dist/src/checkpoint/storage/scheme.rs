//! The schemes of URLs, and the features that they need.

use crate::error::Error;
use std::path::Path;

/// The scheme of a path that is a URL, and what follows `://`.
pub(super) fn scheme(path: &Path) -> Option<(&str, &str)> {
    path.to_str()?.split_once("://")
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
        let error = lacks_feature(Path::new("ftp://host/run"), "ftp").to_string();
        assert!(error.contains("s3://"), "{error}");
    }
}
