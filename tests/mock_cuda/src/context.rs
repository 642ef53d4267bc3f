//! Devices and their primary contexts: what streams there are.

use crate::stream::Stream;
use std::cell::Cell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// So many devices there are.
pub(crate) const DEVICES: usize = 128;

static STREAMS: Mutex<Option<HashMap<usize, (usize, Arc<Stream>)>>> = Mutex::new(None);

thread_local! {
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

/// The context, device number and one, that is this thread's; 0 for none.
pub(crate) fn current() -> usize {
    CURRENT.get()
}

pub(crate) fn enter(context: usize) {
    CURRENT.set(context);
}

/// Adds a stream to a context, and returns its handle.
pub(crate) fn open(context: usize) -> usize {
    let stream = Stream::new();
    let handle = Arc::as_ptr(&stream) as usize;
    let mut streams = STREAMS.lock().unwrap();
    streams
        .get_or_insert_default()
        .insert(handle, (context, stream));
    handle
}

pub(crate) fn close(stream: usize) -> bool {
    let mut streams = STREAMS.lock().unwrap();
    streams.get_or_insert_default().remove(&stream).is_some()
}

pub(crate) fn stream(handle: usize) -> Option<Arc<Stream>> {
    let mut streams = STREAMS.lock().unwrap();
    let streams = streams.get_or_insert_default();
    streams.get(&handle).map(|(_, stream)| stream.clone())
}

/// The streams of a context.
pub(crate) fn streams(context: usize) -> Vec<Arc<Stream>> {
    let mut streams = STREAMS.lock().unwrap();
    let all = streams.get_or_insert_default().values();
    all.filter(|(of, _)| *of == context)
        .map(|(_, stream)| stream.clone())
        .collect()
}

/// The number of streams that are open.
pub(crate) fn open_streams() -> usize {
    STREAMS.lock().unwrap().get_or_insert_default().len()
}
