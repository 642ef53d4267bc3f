//! PEFT's names of adapters.

use super::super::name::Name;

/// What precedes every name.
const PREFIX: &str = "base_model.model.";

/// The name of a module, from that of its weight or bias.
pub(super) fn module(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(module, _)| module)
}

/// A factor of the weight that the files call `weight`. PyTorch's linear layers have `[outputs, inputs]`, and the factors
/// are linear layers themselves, also where the weight that they adapt lies otherwise.
pub(super) fn factor(weight: &str, factor: &str) -> Name {
    let name = match factor {
        "a" => "lora_A",
        _ => "lora_B",
    };
    Name::new(format!("{PREFIX}{}.{name}.weight", module(weight))).transposed()
}

/// A parameter that trains as it is, which the files of the whole model call `name`.
pub(super) fn saved(name: &Name) -> Name {
    Name {
        name: format!("{PREFIX}{}", name.name),
        ..name.clone()
    }
}
