//! What low-rank adapters add to the parameters of a model, and which parameters they freeze.

use crate::error::{Error, Result};
use crate::layout::Parameter;
use crate::lora::{LoraConfig, factor_path};
use crate::pattern::matches;
use std::collections::BTreeSet;

/// Freezes what does not train under `lora`, quantizes of it what `lora` says, and adds the factors behind each parameter that
/// gets adapters. `linear` are the paths of weights of linear layers; `is_quantizable` says of a parameter whether it can be
/// stored as bytes, and `is_whole` whether every rank stores one of a unit whole, by its size.
///
/// # Errors
/// [`Error::Config`] for a pattern that names nothing, and for a rank or an alpha that makes no adapter; [`Error::Model`] for a
/// parameter that can have none, by its path, and if no parameter gets one, or none is quantized that should be.
pub(super) fn add(
    lora: &LoraConfig,
    parameters: Vec<Parameter>,
    linear: &BTreeSet<String>,
    is_quantizable: impl Fn(&str) -> bool,
    is_whole: impl Fn(&str, usize) -> bool,
) -> Result<Vec<Parameter>> {
    lora.check()?;
    check_patterns("target of LoRA", &lora.targets, &parameters)?;
    let saved = &lora.modules_to_save;
    check_patterns("module to save beside LoRA", saved, &parameters)?;
    let mut all = Vec::with_capacity(3 * parameters.len());
    let mut adapted = 0;
    for mut parameter in parameters {
        if saved.iter().any(|pattern| names(pattern, &parameter.path)) {
            parameter.trainable = true;
            all.push(parameter);
            continue;
        }
        parameter.trainable = false;
        if parameter.quantized.is_none() && is_quantizable(&parameter.path) {
            parameter.quantized = lora.quantization;
        }
        let is_target = if lora.targets.is_empty() {
            linear.contains(&parameter.path)
        } else {
            let mut targets = lora.targets.iter();
            // A bias beside the matrix that a pattern is about stays as it is.
            targets.any(|pattern| names(pattern, &parameter.path)) && parameter.shape.len() == 2
        };
        let factors = is_target
            .then(|| factors(lora, &parameter, &is_whole))
            .transpose()?;
        all.push(parameter);
        if let Some(factors) = factors {
            all.extend(factors);
            adapted += 1;
        }
    }
    if adapted == 0 {
        return Err(Error::model(
            "this model",
            "has no matrix that gets LoRA adapters: none of the weights that are named has two dimensions",
            "name matrices in LoraConfig::targets (without targets: the weights of Linear layers)",
        ));
    }
    if lora.quantization.is_some() && all.iter().all(|p| p.quantized.is_none()) {
        return Err(Error::model(
            "this model",
            "has nothing to quantize: no frozen weight of a Linear layer that may be stored as bytes",
            "leave LoraConfig::quantize_base out, or quantize with Burn's Quantizer before",
        ));
    }
    Ok(all)
}

/// Every pattern names a parameter, or a module with parameters.
fn check_patterns(what: &str, patterns: &[String], parameters: &[Parameter]) -> Result<()> {
    let is_unknown = |pattern: &&String| !parameters.iter().any(|p| names(pattern, &p.path));
    match patterns.iter().find(is_unknown) {
        None => Ok(()),
        Some(pattern) => {
            let example = parameters.first().map_or("", |p| p.path.as_str());
            let expected = format!(
                "the end of the path of a module or a parameter, * for any one name (such as {example})"
            );
            Err(Error::config(what, expected, pattern))
        }
    }
}

/// Whether a pattern names the parameter at `path` or a module that it lies in, by the last names of its path.
fn names(pattern: &str, path: &str) -> bool {
    let path: Vec<String> = path.split('.').map(String::from).collect();
    let len = pattern.split('.').count();
    let mut ends = len..=path.len();
    ends.any(|end| matches(pattern, &path[end - len..end]))
}

/// Returns if adapters of this rank are low-rank adapters of a matrix.
pub(super) fn check_rank(rank: usize, of: &Parameter) -> Result<()> {
    let [d_in, d_out] = of.shape[..] else {
        let found = format!(
            "has the shape {:?}, and adapters are those of matrices",
            of.shape
        );
        return Err(Error::model(&of.path, found, "name matrices alone"));
    };
    if (1..=d_in.min(d_out)).contains(&rank) {
        return Ok(());
    }
    Err(Error::model(
        &of.path,
        format!(
            "has the shape [{d_in}, {d_out}], for which adapters of rank {rank} are no low-rank adapters"
        ),
        format!(
            "choose a rank of at least 1 and at most {}, or other targets; a head trains whole in LoraConfig::modules_to_save",
            d_in.min(d_out)
        ),
    ))
}

/// The two factors of the adapter of a matrix.
fn factors(
    lora: &LoraConfig,
    of: &Parameter,
    is_whole: &impl Fn(&str, usize) -> bool,
) -> Result<[Parameter; 2]> {
    let [d_in, d_out] = of.shape[..] else {
        let found = format!("has the shape {:?}", of.shape);
        let remedy = "name matrices in LoraConfig::targets";
        return Err(Error::model(&of.path, found, remedy));
    };
    check_rank(lora.rank, of)?;
    let factor = |name: &str, shape: [usize; 2]| Parameter {
        path: factor_path(&of.path, name),
        shape: shape.to_vec(),
        quantized: None,
        trainable: true,
        replicated: is_whole(&of.unit, shape[0] * shape[1]),
        ..of.clone()
    };
    Ok([
        factor("a", [d_in, lora.rank]),
        factor("b", [lora.rank, d_out]),
    ])
}
