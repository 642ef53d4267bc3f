//! The BERTs, sharded, against Hugging Face's on one device with the whole batch.
//!
//! A masked language model tests a tied parameter with two uses, and ranks with different numbers of labels.

use crate::golden::subject::{BertLmTiny, BertTiny, DistilLmTiny, DistilTiny};
use crate::reference::{agrees_in_f32, agrees_in_f64};

#[test]
fn a_classifier_of_texts_agrees_in_f32() {
    agrees_in_f32::<BertTiny>();
}

#[test]
fn a_classifier_of_texts_agrees_in_f64() {
    agrees_in_f64::<BertTiny>();
}

#[test]
fn a_masked_language_model_agrees_in_f32() {
    agrees_in_f32::<BertLmTiny>();
}

#[test]
fn a_masked_language_model_agrees_in_f64() {
    agrees_in_f64::<BertLmTiny>();
}

#[test]
fn a_distilled_classifier_agrees_in_f32() {
    agrees_in_f32::<DistilTiny>();
}

#[test]
fn a_distilled_masked_language_model_agrees_in_f32() {
    agrees_in_f32::<DistilLmTiny>();
}
