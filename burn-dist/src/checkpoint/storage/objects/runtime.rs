//! The threads on which requests to object stores run.

use crate::error::{Error, Result};
use std::future::Future;
use std::sync::OnceLock;
use std::sync::mpsc::sync_channel;
use tokio::runtime::{Builder, Runtime};

/// Requests wait for the network; two threads serve many.
const THREADS: usize = 2;

/// One for the process, started by the first request.
fn runtime() -> Result<&'static Runtime> {
    static RUNTIME: OnceLock<std::result::Result<Runtime, String>> = OnceLock::new();
    let started = RUNTIME.get_or_init(|| {
        let mut builder = Builder::new_multi_thread();
        let builder = builder.worker_threads(THREADS).enable_all();
        let builder = builder.thread_name("object store");
        builder.build().map_err(|e| e.to_string())
    });
    let failed = |e: &String| Error::config("threads for an object store", "new threads", e);
    started.as_ref().map_err(failed)
}

/// Runs a request, and waits for it; also where the caller is itself in a runtime of tokio's.
pub(super) fn wait<T: Send + 'static>(
    request: impl Future<Output = T> + Send + 'static,
) -> Result<T> {
    let (send, receive) = sync_channel(1);
    runtime()?.spawn(async move {
        // Nobody waits for it if the thread that asked is gone.
        let _ = send.send(request.await);
    });
    let ended = |e| Error::config("a request to an object store", "an answer", e);
    receive.recv().map_err(ended)
}

/// Runs what starts tasks of its own, without waiting.
pub(super) fn enter<T>(f: impl FnOnce() -> T) -> Result<T> {
    let _entered = runtime()?.enter();
    Ok(f())
}
