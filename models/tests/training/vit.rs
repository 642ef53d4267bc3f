//! The Vision Transformer against Hugging Face's, number by number: forward, backward, three AdamW
//! steps, with and without clipping, in f32 and f64.

use crate::golden::alone::check;
use crate::golden::subject::VitTiny;

#[test]
fn a_vision_transformer_trains_as_the_reference() {
    check::<VitTiny>();
}
