//! The table of all cases.

use crate::case::Case;
use burn_dist_log::Summary;
use std::fmt::Write;

/// A row for each case, in Markdown.
pub fn table(measured: &[(Case, usize, Summary)]) -> String {
    let mut text = String::from(
        "| ranks | strategy | samples/s | ms a step | forward | backward | exposed communication | hidden | optimizer | MB sent a \
         step | MB held at most |\n|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for (case, ranks, summary) in measured {
        let seconds = &summary.seconds;
        let ms = |seconds: f64| format!("{:.1}", 1e3 * seconds);
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "| {ranks} | {case} | {:.0} | {} | {} | {} | {} | {} | {} | {:.2} | {:.1} |",
            summary.samples_per_s,
            ms(seconds.step.most),
            ms(seconds.forward.mean),
            ms(seconds.backward.mean),
            ms(seconds.exposed.mean),
            ms(seconds.hidden.mean),
            ms(seconds.optimizer.mean),
            summary.sent_bytes.mean / 1e6,
            summary.peak_bytes.most / 1e6,
        );
    }
    text
}
