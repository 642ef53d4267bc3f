//! Run records: what a training run leaves behind, in files that other programs open.
//!
//! One folder per run, written by rank 0:
//!
//! | file | what it holds | opened by |
//! |---|---|---|
//! | `config.json` | arguments, versions, machine, ranks, plan | anything |
//! | `steps.jsonl` | a [`StepRecord`] per line | pandas, jq |
//! | `epochs.csv` | an [`EpochRecord`] per line | a spreadsheet |
//! | `summary.json` | a [`Summary`] | anything |
//! | `events.out.tfevents.*` | what an [`EventWriter`] is given | TensorBoard |
//! | `utilisation.csv` | the lines of a [`Sample`] | a spreadsheet |
//!
//! A [`StragglerWatch`] names ranks that are slower than the others for long.

mod record;
mod straggler;
mod tensorboard;
mod utilisation;

pub use record::{
    EpochRecord, OverRanks, Scores, Setup, StepRecord, StepTimes, Straggler, Summary,
};
pub use straggler::{RankTimes, StragglerWatch};
pub use tensorboard::{EventWriter, Histogram};
#[cfg(feature = "utilisation")]
pub use utilisation::Sampler;
pub use utilisation::{GpuSample, Sample};
