//! The part of the command line about the records of a run.

use burn_dist_log::Setup;
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;

/// The arguments about the records of a run.
#[derive(Debug, Clone, Args, Serialize)]
#[command(next_help_heading = "Records")]
pub struct LogArgs {
    /// The folder for the records of this run, or none [default: a new one in runs/, named after date, model, strategy and
    /// set-up].
    #[arg(long, value_name = "DIR|none", conflicts_with = "output_dir")]
    pub log_to: Option<PathBuf>,

    /// A folder for the records of several runs: this one's are in DIR/SETUP_RATE_BATCH there; --o is the same.
    #[arg(long, alias = "o", value_name = "DIR")]
    pub output_dir: Option<PathBuf>,

    /// The set-up as nodes_ranksPerNode, such as 1_4: checked against the ranks that there are.
    #[arg(long, value_name = "NODES_RANKS", value_parser = setup)]
    pub setup: Option<Setup>,

    /// The number of this run among equal ones, which its name ends in.
    #[arg(long, value_name = "N", conflicts_with = "log_to")]
    pub run: Option<usize>,

    /// Print a line after every so many steps, beside the progress bar.
    #[arg(long, value_name = "STEPS", value_parser = super::values::at_least_1)]
    pub log_every: Option<usize>,

    /// Trace the steps FROM to before TO, counted from 1, on all ranks: trace.json for Perfetto, and a picture.
    #[arg(long, value_name = "FROM..TO", value_parser = steps)]
    pub trace: Option<Steps>,

    /// What a rank's device can do, in 1e12 operations per second, for MFU [default: measured].
    #[arg(long, value_name = "TFLOPS", value_parser = super::values::bound)]
    pub peak_tflops: Option<f64>,
}

/// A range of steps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Steps {
    /// The first.
    pub from: u64,
    /// The one behind the last.
    pub to: u64,
}

fn steps(text: &str) -> std::result::Result<Steps, String> {
    let parts = text
        .split_once("..")
        .map(|(from, to)| (from.parse(), to.parse()));
    match parts {
        Some((Ok(from), Ok(to))) if 0 < from && from < to => Ok(Steps { from, to }),
        _ => Err("expected two numbers of steps, such as 10..20".into()),
    }
}

fn setup(text: &str) -> std::result::Result<Setup, String> {
    text.parse()
}
