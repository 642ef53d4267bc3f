//! The Vision Transformer, sharded, against Hugging Face's on one device with the whole batch.

mod oracle;
mod reference;

#[path = "../models/tests/golden/mod.rs"]
mod golden;

use golden::subject::VitTiny;
use reference::{agrees_in_f32, agrees_in_f64};

#[test]
fn every_strategy_agrees_in_f32() {
    agrees_in_f32::<VitTiny>();
}

#[test]
fn every_strategy_agrees_in_f64() {
    agrees_in_f64::<VitTiny>();
}
