//! The models against Hugging Face's, on one device.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

#[path = "../golden/mod.rs"]
mod golden;

mod bert;
mod vit;
