//! Ranks as threads of this process, compared with one plain device or with counters.
//!
//! The tests run beside each other. Burn's random numbers are the process's, so nothing here may depend
//! on what is drawn: a model has numbers of its own before it is sharded, or they do not matter. What
//! depends on draws is in `tests/seeded`.

#[path = "../../models/tests/golden/mod.rs"]
mod golden;
#[path = "../oracle/mod.rs"]
mod oracle;
#[path = "../reference/mod.rs"]
mod reference;

mod absent;
mod averages;
mod batch_norm;
mod bert_golden;
mod checked_units;
mod combinations;
mod counts;
mod elements;
mod failures;
mod finite;
mod foreign_weights;
mod layers;
mod masked_words;
mod nn_layers;
mod options;
mod overlap;
mod owners;
mod parity;
mod parts;
mod passes;
mod quantized;
mod same_gradients;
mod states;
mod summary;
mod units;
mod vit_golden;
mod weight_copies;
mod words;
