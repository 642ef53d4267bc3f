//! The messages of an event file, of which TensorFlow's `event.proto`, `summary.proto` and `tensor.proto` have more.

use super::histogram::Histogram;
use super::protobuf::Message;

/// The first event of every file, by which readers know the version.
pub(crate) fn version(wall_time: f64) -> Vec<u8> {
    let event = Message::default().double(1, wall_time);
    event.bytes(3, b"brain.Event:2").into_bytes()
}

/// An event with one value: seconds since 1970, a step, and the value.
pub(crate) fn summary(wall_time: f64, step: i64, value: Message) -> Vec<u8> {
    let event = Message::default().double(1, wall_time).integer(2, step);
    event
        .message(5, Message::default().message(1, value))
        .into_bytes()
}

/// A scalar as `simple_value`.
///
/// TensorBoard turns it into a tensor of its plugin `scalars` when it reads it, so its pages show it like one that was
/// written as a tensor; `EventAccumulator.Scalars()` and what builds on it (pandas loaders, MLflow) know this
/// form alone. Both forms are 32 bits wide in TensorFlow and PyTorch.
pub(crate) fn scalar(tag: &str, value: f64) -> Message {
    named(tag).float(2, value as f32)
}

/// A text as the plugin `text` has it: a tensor of one string, for which there is no older form.
pub(crate) fn text(tag: &str, markdown: &str) -> Message {
    const STRING: i64 = 7;
    const OF_TENSORS: i64 = 2;
    let metadata = Message::default()
        .message(1, Message::default().bytes(1, b"text"))
        .integer(4, OF_TENSORS);
    let tensor = Message::default()
        .integer(1, STRING)
        .message(2, Message::default()) // no dimension
        .bytes(8, markdown.as_bytes());
    named(tag).message(8, tensor).message(9, metadata)
}

/// A histogram as `histo`, for the same reason as a scalar.
pub(crate) fn histogram(tag: &str, histogram: &Histogram) -> Message {
    let (limits, counts) = histogram.buckets_in_use();
    let proto = Message::default()
        .double(1, histogram.min().unwrap_or(0.0))
        .double(2, histogram.max().unwrap_or(0.0))
        .double(3, histogram.count() as f64)
        .double(4, histogram.sum())
        .double(5, histogram.sum_of_squares())
        .doubles(6, &limits)
        .doubles(7, &counts);
    named(tag).message(5, proto)
}

fn named(tag: &str) -> Message {
    Message::default().bytes(1, tag.as_bytes())
}
