//! The Vision Transformer against Hugging Face's, number by number: forward, backward, three AdamW
//! steps, with and without clipping, in f32 and f64.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod golden;

use golden::alone::check;
use golden::subject::VitTiny;

#[test]
fn a_vision_transformer_trains_as_the_reference() {
    check::<VitTiny>();
}
