//! The Vision Transformer, sharded, against Hugging Face's on one device with the whole batch.

use crate::golden::subject::{VitGroupsTiny, VitTiny};
use crate::reference::{agrees_in_f32, agrees_in_f64};

#[test]
fn every_strategy_agrees_in_f32() {
    agrees_in_f32::<VitTiny>();
}

#[test]
fn every_strategy_agrees_in_f64() {
    agrees_in_f64::<VitTiny>();
}

#[test]
fn groups_with_layer_decay_agree_in_f32() {
    agrees_in_f32::<VitGroupsTiny>();
}

#[test]
fn groups_with_layer_decay_agree_in_f64() {
    agrees_in_f64::<VitGroupsTiny>();
}
