//! Burn's `Learner` over the ranks of [burn-dist](burn_dist).
//!
mod feed;
mod fit;
mod output;
mod parts;
mod raise;
mod rank_loader;
mod rank_output;
mod saves;
mod sharded;
mod silent;

pub use output::{output, output_over};
pub use parts::{JoinedParts, Parts};
pub use rank_loader::RankLoader;
pub use rank_output::RankOutput;
pub use sharded::{Sharded, sharded};
pub use silent::Silent;
