//! The optimizer of the examples.

use burn::module::ParamGroup;
use burn::optim::ModuleOptimizer;
use burn_dist::optim::AdamWConfig;

/// The ends of the paths of biases and of the parameters of layer norms.
const UNDECAYED: [&str; 3] = [".bias", ".gamma", ".beta"];

/// AdamW that lets weights decay, but not biases and norms.
///
/// # Source
/// Hugging Face: `Trainer.get_decay_parameter_names`.
pub fn adamw(weight_decay: f64) -> ModuleOptimizer {
    let config = AdamWConfig::new()
        .with_epsilon(1e-8)
        .with_weight_decay(weight_decay);
    let undecayed = config.clone().with_weight_decay(0.0).build();
    let group = ParamGroup::from_any_predicates(UNDECAYED.to_vec());
    config.init().with_group(group, undecayed, None)
}
