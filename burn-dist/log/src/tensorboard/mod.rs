//! Event files, which TensorBoard shows: scalars, texts and histograms.
//!
//! An event file is a sequence of records ([`record_file`]), each a protobuf message ([`event`]) of `event.proto` and
//! `summary.proto`. The few messages needed are encoded by hand, so that nothing is compiled for them.

mod crc32c;
mod event;
mod event_writer;
mod histogram;
mod limits;
mod protobuf;
mod record_file;
#[cfg(test)]
mod tests;

pub use event_writer::EventWriter;
pub use histogram::Histogram;
