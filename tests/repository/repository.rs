//! The repository itself: the shape of its source, its public surface, and what its pages promise.

mod architecture;
mod circles;
mod crates;
mod graph;
mod layers;
mod pages;
mod readme;
mod surface;

use std::path::PathBuf;

/// The folder of the whole workspace.
fn root() -> PathBuf {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    own.ancestors().nth(2).unwrap().to_path_buf()
}
