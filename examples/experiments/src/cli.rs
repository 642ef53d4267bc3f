//! The command line: which matrix, and what to do with it.

use crate::matrix::{
    Axes, Device, Matrix, MaybeLink, Model, Precision, Recipe, Scale, Strategy, study_a, study_b,
};
use crate::record::Setup;
use crate::{Error, Result};
use clap::{Args, Parser, ValueEnum};
use std::path::PathBuf;

/// The arguments of `experiments`.
#[derive(Debug, Clone, Parser)]
#[command(
    version,
    about = "Trains a matrix of models, strategies, set-ups, batches, rates, precisions and links as real processes, and \
             writes a report of it",
    after_help = "A second start goes on with what is missing. Without a study the matrix is what the axes say; with one \
                  they replace those of the study."
)]
pub struct Cli {
    /// Repeat a public study: a (ViT under DDP and FSDP) or b (BERT and ViT by batch, rate and link).
    #[arg(long, value_enum)]
    pub study: Option<Study>,

    /// The experiments of study b, such as 1,3 [default: all].
    #[arg(long, value_delimiter = ',', value_name = "N", requires = "study", value_parser = clap::value_parser!(u64).range(1..=3))]
    pub experiment: Vec<u64>,

    /// The study's own size, for GPUs; what this machine lacks is told, and its commands are in commands.sh.
    #[arg(long, requires = "study")]
    pub full: bool,

    /// The axes of the matrix.
    #[command(flatten)]
    pub axes: AxesArgs,

    /// What all runs have in common.
    #[command(flatten)]
    pub recipe: RecipeArgs,

    /// The name of the matrix, and of its folder in target/experiments.
    #[arg(long)]
    pub name: Option<String>,

    /// The folder of the runs and the report [default: target/experiments/NAME].
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,

    /// The folder of vit_fsdp and bert_fsdp [default: they are built].
    #[arg(long, value_name = "DIR")]
    pub program_dir: Option<PathBuf>,

    /// Compute threads of a rank on processors.
    #[arg(long, default_value_t = 1, value_parser = at_least_1)]
    pub threads: usize,

    /// Seconds after which a run is ended [default: 1800; with --full none].
    #[arg(long, value_name = "SECONDS")]
    pub deadline: Option<u64>,

    /// Print the commands, and do nothing.
    #[arg(long)]
    pub dry_run: bool,

    /// Write the report of the runs in this folder, and run nothing.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["study", "dry_run", "out"])]
    pub report_only: Option<PathBuf>,
}

/// A study to repeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Study {
    /// ViT under DDP and FSDP.
    A,
    /// BERT and ViT by batch, rate and link.
    B,
}

/// The axes, each a list.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Axes")]
pub struct AxesArgs {
    /// Models, such as vit-tiny,bert-mini [default: vit-tiny].
    #[arg(long, value_delimiter = ',', value_name = "MODELS")]
    pub models: Vec<Model>,

    /// Strategies: single, ddp, zero1, zero2, fsdp, hybrid:N [default: ddp,fsdp].
    #[arg(long, value_delimiter = ',', value_name = "STRATEGIES")]
    pub strategies: Vec<Strategy>,

    /// Set-ups as nodes_ranksPerNode [default: 1_1,1_2].
    #[arg(long, value_delimiter = ',', value_name = "SETUPS", value_parser = setup)]
    pub setups: Vec<Setup>,

    /// Samples of a rank in one backward pass [default: 32].
    #[arg(long, value_delimiter = ',', value_name = "SAMPLES", value_parser = at_least_1)]
    pub batches: Vec<usize>,

    /// Learning rates [default: 2e-3].
    #[arg(long, value_delimiter = ',', value_name = "RATES", value_parser = rate)]
    pub rates: Vec<f64>,

    /// Precisions: f32, bf16, f16 [default: f32].
    #[arg(long, value_delimiter = ',', value_name = "PRECISIONS")]
    pub precisions: Vec<Precision>,

