//! Numbers of the random draws outside of the blocks.
//!
//! They are draws of unit 0; the blocks are units from 1 on, with numbers of their own.

pub(super) const EMBEDDINGS: u32 = 0;
pub(super) const HEAD: u32 = 1;
