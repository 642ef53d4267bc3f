//! `burn-dist-save list`.

use super::IsWell;
use super::output::{numbers, print, readable, table};
use burn_dist::checkpoint::RunListing;
use burn_dist::{Error, Result};
use std::path::PathBuf;

/// Lists the saves of a run, oldest first, and what of them is damaged.
#[derive(Debug, clap::Args)]
pub(super) struct List {
    /// The folder of the run.
    run: PathBuf,
}

impl List {
    pub(super) fn run(self) -> Result<IsWell> {
        let listing = RunListing::of(&self.run)?;
        if listing.saves.is_empty() && listing.damaged.is_empty() {
            let expected = "the folder of a run, with saves step-...";
            return Err(Error::file(&self.run, expected, "none"));
        }
        let mut rows = Vec::new();
        for save in &listing.saves {
            let mut is = Vec::new();
            is.extend(save.is_latest.then_some("latest"));
            is.extend(save.is_best.then_some("best"));
            rows.push(vec![
                save.name.clone(),
                format!("step {}", save.step),
                readable(save.bytes),
                is.join(", "),
                numbers(&save.metrics),
            ]);
        }
        let mut text = table(&rows);
        for damaged in &listing.damaged {
            text.push_str(&format!("damaged: {}\n", damaged.error));
        }
        print(&text)?;
        Ok(listing.damaged.is_empty())
    }
}