    /// A link between nodes: none, near, far, or BANDWIDTH,LATENCY such as 1gbit,5ms; give it once for each [default: none].
    #[arg(long = "link", value_name = "LINK")]
    pub links: Vec<MaybeLink>,
}

/// What replaces a part of the recipe.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Recipe")]
pub struct RecipeArgs {
    /// Passes over the training set.
    #[arg(long, value_parser = at_least_1)]
    pub epochs: Option<usize>,

    /// Stop after so many steps.
    #[arg(long, value_parser = at_least_1)]
    pub steps: Option<usize>,

    /// Backward passes per step.
    #[arg(long, alias = "grad-acc", value_parser = at_least_1)]
    pub accumulate: Option<usize>,

    /// How the rate falls.
    #[arg(long, value_parser = ["linear", "cosine", "constant"])]
    pub schedule: Option<String>,

    /// The share of a run in which the rate rises.
    #[arg(long)]
    pub warmup: Option<f64>,

    /// How much weights decay.
    #[arg(long)]
    pub weight_decay: Option<f64>,

    /// The gradient norm to clip at.
    #[arg(long)]
    pub clip: Option<f64>,

    /// Training samples.
    #[arg(long, value_parser = at_least_1)]
    pub train_size: Option<usize>,

    /// Test samples.
    #[arg(long, value_parser = at_least_1)]
    pub test_size: Option<usize>,

    /// The most tokens of a text.
    #[arg(long, value_parser = at_least_1)]
    pub max_length: Option<usize>,

    /// The seed of all that is drawn.
    #[arg(long)]
    pub seed: Option<u64>,

    /// Steps to trace in every run, such as 4..6.
    #[arg(long, value_name = "FROM..TO")]
    pub trace: Option<String>,

    /// What to compute on.
    #[arg(long, value_enum)]
    pub device: Option<Device>,

    /// The folder of the images; without it they are computed.
    #[arg(long, value_name = "DIR")]
    pub vit_data: Option<PathBuf>,

    /// The folder of the texts; without it they are generated.
    #[arg(long, value_name = "DIR")]
    pub bert_data: Option<PathBuf>,

    /// The folder of pretrained weights for images.
    #[arg(long, value_name = "DIR")]
    pub vit_from: Option<PathBuf>,

    /// The folder of pretrained weights for texts.
    #[arg(long, value_name = "DIR")]
    pub bert_from: Option<PathBuf>,
}

fn at_least_1(text: &str) -> std::result::Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..) => Ok(count),
        _ => Err("expected a whole number of at least 1".into()),
    }
}

fn rate(text: &str) -> std::result::Result<f64, String> {
    match text.parse() {
        Ok(rate) if rate > 0.0 && f64::is_finite(rate) => Ok(rate),
        _ => Err("expected a number above 0, such as 2e-4".into()),
    }
}

fn setup(text: &str) -> std::result::Result<Setup, String> {
    text.parse()
}

impl Cli {
    /// The name of the matrix.
    pub fn name(&self) -> String {
        let size = if self.full { "-full" } else { "" };
        let numbers: Vec<_> = self.experiment.iter().map(u64::to_string).collect();
        let default = match self.study {
            None => "matrix".into(),
            Some(Study::A) => format!("study-a{size}"),
            Some(Study::B) if numbers.is_empty() => format!("study-b{size}"),
            Some(Study::B) => format!("study-b-{}{size}", numbers.join("-")),
        };
        self.name.clone().unwrap_or(default)
    }

