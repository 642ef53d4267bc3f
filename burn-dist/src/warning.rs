//! Warnings about the user's own program.

use std::fmt::Arguments;

/// Logs a warning; to standard error where the program has no logger, so that it is not lost.
pub(crate) fn warn(text: Arguments<'_>) {
    // A logger that is told to be silent by this variable looks like none.
    let has_logger = log::max_level() != log::LevelFilter::Off;
    if has_logger || std::env::var_os("RUST_LOG").is_some() {
        log::warn!("{text}");
    } else {
        eprintln!("warning: {text}");
    }
}
