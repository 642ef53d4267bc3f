//! Saving and resuming a sharded run, on any number of ranks and under any strategy.
//!
//! A save is a folder with one data file per rank and a manifest. The manifest lists global facts: each tensor's path,
//! full shape and type, and which ranges of its elements each file holds. So a save is read by other ranks than those
//! that wrote it: each reads the ranges that it stores itself, and verifies them by the checksums of their blocks.
//! `docs/saves.md` describes the form for other programs.
//!
//! [`World::save`](crate::World::save) and [`World::load`](crate::World::load) are for one model, its optimizer and a
//! state. A [`Checkpointer`] writes in the background, holds several models together, and says which saves stay; a
//! [`OpenSave`] reads them whole or in part, with ranks or without. [`RunListing`] and [`SaveContents`] need no model.
//!
//! Everything is keyed by module path: `ParamId`s are random in every process.
//!
//! - `format` is the form of a save, `storage` where the saves of a run lie;
//! - `part` is what is taken of a model and its optimizer;
//! - `one_model` is the common case; `save` says what is saved, `job` writes it, `writer` is what the saves of a run share;
//! - `checkpointer` and `open_save` are for users: `matching` finds what is read into what, `fill` reads it, and
//!   `report` says what was loaded; `inspect` is for those who have no model; `shared_folder` warns of hosts that do
//!   not share theirs.

mod checkpointer;
mod fill;
mod format;
mod inspect;
mod job;
mod matching;
mod one_model;
mod open_save;
mod part;
mod report;
mod save;
mod shared_folder;
mod storage;
mod writer;

pub use checkpointer::{Busy, Checkpointer};
pub use format::Best;
pub use inspect::{
    DamagedSave, ListedSave, ModelContents, OptimizerContents, RunListing, SaveContents, SaveFile,
    TensorContents, TensorKind,
};
#[cfg(feature = "object-store")]
pub use object_store;
pub use open_save::{OpenSave, Which};
pub use report::LoadReport;
pub use save::Save;
#[cfg(feature = "object-store")]
pub use storage::register_object_store;
pub use storage::{Keep, folder_of_saves};
