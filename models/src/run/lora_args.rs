//! Low-rank adapters on the command line.

use super::values::at_least_1;
use crate::hf::HfName;
use burn::module::Module;
use burn::tensor::quantization::{QuantScheme, QuantValue, ScaleDtype};
use burn_dist::weights::{Adapters, Export};
use burn_dist::{Error, LoraConfig, Result, Strategy, World};
use std::path::PathBuf;

/// What frozen weights are quantized to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum QuantizedBase {
    /// A byte an element, and its block's scale.
    Int8,
    /// Half a byte an element, and its block's scale.
    Int4,
}

impl QuantizedBase {
    /// Burn's scheme: blocks of so many elements, each with an f32 scale.
    fn scheme(self, block: u8) -> QuantScheme {
        let value = match self {
            Self::Int8 => QuantValue::Q8S,
            Self::Int4 => QuantValue::Q4S,
        };
        let scheme = QuantScheme::default().with_value(value);
        scheme.per_block([block], ScaleDtype::F32)
    }
}

/// The arguments for training low-rank adapters beside frozen weights.
#[derive(Debug, Clone, Default, clap::Args, serde::Serialize)]
pub struct LoraArgs {
    /// Freeze the model, and train LoRA adapters of this rank beside its matrices, and its head as it is.
    #[arg(long, value_name = "RANK", value_parser = at_least_1)]
    pub lora: Option<usize>,

    /// The product of the adapters is multiplied by this divided by the rank [default: twice the rank].
    #[arg(long, value_name = "ALPHA", requires = "lora")]
    pub lora_alpha: Option<f64>,

    /// Adapt these modules, by the ends of their paths, instead of all linear layers: query,value.
    #[arg(long, value_name = "MODULES", value_delimiter = ',', requires = "lora")]
    pub lora_targets: Vec<String>,

    /// Begin with the adapters in this folder, of an earlier run or of Python's PEFT; rank and modules are theirs.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["lora", "lora_alpha", "lora_targets"])]
    pub adapters: Option<PathBuf>,

    /// Quantize the frozen weights of linear layers, which makes QLoRA of it: symmetric codes of 8 or 4 bits.
    #[arg(long, value_enum, value_name = "TYPE")]
    pub quantize_base: Option<QuantizedBase>,

    /// So many elements of a row share a scale of the quantized weights.
    #[arg(long, value_name = "ELEMENTS", default_value_t = 64, value_parser = clap::value_parser!(u8).range(1..), requires = "quantize_base")]
    pub quantize_block: u8,

    /// Export the adapters and the head alone to this folder, for Python's PEFT.
    #[arg(long, value_name = "DIR")]
    pub export_adapters: Option<PathBuf>,
}

impl LoraArgs {
    /// The adapters to begin with, if there are some.
    ///
    /// # Errors
    /// As [`Adapters::open`].
    pub fn open(
        &self,
        names: impl Fn(&str) -> Option<HfName> + Send + Sync + 'static,
    ) -> Result<Option<Adapters>> {
        let open = |folder| Ok(Adapters::open(folder)?.named(names));
        self.adapters.as_ref().map(open).transpose()
    }

    /// A strategy with these adapters, for a model whose head trains whole; rank 0 warns if its other weights are
    /// `drawn`, as adapters beside random weights learn little.
    ///
    /// # Errors
    /// As [`Adapters::config`]; [`Error::Config`] for an export of adapters that there are none of, and for quantized weights
    /// without adapters.
    pub fn strategy<M: Module>(
        &self,
        world: &World,
        strategy: Strategy,
        model: &M,
        adapters: Option<&Adapters>,
        drawn: bool,
    ) -> Result<Strategy> {
        let config = match (adapters, self.lora) {
            (Some(adapters), _) => adapters.config(model)?,
            (None, Some(rank)) => {
                let alpha = self.lora_alpha.unwrap_or(2.0 * rank as f64);
                LoraConfig::new(rank, alpha)
                    .targets(self.lora_targets.clone())
                    .modules_to_save(["head"])
            }
            // At the end of the run it would be too late.
            (None, None) if self.export_adapters.is_some() => {
                let expected = "--lora RANK or --adapters DIR beside it";
                return Err(Error::config("--export-adapters", expected, "neither"));
            }
            (None, None) if self.quantize_base.is_some() => {
                let expected =
                    "--lora RANK or --adapters DIR beside it: quantized weights are frozen";
                return Err(Error::config("--quantize-base", expected, "neither"));
            }
            (None, None) => return Ok(strategy),
        };
        let config = match self.quantize_base {
            Some(base) => config.quantize_base(base.scheme(self.quantize_block)),
            None => config,
        };
        if drawn && world.is_chief() {
            log::warn!("without --from, the frozen weights beside the adapters are random");
        }
        Ok(strategy.lora(config))
    }

    /// The sharded model with the adapters to begin with, if there are some. Collective.
    ///
    /// # Errors
    /// As [`World::load_adapters`].
    pub fn load<M: Module>(
        &self,
        world: &World,
        model: M,
        adapters: Option<&Adapters>,
    ) -> Result<M> {
        match adapters {
            Some(adapters) => world.load_adapters(model, adapters),
            None => Ok(model),
        }
    }

    /// Exports the adapters, if `--export-adapters` is given. Collective.
    ///
    /// # Errors
    /// As [`World::export_adapters`].
    pub fn export<M: Module>(
        &self,
        world: &World,
        model: &M,
        names: impl Fn(&str) -> Option<HfName> + Send + Sync + 'static,
    ) -> Result<()> {
        let Some(folder) = &self.export_adapters else {
            return Ok(());
        };
        let names = move |path: &str| names(path).map(HfName::in_model);
        world.export_adapters(model, folder, &Export::new().named(names))?;
        if world.is_chief() {
            log::info!("the adapters are in {}", folder.display());
        }
        Ok(())
    }
}
