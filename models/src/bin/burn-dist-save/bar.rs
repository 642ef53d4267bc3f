//! The progress bar.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar over so many bytes on standard error, which is hidden where that is no terminal.
pub(super) fn bar(bytes: u64, what: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(bytes);
    let style = "{msg} {bar:24} {bytes}/{total_bytes} {elapsed}<{eta}";
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    bar.with_message(what)
}
