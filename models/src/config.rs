//! Checks of a model's configuration, with the same errors for all models.

use thiserror::Error;

/// A configuration that describes no model.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum ConfigError {
    /// A size is zero.
    #[error("`{field}` is 0: it must be at least 1")]
    Zero {
        /// The field of the configuration.
        field: &'static str,
    },
    /// A size is far above that of any model, as in a damaged or foreign file.
    #[error("`{field}` is {size}: it must be at most {most}")]
    TooLarge {
        /// The field of the configuration.
        field: &'static str,
        /// What it was set to.
        size: usize,
        /// The largest that is accepted.
        most: usize,
    },
    /// The image is not a whole number of patches.
    #[error(
        "an image of {image_size} pixels cannot be cut into patches of {patch_size}: choose a divisor"
    )]
    Patches {
        /// Pixels of an image's side.
        image_size: usize,
        /// Pixels of a patch's side.
        patch_size: usize,
    },
    /// The width is not a whole number of heads.
    #[error("a width of {width} cannot be split over {heads} heads: choose a multiple")]
    Heads {
        /// Features of a token.
        width: usize,
        /// Attention heads.
        heads: usize,
    },
    /// A rate is not a probability below 1.
    #[error("`{field}` is {rate}: a rate lies in [0, 1)")]
    Rate {
        /// The field of the configuration.
        field: &'static str,
        /// What it was set to.
        rate: f64,
    },
    /// The standard deviation of the initial weights is not positive and finite.
    #[error("`init_std` is {std}: it must be positive and finite")]
    InitStd {
        /// What it was set to.
        std: f64,
    },
    /// The epsilon of layer norms is not positive and finite.
    #[error("`norm_eps` is {eps}: it must be positive and finite")]
    NormEps {
        /// What it was set to.
        eps: f64,
    },
}

/// The largest accepted size, by its name here or in a `config.json`.
///
/// Far above every published model, and low enough that no product of sizes overflows and a list of all
/// blocks fits into memory: a size may come from a damaged file.
pub(crate) fn most(field: &str) -> usize {
    match field {
        "blocks" | "num_hidden_layers" | "n_layers" => 1 << 12,
        "image_size" | "patch_size" | "channels" | "num_channels" => 1 << 14,
        _ => 1 << 24,
    }
}

/// Checks that each size is at least 1, and none so large that making the model would take all memory.
pub(crate) fn sizes(sizes: &[(&'static str, usize)]) -> Result<(), ConfigError> {
    for (field, size) in sizes.iter().copied() {
        let most = most(field);
        match size {
            0 => return Err(ConfigError::Zero { field }),
            size if size > most => return Err(ConfigError::TooLarge { field, size, most }),
            _ => {}
        }
    }
    Ok(())
}

/// Checks that each head has the same number of features.
pub(crate) fn heads(width: usize, heads: usize) -> Result<(), ConfigError> {
    if width.is_multiple_of(heads) {
        Ok(())
    } else {
        Err(ConfigError::Heads { width, heads })
    }
}

/// Checks that each rate is a probability below 1. NaN is in no range, and so an error too.
pub(crate) fn rates(rates: &[(&'static str, f64)]) -> Result<(), ConfigError> {
    match rates.iter().find(|(_, rate)| !(0.0..1.0).contains(rate)) {
        Some(&(field, rate)) => Err(ConfigError::Rate { field, rate }),
        None => Ok(()),
    }
}

/// Checks the epsilon of norms and the standard deviation of initial weights.
pub(crate) fn scales(norm_eps: f64, init_std: f64) -> Result<(), ConfigError> {
    let is_scale = |x: f64| x.is_finite() && x > 0.0;
    if !is_scale(norm_eps) {
        return Err(ConfigError::NormEps { eps: norm_eps });
    }
    if !is_scale(init_std) {
        return Err(ConfigError::InitStd { std: init_std });
    }
    Ok(())
}
