//! What a save takes of a model and its optimizer, and how it is put back.
//!
//! - `model_state` is what a rank stores of a model (`places`: which elements), `optimizer_state` what an optimizer keeps of it, with its
//!   numbers as text (`scalar`);
//! - `restore` puts states into an optimizer;
//! - `trial` observes the behaviour of an optimizer;
//! - `snapshot` is both at one moment; `contents` is what a rank has written of them, and the ranks' together.

mod contents;
mod model_state;
mod optimizer_state;
mod places;
mod restore;
mod scalar;
mod snapshot;
mod trial;

pub(super) use contents::{RankContents, RankModel, merge};
pub(super) use model_state::ModelState;
pub(super) use optimizer_state::{dimensions, path_of};
pub(super) use restore::{ReadState, StateToLoad, StatesToLoad};
pub(super) use snapshot::Snapshot;
pub(super) use trial::observe;
