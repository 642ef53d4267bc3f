//! Run records: what a training run leaves behind, in files that other programs open.
//!
//! A [`RunLog`] measures every step on all ranks, reduces the measurements once, and writes them on rank 0 into a folder of the
//! run's own:
//!
//! | file | what it holds | opened by |
//! |---|---|---|
//! | `config.json` | arguments, versions, machine, ranks, plan | anything |
//! | `steps.jsonl` | a [`StepRecord`] per line | pandas, jq |
//! | `epochs.csv` | an [`EpochRecord`] per line | a spreadsheet |
//! | `events.out.tfevents.*` | the same, and histograms of parameters and gradients | TensorBoard |
//! | `utilisation.csv` | a [`Sample`] of each process per second (feature `utilisation`) | a spreadsheet |
//! | `trace.json`, `trace.svg` | the spans of some steps, of all ranks on one clock | Perfetto, a browser |
//! | `summary.json` | a [`Summary`], with ranks that were slower than the others ([`StragglerWatch`]) | anything |

mod counters;
mod event_log;
mod folder;
mod lines;
mod machine;
mod measured;
mod memory;
mod record;
mod run;
mod run_log;
mod step;
mod straggler;
mod tensorboard;
mod totals;
mod trace;
mod unit_histograms;
mod utilisation;
#[cfg(feature = "utilisation")]
mod utilisation_log;

pub use memory::MemoryMeter;
pub use record::{
    EpochRecord, OverRanks, Scores, Setup, StepRecord, StepTimes, Straggler, Summary,
};
pub use run::Run;
pub use run_log::RunLog;
pub use step::{Ended, Step};
pub use straggler::{RankTimes, StragglerWatch};
pub use tensorboard::{EventWriter, Histogram};
#[cfg(feature = "utilisation")]
pub use utilisation::Sampler;
pub use utilisation::{GpuSample, Sample};

/// The program of a page of the repository.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/records.md")]
struct Records;
