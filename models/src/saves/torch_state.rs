//! A training state that PyTorch has written, for a model and its optimizer.

use super::adamw::AdamWSettings;
use super::states::{States, Stepped, group};
use super::tensor_files::TensorFiles;
use crate::hf::HfName;
use burn::module::Module;
use burn::optim::ModuleOptimizer;
use burn_dist::weights::Weights;
use burn_dist::{Error, Result};
use std::path::Path;

/// A model under Hugging Face's names with the states of PyTorch's AdamW, in safetensors files.
///
/// A parameter that the file calls NAME has the states `optimizer.exp_avg.NAME` and `optimizer.exp_avg_sq.NAME` of its
/// shape, `optimizer.step.NAME` with one number, and with AMSGrad `optimizer.max_exp_avg_sq.NAME`; or none of them, if no
/// gradient has come yet. The metadata may have the settings under `adamw`: `{"betas": [0.9, 0.999], "eps": 1e-8,
/// "weight_decay": 0.01, "amsgrad": false, "no_decay": [NAME, ...]}`. `scripts/make_torch_state.py` writes such a file.
///
/// ```
/// use burn::nn::LinearConfig;
/// use burn::tensor::Device;
/// use burn_dist_models::hf::HfName;
/// use burn_dist_models::saves::TorchState;
/// # use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
/// # let folder = tempfile::tempdir().unwrap();
/// # let file = folder.path().join("state.safetensors");
/// # let bytes = [0u8; 12];
/// # let view = |shape: &[usize]| TensorView::new(Dtype::F32, shape.to_vec(), &bytes[..4 * shape.iter().product::<usize>()]).unwrap();
/// # let tensors = [
/// #     ("a.weight", view(&[1, 3])), ("a.bias", view(&[1])),
/// #     ("optimizer.exp_avg.a.weight", view(&[1, 3])), ("optimizer.exp_avg_sq.a.weight", view(&[1, 3])),
/// #     ("optimizer.step.a.weight", view(&[])),
/// # ];
/// # serialize_to_file(tensors, None, &file).unwrap();
///
/// let names = |path: &str| Some(HfName { name: format!("a.{path}"), transpose: path == "weight" });
/// let model = LinearConfig::new(3, 1).init(&Device::flex().autodiff());
/// let (_model, _optimizer) = TorchState::open(&file)?.load(model, names)?;
/// # Ok::<(), burn_dist::Error>(())
/// ```
///
/// # Source
/// PyTorch: `torch.optim.AdamW.state_dict`.
#[derive(Debug)]
pub struct TorchState {
    files: TensorFiles,
    settings: AdamWSettings,
}

impl TorchState {
    /// Opens a file, or a folder with `model.safetensors` and `optimizer.safetensors`.
    ///
    /// # Cost
    /// The headers are read.
    ///
    /// # Errors
    /// [`Error::File`] if a file is missing or damaged, or its settings are none.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let files = TensorFiles::open(path)?;
        let settings = AdamWSettings::of_file(&files)?.unwrap_or_default();
        Ok(Self { files, settings })
    }

    /// The same with other settings than the file has, or than PyTorch's if it has none.
    #[must_use]
    pub fn with_settings(self, settings: AdamWSettings) -> Self {
        Self { settings, ..self }
    }

    /// The settings of the optimizer.
    pub fn settings(&self) -> &AdamWSettings {
        &self.settings
    }

    /// Fills a plain model, on one device, and makes the AdamW that goes on with it. Linear weights and their moments
    /// are transposed where `names` says so.
    ///
    /// For a sharded one, `burn-dist-save import` makes a save, which any ranks load.
    ///
    /// # Cost
    /// The states are in memory twice while the optimizer takes them.
    ///
    /// # Errors
    /// As [`Weights::apply`]; [`Error::File`] for moments that are missing, of another shape or of a parameter that the
    /// model has not; [`Error::Model`] for a parameter of another type than the default device's, in which Burn loads
    /// moments.
    pub fn load<M: Module>(
        &self,
        model: M,
        names: impl Fn(&str) -> Option<HfName> + Clone + Send + Sync + 'static,
    ) -> Result<(M, ModuleOptimizer)> {
        let weights = Weights::open(self.files.path())?.named(names.clone());
        let (model, _) = weights.apply(model)?;
        let mut states = States::new(&self.files, &self.settings);
        let mut exempt = Vec::new();
        for parameter in Stepped::all(&model) {
            let Some(name) = names(&parameter.path) else {
                continue;
            };
            let spellings = std::iter::once(name.name.clone()).chain(name.others());
            let mut spellings = spellings.filter(|name| self.files.shape(name).is_some());
            let found = spellings.next().ok_or_else(|| {
                let expected = format!("a tensor {}", name.name);
                Error::file(self.files.path(), expected, "none")
            })?;
            states.read(&parameter, &found, name.transpose)?;
            if self.settings.no_decay.contains(&found) {
                exempt.push(parameter);
            }
        }
        let optimizer = self.settings.optimizer(group(exempt.iter(), |_| true));
        Ok((model, states.load(optimizer)?))
    }
}
