//! `burn-dist-save import`.

use super::IsWell;
use super::bar::bar;
use super::output::print;
use burn::tensor::{DType, Device, FloatDType};
use burn_dist::{Error, Result};
use burn_dist_models::saves::{AdamWSettings, Import, Layout, TensorFiles};
use clap::ValueEnum;
use std::path::PathBuf;

/// Makes a save of a safetensors file: of a Hugging Face ViT, BERT or DistilBERT, or with paths as names.
///
/// With the states of AdamW that the file has as `optimizer.exp_avg.NAME`, `optimizer.exp_avg_sq.NAME` and
/// `optimizer.step.NAME`, training goes on from it. A program loads the save only into an optimizer with the same settings.
#[derive(Debug, clap::Args)]
pub(super) struct ImportArgs {
    /// A safetensors file, or a folder with model.safetensors and perhaps optimizer.safetensors.
    file: PathBuf,

    /// The folder of the run, which must have no saves.
    #[arg(long, value_name = "RUN")]
    into: PathBuf,

    /// The names in the file; without this, they tell it.
    #[arg(long, value_enum)]
    layout: Option<Names>,

    /// The name of the model in the save; programs that use World::load need this one.
    #[arg(long, value_name = "NAME", default_value = "model")]
    model: String,

    /// The step of the save.
    #[arg(long, default_value_t = 0)]
    step: u64,

    /// The type of floats in the save, which is that of the program's model; without this, that in the file.
    #[arg(long, value_enum)]
    dtype: Option<Float>,

    /// The state of the save, as JSON; programs that use World::load read one.
    #[arg(long, value_name = "JSON", default_value = "null", value_parser = json)]
    state: serde_json::Value,

    /// AdamW's betas; without this, those in the file's metadata, or PyTorch's. So for the others.
    #[arg(long, num_args = 2, value_names = ["BETA1", "BETA2"])]
    betas: Option<Vec<f64>>,

    /// AdamW's epsilon.
    #[arg(long)]
    eps: Option<f64>,

    /// AdamW's weight decay.
    #[arg(long)]
    weight_decay: Option<f64>,

    /// Parameters that do not decay: a name in their paths, such as bias, gamma, beta; may be given several times.
    #[arg(long, value_name = "NAME")]
    no_decay: Vec<String>,

    /// AdamW with AMSGrad, for which the file has `optimizer.max_exp_avg_sq.NAME` too.
    #[arg(long)]
    amsgrad: bool,

    /// Leave out the states of an optimizer.
    #[arg(long)]
    weights_only: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Names {
    Paths,
    Vit,
    Bert,
    Distilbert,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Float {
    F64,
    F32,
    F16,
    Bf16,
}

fn json(text: &str) -> std::result::Result<serde_json::Value, serde_json::Error> {
    serde_json::from_str(text)
}

impl ImportArgs {
    pub(super) fn run(self) -> Result<IsWell> {
        let files = TensorFiles::open(&self.file)?;
        let dtype = self.dtype.map(|dtype| match dtype {
            Float::F64 => FloatDType::F64,
            Float::F32 => FloatDType::F32,
            Float::F16 => FloatDType::F16,
            Float::Bf16 => FloatDType::BF16,
        });
        // Burn loads the moments of an optimizer in the default type.
        let moments = dtype.or_else(|| moments(&files));
        if moments == Some(FloatDType::F64) {
            let configured = Device::default().configure(FloatDType::F64);
            configured.map_err(|e| Error::config("the default type", "f64", e))?;
        }
        let import = Import {
            layout: self.layout.map(|layout| match layout {
                Names::Paths => Layout::Paths,
                Names::Vit => Layout::Vit,
                Names::Bert => Layout::Bert,
                Names::Distilbert => Layout::DistilBert,
            }),
            dtype,
            settings: Some(self.settings(&files)?),
            no_decay: self.no_decay,
            weights_only: self.weights_only,
            model: self.model,
            step: self.step,
            state: self.state,
        };
        let bytes = files.names().map(|name| files.bytes(name)).sum();
        let bar = bar(bytes, "imported");
        let imported = import.write(&files, &self.into, |bytes| bar.inc(bytes));
        bar.finish_and_clear();
        let imported = imported?;
        let mut text = format!(
            "{}: {} tensors under the names of {}",
            self.into.display(),
            imported.tensors,
            imported.layout
        );
        text.push_str(&match imported.settings {
            None => ", without an optimizer\n".to_string(),
            Some(AdamWSettings {
                betas: [one, two],
                eps,
                weight_decay,
                amsgrad,
                ..
            }) => {
                let maximum = if amsgrad { ", AMSGrad" } else { "" };
                format!(
                    ", and AdamW with betas {one} and {two}, epsilon {eps:e}, weight decay \
                     {weight_decay}{maximum}\n"
                )
            }
        });
        for name in imported.ignored {
            text.push_str(&format!("left out, of no such model: {name}\n"));
        }
        print(&text)?;
        Ok(true)
    }

    fn settings(&self, files: &TensorFiles) -> Result<AdamWSettings> {
        let mut settings = AdamWSettings::of_file(files)?.unwrap_or_default();
        if let Some(&[one, two]) = self.betas.as_deref() {
            settings.betas = [one, two];
        }
        settings.eps = self.eps.unwrap_or(settings.eps);
        settings.weight_decay = self.weight_decay.unwrap_or(settings.weight_decay);
        settings.amsgrad |= self.amsgrad;
        Ok(settings)
    }
}

/// The type of the file's moments.
fn moments(files: &TensorFiles) -> Option<FloatDType> {
    let name = files
        .names()
        .find(|name| name.starts_with("optimizer.exp_avg."))?;
    match files.dtype(name)? {
        DType::F64 => Some(FloatDType::F64),
        _ => None,
    }
}
