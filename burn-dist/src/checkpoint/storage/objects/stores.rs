//! The object store that a URL means.

use super::super::scheme::lacks_feature;
use crate::error::{Error, Result};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use object_store::path::Path as Key;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// Stores by the beginning of their URLs.
static REGISTERED: Mutex<Vec<(String, Arc<dyn ObjectStore>)>> = Mutex::new(Vec::new());

/// Makes a program's own object store the one of all URLs that begin with `url`, in this process: one with other
/// credentials than the environment's, limits, or a back end that burn-dist does not know.
///
/// What is stored there must be durable when the store says so, and [`PutMode::Create`](object_store::PutMode::Create)
/// must work. A second store of the same `url` replaces the first for what is opened from then on.
///
/// # Errors
/// [`Error::Config`] for a `url` without a scheme.
///
/// ```
/// use burn_dist::checkpoint::{object_store, register_object_store};
/// use std::sync::Arc;
///
/// let store = object_store::memory::InMemory::new();
/// register_object_store("ours://bucket", Arc::new(store))?;
/// // world.save("ours://bucket/runs/1", &model, &optimizer, &state)
/// # Ok::<(), burn_dist::Error>(())
/// ```
///
/// # Source
/// DataFusion: `SessionContext::register_object_store`.
pub fn register_object_store(url: impl Into<String>, store: Arc<dyn ObjectStore>) -> Result<()> {
    let url: String = url.into();
    if !url.contains("://") {
        let expected = "one that begins with a scheme, such as s3://bucket";
        return Err(Error::config("the URL of an object store", expected, url));
    }
    let url = url.trim_end_matches('/').to_string();
    let mut registered = REGISTERED.lock().unwrap_or_else(PoisonError::into_inner);
    registered.retain(|(known, _)| *known != url);
    registered.push((url, store));
    Ok(())
}

/// The store of a URL, and the key in it that the URL names.
pub(super) fn store_of(path: &Path, scheme: &str) -> Result<(Arc<dyn ObjectStore>, Key)> {
    // It was split at its scheme, so it is text.
    let url = path.to_string_lossy();
    if let Some((store, rest)) = registered(&url) {
        return Ok((store, key(path, &rest)?));
    }
    let (_, rest) = url.split_once("://").unwrap_or_default();
    let (bucket, rest) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.is_empty() {
        let expected = format!("{scheme}://BUCKET/PATH");
        return Err(Error::config("the place of saves", expected, url));
    }
    let base = format!("{scheme}://{bucket}");
    let store: Arc<dyn ObjectStore> = match scheme {
        "memory" => {
            let store = Arc::new(InMemory::new());
            register_object_store(base, store.clone())?;
            // Another rank may have been here at the same time: there is one for all.
            registered(&url).map_or(store, |(store, _)| store)
        }
        _ => cloud(path, scheme, &base)?,
    };
    Ok((store, key(path, rest)?))
}

/// The registered store of the longest beginning of a URL, and what follows it.
fn registered(url: &str) -> Option<(Arc<dyn ObjectStore>, String)> {
    let registered = REGISTERED.lock().unwrap_or_else(PoisonError::into_inner);
    let rest_of = |known: &str| {
        let rest = url.strip_prefix(known)?;
        (rest.is_empty() || rest.starts_with('/')).then(|| rest.to_string())
    };
    let found = registered.iter();
    let found = found.filter_map(|(known, store)| Some((known, store, rest_of(known)?)));
    let (_, store, rest) = found.max_by_key(|(known, ..)| known.len())?;
    Some((store.clone(), rest))
}

fn key(path: &Path, rest: &str) -> Result<Key> {
    let key = Key::parse(rest.trim_matches('/'));
    key.map_err(|e| Error::file(path, "a path of an object store", e))
}

/// Requests are tried again so often, and for so long, before they fail.
#[cfg(any(feature = "s3", feature = "gs", feature = "az"))]
fn retry() -> object_store::RetryConfig {
    object_store::RetryConfig {
        max_retries: 8,
        retry_timeout: std::time::Duration::from_secs(60),
        ..object_store::RetryConfig::default()
    }
}

/// A store of the big three, with the settings in the environment.
#[allow(unused_variables)]
fn cloud(path: &Path, scheme: &str, base: &str) -> Result<Arc<dyn ObjectStore>> {
    #[cfg(any(feature = "s3", feature = "gs", feature = "az"))]
    let refused = |e: &object_store::Error| {
        super::fault::fault(
            path,
            "the settings of an object store in the environment",
            e,
        )
    };
    match scheme {
        #[cfg(feature = "s3")]
        "s3" | "s3a" => {
            let builder = object_store::aws::AmazonS3Builder::from_env();
            let built = builder.with_url(base).with_retry(retry()).build();
            Ok(Arc::new(built.map_err(|e| refused(&e))?))
        }
        #[cfg(feature = "gs")]
        "gs" => {
            let builder = object_store::gcp::GoogleCloudStorageBuilder::from_env();
            let built = builder.with_url(base).with_retry(retry()).build();
            Ok(Arc::new(built.map_err(|e| refused(&e))?))
        }
        #[cfg(feature = "az")]
        "az" | "azure" | "adl" | "abfs" | "abfss" => {
            let builder = object_store::azure::MicrosoftAzureBuilder::from_env();
            let built = builder.with_url(base).with_retry(retry()).build();
            Ok(Arc::new(built.map_err(|e| refused(&e))?))
        }
        _ => Err(lacks_feature(path, scheme)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_url_means_the_store_of_its_longest_beginning() {
        let of = |url: &str| store_of(Path::new(url), "x");
        for url in ["x://b", "x://b/runs", "x://bb"] {
            register_object_store(url, Arc::new(InMemory::new())).unwrap();
        }
        assert_eq!(of("x://b/runs/1").unwrap().1.as_ref(), "1");
        assert_eq!(of("x://b/runs2/1/").unwrap().1.as_ref(), "runs2/1");
        assert_eq!(of("x://bb").unwrap().1.as_ref(), "");
        assert!(of("x://c/1").is_err());
        assert!(register_object_store("bucket", Arc::new(InMemory::new())).is_err());
        let memory = |url: &str| store_of(Path::new(url), "memory").unwrap().0;
        let same = Arc::ptr_eq(&memory("memory://a/1"), &memory("memory://a/2"));
        assert!(same && !Arc::ptr_eq(&memory("memory://a"), &memory("memory://other")));
    }
}
