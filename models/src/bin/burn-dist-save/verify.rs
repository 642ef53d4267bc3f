//! `burn-dist-save verify`.

use super::IsWell;
use super::bar::bar;
use super::output::{print, readable};
use burn_dist::Result;
use burn_dist_models::saves::ChosenSave;

/// Reads every byte of a save and verifies the checksums; lists every file that is damaged, and the tensors there.
#[derive(Debug, clap::Args)]
pub(super) struct Verify {
    /// RUN, RUN@best or RUN@STEP.
    save: ChosenSave,
}

impl Verify {
    pub(super) fn run(self) -> Result<IsWell> {
        let save = self.save.open()?;
        let bytes = save.files.iter().map(|file| file.bytes).sum();
        let bar = bar(bytes, "verified");
        let mut damaged = Vec::new();
        for file in 0..save.files.len() {
            let verified = save.verify_file(file, |bytes| bar.inc(bytes));
            damaged.extend(verified.err());
        }
        bar.finish_and_clear();
        if damaged.is_empty() {
            let (path, files) = (save.path.display(), save.files.len());
            print(&format!(
                "{path} is whole: {files} files, {}\n",
                readable(bytes)
            ))?;
            return Ok(true);
        }
        for error in damaged {
            eprintln!("burn-dist-save: {error}");
        }
        Ok(false)
    }
}