    /// The matrix that the arguments ask for.
    ///
    /// # Errors
    /// [`Error::Value`] if it is empty, or if a study has no such experiment.
    pub fn matrix(&self) -> Result<Matrix> {
        let scale = if self.full {
            Scale::Full
        } else {
            Scale::TwoCores
        };
        let numbers: Vec<usize> = self.experiment.iter().map(|n| *n as usize).collect();
        let mut axes = match self.study {
            None => vec![default_axes()],
            Some(Study::A) if numbers.is_empty() => study_a(scale),
            Some(Study::A) => {
                let found = "--experiment with --study a";
                return Err(Error::value(
                    "--experiment",
                    "--study b, which has three",
                    found,
                ));
            }
            Some(Study::B) if numbers.is_empty() => study_b(&[1, 2, 3], scale),
            Some(Study::B) => study_b(&numbers, scale),
        };
        for axes in &mut axes {
            self.axes.replace(axes);
            self.recipe.replace(&mut axes.recipe);
        }
        let name = self.name();
        if name.is_empty() || name.contains(['/', '\\']) || name.starts_with('.') {
            return Err(Error::value(
                "--name",
                "the name of a folder",
                format!("{name:?}"),
            ));
        }
        Matrix::of(&name, &command(), &axes)
    }

    /// The folder of the runs.
    pub fn out(&self) -> PathBuf {
        let default = || PathBuf::from("target/experiments").join(self.name());
        self.out.clone().unwrap_or_else(default)
    }
}

/// The command of this process, as a reader would type it.
fn command() -> String {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    format!(
        "cargo run --release -p experiments -- {}",
        arguments.join(" ")
    )
}

/// The matrix of a start without arguments.
fn default_axes() -> Axes {
    let model = |text: &str| text.parse().ok();
    Axes {
        part: "matrix".into(),
        models: ["vit-tiny"].into_iter().filter_map(model).collect(),
        strategies: ["ddp", "fsdp"]
            .into_iter()
            .filter_map(|s| s.parse().ok())
            .collect(),
        setups: ["1_1", "1_2"]
            .into_iter()
            .filter_map(|s| s.parse().ok())
            .collect(),
        batches: vec![32],
        rates: vec![2e-3],
        precisions: vec![Precision::F32],
        links: vec![None],
        recipe: Recipe::default(),
    }
}

impl AxesArgs {
    /// Replaces the axes that were given.
    fn replace(&self, axes: &mut Axes) {
        fn given<T: Clone>(new: &[T], old: &mut Vec<T>) {
            if !new.is_empty() {
                *old = new.to_vec();
            }
        }
        given(&self.models, &mut axes.models);
        given(&self.strategies, &mut axes.strategies);
        given(&self.setups, &mut axes.setups);
        given(&self.batches, &mut axes.batches);
        given(&self.rates, &mut axes.rates);
        given(&self.precisions, &mut axes.precisions);
        let links: Vec<_> = self.links.iter().map(|link| link.0.clone()).collect();
        given(&links, &mut axes.links);
    }
}

impl RecipeArgs {
    /// Replaces what was given.
    fn replace(&self, recipe: &mut Recipe) {
        fn given<T: Clone>(new: &Option<T>, old: &mut T) {
            if let Some(new) = new {
                old.clone_from(new);
            }
        }
        fn optional<T: Clone>(new: &Option<T>, old: &mut Option<T>) {
            if new.is_some() {
                old.clone_from(new);
            }
        }
        given(&self.epochs, &mut recipe.epochs);
        optional(&self.steps, &mut recipe.steps);
        given(&self.accumulate, &mut recipe.accumulate);
        given(&self.schedule, &mut recipe.schedule);
        given(&self.warmup, &mut recipe.warmup);
        given(&self.weight_decay, &mut recipe.weight_decay);
        given(&self.clip, &mut recipe.clip);
        optional(&self.train_size, &mut recipe.train_size);
        optional(&self.test_size, &mut recipe.test_size);
        optional(&self.max_length, &mut recipe.max_length);
        given(&self.seed, &mut recipe.seed);
        optional(&self.trace, &mut recipe.trace);
        given(&self.device, &mut recipe.device);
        optional(&self.vit_data, &mut recipe.vit_data);
        optional(&self.bert_data, &mut recipe.bert_data);
        optional(&self.vit_from, &mut recipe.vit_from);
        optional(&self.bert_from, &mut recipe.bert_from);
    }
}
