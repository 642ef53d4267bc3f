//! The Vision Transformer against Hugging Face's, number by number: forward, backward, three AdamW
//! steps, with and without clipping, in f32 and f64.

use crate::golden::alone::check;
use crate::golden::subject::{VitGroupsTiny, VitTiny};

#[test]
fn a_vision_transformer_trains_as_the_reference() {
    check::<VitTiny>();
}

/// Positions, class token, biases and norms without decay, and rates that fall by layer.
#[test]
fn a_vision_transformer_trains_in_groups_as_the_reference() {
    check::<VitGroupsTiny>();
}
