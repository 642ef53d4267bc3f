//! The BERTs against Hugging Face's, number by number: forward, backward, three AdamW steps, with and
//! without clipping, in f32 and f64.

use crate::golden::alone::check;
use crate::golden::subject::{BertLmTiny, BertTiny, DistilLmTiny, DistilTiny};

#[test]
fn a_classifier_of_texts_trains_as_the_reference() {
    check::<BertTiny>();
}

#[test]
fn a_masked_language_model_trains_as_the_reference() {
    check::<BertLmTiny>();
}

#[test]
fn a_distilled_classifier_trains_as_the_reference() {
    check::<DistilTiny>();
}

#[test]
fn a_distilled_masked_language_model_trains_as_the_reference() {
    check::<DistilLmTiny>();
}
