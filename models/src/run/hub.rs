//! The Hugging Face hub, through the crate `hf-hub`.

use burn_dist::weights::Weights;
use burn_dist::{Error, Result};
use hf_hub::progress::{DownloadEvent, ProgressEvent, ProgressHandler};
use hf_hub::{HFClient, HFClientSync, HFError, HFRepositorySync, RepoTypeModel, split_id};
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The files that are fetched from a repository.
const WANTED: [&str; 7] = [
    "config.json",
    "preprocessor_config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*-of-*.safetensors",
    "tokenizer.json",
    "vocab.txt",
];

/// The complete copy in this host's cache, if there is one; the network is not used.
pub(super) fn cached(name: &str) -> Option<PathBuf> {
    let files = || repository(&client().ok()?, name).ok();
    let snapshot = files()?
        .snapshot_download()
        .local_files_only(true)
        .send()
        .ok()?;
    is_whole(&snapshot).then_some(snapshot)
}

/// Fetches a repository's files into the cache; returns the folder.
///
/// # Errors
/// [`Error::User`], with what to do about it.
pub(super) fn download(name: &str) -> Result<PathBuf> {
    let client = client().map_err(|e| explained(name, &e))?;
    let wanted = WANTED.map(String::from).to_vec();
    let snapshot = repository(&client, name)
        .map_err(|why| refused(name, &why, "spell it owner/name"))?
        .snapshot_download()
        .allow_patterns(wanted)
        .progress(Bar::new(name))
        .send()
        .map_err(|e| explained(name, &e))?;
    if is_whole(&snapshot) {
        Ok(snapshot)
    } else {
        Err(refused(
            name,
            "it has no model.safetensors with a config.json",
            "choose a repository or a revision with safetensors, or convert it and give the folder",
        ))
    }
}

fn client() -> std::result::Result<HFClientSync, HFError> {
    // Without a network, one retry is enough.
    HFClient::builder().retry_max_attempts(1).build_sync()
}

fn repository(
    client: &HFClientSync,
    name: &str,
) -> std::result::Result<HFRepositorySync<RepoTypeModel>, String> {
    let (owner, model) = split_id(name);
    if model.is_empty() || name.starts_with(['/', '.']) || model.contains('/') {
        Err("it is no folder here, and no name of a repository".into())
    } else {
        Ok(client.model(owner, model))
    }
}

fn is_whole(folder: &Path) -> bool {
    folder.join("config.json").is_file()
        && Weights::open(folder).is_ok_and(|weights| weights.is_complete())
}

fn refused(name: &str, why: &str, remedy: &str) -> Error {
    Error::user(format!(
        "{name} cannot be fetched from the Hugging Face hub: {why}; {remedy}"
    ))
}

fn explained(name: &str, error: &HFError) -> Error {
    let remedy = match error {
        HFError::RepoNotFound { .. } | HFError::RevisionNotFound { .. } => {
            "look up how it is spelled, and set HF_TOKEN if it is private"
        }
        HFError::AuthRequired { .. } | HFError::Forbidden { .. } => {
            "set HF_TOKEN to a token that may read it"
        }
        _ => {
            "without a network, give a folder with config.json and model.safetensors instead, or fill the \
             cache (HF_HOME) beforehand"
        }
    };
    let mut why = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(deeper) = source {
        why = format!("{why}: {deeper}");
        source = deeper.source();
    }
    refused(name, &why, remedy)
}

/// A progress bar over the bytes of all files.
struct Bar {
    bar: ProgressBar,
    files: Mutex<HashMap<String, u64>>,
}

impl Bar {
    fn new(name: &str) -> Self {
        let bar = ProgressBar::new(0);
        let template = "{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec}, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(name.to_owned());
        Self {
            bar,
            files: Mutex::default(),
        }
    }
}

impl ProgressHandler for Bar {
    fn on_progress(&self, event: &ProgressEvent) {
        let ProgressEvent::Download(event) = event else {
            return;
        };
        match event {
            DownloadEvent::Start { total_bytes, .. } => self.bar.set_length(*total_bytes),
            DownloadEvent::Progress { files } => {
                let mut all = self.files.lock().unwrap_or_else(PoisonError::into_inner);
                for file in files {
                    all.insert(file.filename.clone(), file.bytes_completed);
                }
                self.bar.set_position(all.values().sum());
            }
            DownloadEvent::AggregateProgress {
                bytes_completed, ..
            } => {
                self.bar.set_position(*bytes_completed);
            }
            DownloadEvent::Complete => self.bar.finish_and_clear(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::time::Instant;

    /// Nothing answers at this address; a real hub that cannot be reached looks the same.
    fn nowhere() -> HFClientSync {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", closed.local_addr().unwrap());
        drop(closed);
        let builder = HFClient::builder().retry_max_attempts(1).endpoint(endpoint);
        builder.build_sync().unwrap()
    }

    #[test]
    fn an_unreachable_hub_is_an_error_with_a_remedy() {
        let start = Instant::now();
        let repository = repository(&nowhere(), "google/vit-base-patch16-224-in21k").unwrap();
        let error = repository.snapshot_download().send().unwrap_err();
        let message = explained("google/vit-base-patch16-224-in21k", &error).to_string();
        assert!(message.starts_with("google/vit-base-patch16-224-in21k cannot be fetched"));
        assert!(
            message.contains("give a folder with config.json"),
            "{message}"
        );
        assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
    }

    #[test]
    fn invalid_names_are_refused_without_a_request() {
        for name in ["/no/such/folder", "./weights", "a/b/c", ""] {
            let error = download(name).unwrap_err().to_string();
            assert!(error.contains("no folder here"), "{name}: {error}");
        }
    }
}
