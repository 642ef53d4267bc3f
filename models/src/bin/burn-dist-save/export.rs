//! `burn-dist-save export`.

use super::IsWell;
use super::bar::bar;
use super::output::print;
use burn_dist::Result;
use burn_dist_models::saves::{ChosenSave, Export};
use clap::ValueEnum;
use std::path::PathBuf;

/// Writes the tensors of a save to a safetensors file.
#[derive(Debug, clap::Args)]
pub(super) struct ExportArgs {
    /// RUN, RUN@best or RUN@STEP.
    save: ChosenSave,

    /// A file that ends in .safetensors, or a folder for model.safetensors.
    #[arg(long, value_name = "DIR|FILE")]
    out: PathBuf,

    /// The names in the file: the paths in the model, or Hugging Face's for a ViT, BERT or DistilBERT.
    #[arg(long, value_enum, default_value = "paths")]
    layout: Names,

    /// With the moments and steps of AdamW, in a folder as optimizer.safetensors.
    #[arg(long)]
    with_optimizer: bool,

    /// The model, of a save with several.
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Names {
    Hf,
    Paths,
}

impl ExportArgs {
    pub(super) fn run(self) -> Result<IsWell> {
        let save = self.save.open()?;
        let export = Export {
            model: self.model,
            hugging_face: self.layout == Names::Hf,
            with_optimizer: self.with_optimizer,
        };
        let bar = bar(export.bytes(&save)?, "exported");
        let written = export.write(&save, &self.out, |bytes| bar.inc(bytes));
        bar.finish_and_clear();
        for path in written? {
            print(&format!("{}\n", path.display()))?;
        }
        Ok(true)
    }
}
