//! What an example needs and nobody comes to an example for: its command line, its schedule, its
//! progress bar, its evaluation and its closing table.

mod args;
mod evaluate;
mod progress;
mod report;
mod schedule;

pub use args::{Args, ModelSize};
pub use evaluate::{Evaluation, evaluate};
pub use progress::Progress;
pub use report::Report;
pub use schedule::Schedule;
