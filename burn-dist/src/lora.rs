//! Low-rank adapters: which weights get one, and how large they are.

use crate::error::{Error, Result};
use crate::quantization;
use burn::tensor::quantization::QuantScheme;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Low-rank adapters for [`Strategy::lora`](crate::Strategy::lora).
///
/// A matrix `W` of shape `[d_in, d_out]` is frozen and computed with as `W + alpha / rank * (A * B)`, where `A` of shape
/// `[d_in, rank]` and `B` of shape `[rank, d_out]` train. `B` begins as zeros, so that the model begins as it was.
///
/// ```
/// use burn_dist::LoraConfig;
///
/// let lora = LoraConfig::new(8, 16.0).targets(["query", "value"]).modules_to_save(["classifier"]);
/// assert_eq!(lora.to_string(), "lora of rank 8, alpha 16, on query, value, beside classifier");
/// ```
///
/// # Source
/// Hu et al., *LoRA*, ICLR 2022; PEFT: `LoraConfig`; Burn: `module::Lora`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoraConfig {
    pub(crate) rank: usize,
    pub(crate) alpha: f64,
    pub(crate) init_std: Option<f64>,
    pub(crate) targets: Vec<String>,
    pub(crate) modules_to_save: Vec<String>,
    pub(crate) quantization: Option<QuantScheme>,
}

impl LoraConfig {
    /// Adapters of this rank, whose product is multiplied by `alpha / rank`, for the weight of every `Linear` layer.
    pub fn new(rank: usize, alpha: f64) -> Self {
        Self {
            rank,
            alpha,
            init_std: None,
            targets: Vec::new(),
            modules_to_save: Vec::new(),
            quantization: None,
        }
    }

    /// Adapts the matrices at these paths instead of the weight of every `Linear` layer.
    ///
    /// A pattern is the end of the path of a module or a parameter, in which `*` stands for one name: `query` names
    /// `encoder.layers.0.attention.query`, and `layers.0.*.query` that of the first layer alone.
    ///
    /// # Source
    /// PEFT: `target_modules`.
    pub fn targets(mut self, patterns: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.targets.extend(patterns.into_iter().map(Into::into));
        self
    }

    /// Trains the parameters at these paths as they are, such as those of a new head; all others are frozen.
    ///
    /// Patterns are as in [`targets`](Self::targets). Such a parameter has no adapter.
    ///
    /// # Source
    /// PEFT: `modules_to_save`.
    pub fn modules_to_save(
        mut self,
        patterns: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        self.modules_to_save
            .extend(patterns.into_iter().map(Into::into));
        self
    }

    /// Quantizes the frozen weights of `Linear` layers, with adapters and without: QLoRA.
    ///
    /// Each is quantized when it was initialised or loaded, as Burn's `Quantizer` does it by the largest elements, and is
    /// then stored, sharded, gathered and saved as bytes: codes in the scheme's bits, and its scales. The weight is made of them
    /// when a layer reads it, and made again in backward, in the type that the model had or that of a precision policy; nothing
    /// of its size stays. A block of the scheme divides each of the matrices. On CPUs alone.
    ///
    /// The codes of the schemes are evenly spaced numbers, not those of the type NF4.
    ///
    /// ```
    /// use burn::nn::LinearConfig;
    /// use burn::tensor::{Device, quantization::{QuantScheme, QuantValue, ScaleDtype}};
    /// use burn_dist::{LoraConfig, Strategy};
    ///
    /// let scheme = QuantScheme::default().with_value(QuantValue::Q4S).per_block([64], ScaleDtype::F32);
    /// let model = LinearConfig::new(768, 768).init(&Device::flex());
    /// let lora = LoraConfig::new(8, 16.0);
    /// let wide = Strategy::fsdp().lora(lora.clone()).plan(&model, 2)?.memory().parameters;
    /// let narrow = Strategy::fsdp().lora(lora.quantize_base(scheme)).plan(&model, 2)?.memory().parameters;
    /// assert!(6 * narrow < wide);
    /// # Ok::<(), burn_dist::Error>(())
    /// ```
    ///
    /// # Source
    /// Dettmers et al., *QLoRA*, NeurIPS 2023; PEFT with bitsandbytes: `load_in_4bit`; Burn: `module::QLora`.
    pub fn quantize_base(mut self, scheme: QuantScheme) -> Self {
        self.quantization = Some(scheme);
        self
    }

    /// The standard deviation of the normal distribution that `A` is drawn from, instead of `1 / rank`.
    pub fn init_std(mut self, std: f64) -> Self {
        self.init_std = Some(std);
        self
    }

    /// Columns of `A` and rows of `B`.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// What the product of the adapters is multiplied by: `alpha / rank`.
    pub fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }

    /// # Errors
    /// [`Error::Config`] for numbers that make no adapter.
    pub(crate) fn check(&self) -> Result<()> {
        if self.rank == 0 {
            let expected = "at least 1 (without adapters leave Strategy::lora out)";
            return Err(Error::config("rank of the LoRA adapters", expected, 0));
        }
        let is_good = self.alpha.is_finite() && self.alpha != 0.0;
        if !is_good {
            let expected = "a finite number other than 0, often the rank or twice it";
            return Err(Error::config(
                "alpha of the LoRA adapters",
                expected,
                self.alpha,
            ));
        }
        match self.init_std {
            Some(std) if !(std.is_finite() && std > 0.0) => Err(Error::config(
                "standard deviation of the LoRA adapters",
                "a finite number above 0",
                std,
            )),
            _ => Ok(()),
        }
    }
}

/// The name under which a parameter's adapter lies, before those of its factors.
pub(crate) const NAME: &str = "lora";

/// The path of a factor, `a` or `b`, of the adapter of the parameter at `path`.
pub(crate) fn factor_path(path: &str, factor: &str) -> String {
    format!("{path}.{NAME}.{factor}")
}

/// The path of the adapted parameter and the name of the factor, if that is what lies at `path`.
pub(crate) fn factor(path: &str) -> Option<(&str, &str)> {
    let (adapter, factor) = path.rsplit_once('.')?;
    let weight = adapter.strip_suffix(NAME)?.strip_suffix('.')?;
    matches!(factor, "a" | "b").then_some((weight, factor))
}

impl fmt::Display for LoraConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lora of rank {}, alpha {}", self.rank, self.alpha)?;
        if let Some(std) = self.init_std {
            write!(f, ", drawn with {std}")?;
        }
        if !self.targets.is_empty() {
            write!(f, ", on {}", self.targets.join(", "))?;
        }
        if !self.modules_to_save.is_empty() {
            write!(f, ", beside {}", self.modules_to_save.join(", "))?;
        }
        if let Some(scheme) = &self.quantization {
            write!(f, ", base {}", quantization::name(scheme))?;
        }
        Ok(())
    }
}
