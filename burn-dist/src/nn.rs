//! What models are built from.
//!
//! The operations know nothing of ranks; they are a crate of their own, `burn-dist-nn`, that any Burn program
//! may use.

#[doc(inline)]
pub use burn_dist_nn::functional;
