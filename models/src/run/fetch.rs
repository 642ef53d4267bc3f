//! Download of a checkpoint from the Hugging Face hub, once per cache, while the other ranks wait.

use burn_dist::{Error, Result, World};
use std::path::PathBuf;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

/// The interval of collectives during a download, far below every deadline of a collective.
const POLL_EVERY: Duration = Duration::from_millis(200);

/// The folder on this host with the hub's repository `name`.
///
/// Ranks that share a cache fetch once: ranks without a copy fetch one after the other, and after each of them all
/// check the cache again. Waiting costs an all-reduce of 8 bytes every 200 ms, so that a long download does not
/// time out and a rank that dies meanwhile is noticed. Collective.
///
/// # Errors
/// [`Error::User`] on all ranks if one cannot fetch it; what a collective returns.
pub(super) fn fetch(world: &World, name: &str) -> Result<PathBuf> {
    let name = name.to_owned();
    let cached = {
        let name = name.clone();
        move || cached(&name)
    };
    take_turns(world, cached, move || download(&name))
}

/// Runs `get` on the ranks for which `here` returns nothing, one after the other.
fn take_turns<T: Send + 'static>(
    world: &World,
    here: impl Fn() -> Option<T>,
    get: impl Fn() -> Result<T> + Clone + Send + 'static,
) -> Result<T> {
    let mut found = here();
    for _turn in 0..=world.size() {
        let all = world.gather(&found.is_some())?;
        let Some(next) = all.iter().position(|has| !has) else {
            break;
        };
        let mut got = None;
        if world.rank() == next {
            let (sender, receiver) = mpsc::channel();
            let get = get.clone();
            // Not scoped: if the others fail, this rank leaves without waiting for the network.
            std::thread::spawn(move || drop(sender.send(get())));
            while got.is_none() {
                got = match receiver.recv_timeout(POLL_EVERY) {
                    Ok(result) => Some(result),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => Some(Err(Error::user(
                        "fetching the weights ended without a word",
                    ))),
                };
                poll(world, next, got.as_ref().map(Result::is_ok))?;
            }
        } else {
            while poll(world, next, None)?.is_none() {}
        }
        match got {
            Some(result) => found = Some(result?),
            None if found.is_none() => found = here(),
            None => {}
        }
    }
    found.ok_or_else(|| Error::user("the weights were fetched, but are not in this rank's cache"))
}

/// One all-reduce while waiting: whether the rank that is fetching has succeeded, if it is done.
fn poll(world: &World, next: usize, mine: Option<bool>) -> Result<Option<bool>> {
    let mine_as_number = match mine {
        None => 0u8,
        Some(true) => 1,
        Some(false) => 2,
    };
    match world.max(mine_as_number)? {
        0 => Ok(None),
        1 => Ok(Some(true)),
        // The rank that failed returns its own error.
        _ if mine == Some(false) => Ok(Some(false)),
        _ => Err(Error::PeerFailed {
            peer: next,
            cause: "it could not fetch the weights; its own error says why".into(),
        }),
    }
}

#[cfg(feature = "hub")]
use super::hub::{cached, download};

#[cfg(not(feature = "hub"))]
fn cached(_name: &str) -> Option<PathBuf> {
    None
}

#[cfg(not(feature = "hub"))]
fn download(name: &str) -> Result<PathBuf> {
    Err(Error::user(format!(
        "{name} is no folder here, and this program was built without the hub: build it with `--features hub`, \
         or give a folder with config.json and model.safetensors"
    )))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use burn_dist::launch::Threads;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn ranks(size: usize) -> Threads {
        Threads::new(size).deadline(Duration::from_secs(60))
    }

    #[test]
    fn a_shared_cache_is_filled_once_without_a_timeout() {
        let gets = Arc::new(AtomicUsize::new(0));
        // Long enough for a rank that is not scheduled for a while.
        let deadline = Duration::from_secs(3);
        let found = ranks(3)
            .deadline(deadline)
            .run(|world| {
                let (shared, counted) = (gets.clone(), gets.clone());
                let here = move || (shared.load(Ordering::SeqCst) > 0).then_some(7);
                take_turns(&world, here, move || {
                    std::thread::sleep(deadline + Duration::from_millis(500));
                    counted.fetch_add(1, Ordering::SeqCst);
                    Ok(7)
                })
            })
            .unwrap();
        assert_eq!(found, [7, 7, 7]);
        assert_eq!(gets.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn separate_caches_are_each_filled() {
        let found = ranks(3)
            .run(|world| {
                let rank = world.rank();
                let here = move || (rank == 1).then_some(10);
                take_turns(&world, here, move || Ok(rank))
            })
            .unwrap();
        assert_eq!(found, [0, 10, 2]);
    }

    #[test]
    fn a_failed_download_fails_on_all_ranks_with_its_cause() {
        let error = ranks(2)
            .run(|world| {
                take_turns(
                    &world,
                    || None::<usize>,
                    || Err(Error::user("no network here")),
                )
            })
            .unwrap_err();
        assert!(error.to_string().contains("no network here"), "{error}");
        let error = ranks(2)
            .run(|world| {
                take_turns(
                    &world,
                    || None::<usize>,
                    || -> Result<usize> { std::panic::resume_unwind(Box::new("gone")) },
                )
            })
            .unwrap_err();
        assert!(error.to_string().contains("without a word"), "{error}");
    }

    #[cfg(not(feature = "hub"))]
    #[test]
    fn without_the_feature_hub_a_name_is_an_error_that_names_it() {
        let error = ranks(2)
            .run(|world| fetch(&world, "owner/model"))
            .unwrap_err();
        let message = error.to_string();
        assert!(
            message.contains("owner/model is no folder here"),
            "{message}"
        );
        assert!(message.contains("--features hub"), "{message}");
    }
}
