//! What the runs of a matrix have in common: how long they train, on what, and how.

use super::Program;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What a run computes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    /// The processor.
    Cpu,
    /// NVIDIA GPUs, one for each rank.
    Cuda,
    /// Any GPU, by Vulkan, Metal or DirectX.
    Wgpu,
}

impl Device {
    /// Its name, as `--device` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Wgpu => "wgpu",
        }
    }
}

/// The arguments of a run that are no axis.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// Passes over the training set.
    pub epochs: usize,
    /// Steps after which to stop.
    pub steps: Option<usize>,
    /// Backward passes per step.
    pub accumulate: usize,
    /// How the rate falls: `linear`, `cosine` or `constant`.
    pub schedule: String,
    /// The share of the run in which the rate rises.
    pub warmup: f64,
    /// How much weights decay; biases and norms do not.
    pub weight_decay: f64,
    /// The global gradient norm to clip at.
    pub clip: f64,
    /// Training samples.
    pub train_size: Option<usize>,
    /// Test samples.
    pub test_size: Option<usize>,
    /// The most tokens of a text.
    pub max_length: Option<usize>,
    /// The seed of everything that is drawn.
    pub seed: u64,
    /// The folder of images; without it they are computed.
    pub vit_data: Option<PathBuf>,
    /// The folder of texts; without it they are generated.
    pub bert_data: Option<PathBuf>,
    /// Pretrained weights for images.
    pub vit_from: Option<PathBuf>,
    /// Pretrained weights for texts.
    pub bert_from: Option<PathBuf>,
    /// Steps to trace, as FROM..TO.
    pub trace: Option<String>,
    /// What to compute on.
    pub device: Device,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            epochs: 2,
            steps: None,
            accumulate: 1,
            schedule: "linear".into(),
            warmup: 0.0,
            weight_decay: 0.01,
            clip: 1.0,
            train_size: None,
            test_size: None,
            max_length: None,
            seed: 0,
            vit_data: None,
            bert_data: None,
            vit_from: None,
            bert_from: None,
            trace: None,
            device: Device::Cpu,
        }
    }
}

impl Recipe {
    /// The features that the programs need for it.
    pub fn features(&self) -> String {
        // What processes use is recorded too, which compiles none of Burn again.
        let mut features = vec!["utilisation"];
        // A folder may hold pictures.
        if self.vit_data.is_some() {
            features.push("images");
        }
        if self.device != Device::Cpu {
            features.push(self.device.name());
        }
        features.join(",")
    }

    /// The flags of a run of this program.
    pub fn arguments(&self, program: Program) -> Vec<String> {
        let (data, from) = match program {
            Program::Vit => (&self.vit_data, &self.vit_from),
            Program::Bert => (&self.bert_data, &self.bert_from),
        };
        let max_length = self.max_length.filter(|_| program == Program::Bert);
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let text = |n: Option<usize>| n.map(|n| n.to_string());
        let flags = [
            ("--epochs", Some(self.epochs.to_string())),
            ("--steps", text(self.steps)),
            ("--accumulate", Some(self.accumulate.to_string())),
            ("--schedule", Some(self.schedule.clone())),
            ("--warmup", Some(self.warmup.to_string())),
            ("--weight-decay", Some(self.weight_decay.to_string())),
            ("--clip", Some(self.clip.to_string())),
            ("--train-size", text(self.train_size)),
            ("--test-size", text(self.test_size)),
            ("--max-length", text(max_length)),
            ("--seed", Some(self.seed.to_string())),
            ("--data", path(data)),
            ("--from", path(from)),
            ("--trace", self.trace.clone()),
            ("--device", Some(self.device.name().into())),
        ];
        let given = flags
            .into_iter()
            .filter_map(|(flag, value)| Some([flag.to_owned(), value?]));
        given.flatten().collect()
    }
}
