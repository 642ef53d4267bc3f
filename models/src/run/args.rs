//! The command line of the image examples.

use super::Schedule;
use crate::VitConfig;
use crate::data::{Cifar10, Image, ImageBatch, ImageBatcher, Synthetic};
use burn::tensor::Device;
use burn_dist::data::{Dataset, DistributedSampler, Loader};
use burn_dist::launch::{Flags, Launch};
use burn_dist::{Error, Result, Strategy, World};
use clap::{Parser, ValueEnum};
use std::path::{Path, PathBuf};

/// What an image example is told.
#[derive(Debug, Clone, Parser)]
#[command(
    version,
    about = "Train a Vision Transformer on images of 32x32 pixels, sharded over several ranks"
)]
pub struct Args {
    /// Ranks as threads of one process, each with its share of the cores [default: 2].
    #[arg(long, conflicts_with_all = ["nproc_per_node", "nnodes", "standalone"])]
    pub ranks: Option<usize>,

    /// Ranks as processes.
    #[command(flatten)]
    pub launch: Flags,

    /// How state is spread: single, ddp, zero1, zero2, fsdp or hybrid:N.
    #[arg(long, default_value_t = Strategy::fsdp())]
    pub strategy: Strategy,

    /// The model.
    #[arg(long, value_enum, default_value_t = ModelSize::Tiny)]
    pub model: ModelSize,

    /// The folder of CIFAR-10's binary files; without it, a synthetic set that needs no files.
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,

    /// Samples per rank and backward pass.
    #[arg(long, default_value_t = 32)]
    pub per_gpu_batch: usize,

    /// Passes over the training set.
    #[arg(long, default_value_t = 10)]
    pub epochs: usize,

    /// Stop after so many steps, whatever the epochs say.
    #[arg(long, value_name = "N")]
    pub steps: Option<usize>,

    /// The highest learning rate, reached after a tenth of the run.
    #[arg(long, default_value_t = 2e-3)]
    pub lr: f64,

    /// The global gradient norm to clip at.
    #[arg(long, default_value_t = 1.0)]
    pub clip: f64,

    /// Backward passes per step.
    #[arg(long, default_value_t = 1)]
    pub accumulate: usize,

    /// Seed of parameters, data order, augmentation and dropout.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,

    /// Save to this folder after every epoch, and when told to end (SIGTERM, Ctrl-C).
    #[arg(long, value_name = "DIR")]
    pub save: Option<PathBuf>,

    /// Go on from the last save in the folder given by --save; after a restart this is implied.
    #[arg(long, requires = "save")]
    pub resume: bool,
}

/// The models to choose from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ModelSize {
    /// 64 wide, 4 blocks: learns in a minute on a laptop.
    Tiny,
    /// 192 wide, 6 blocks: 2.7 M parameters.
    Cifar,
    /// The body of ViT-S.
    Small,
    /// The body of ViT-B.
    Base,
    /// The body of ViT-L.
    Large,
}

impl Args {
    /// The ranks these arguments ask for.
    pub fn launch(&self) -> Launch {
        let threads = self.ranks.unwrap_or(2);
        burn_dist::launch(&self.launch)
            .threads(threads)
            .seed(self.seed)
    }

    /// The model, for the 10 classes and the 32x32 pixels that both data sets have.
    pub fn config(&self) -> VitConfig {
        // The larger models are made for 224 pixels in patches of 16; the body stays theirs.
        let small_images = |config: VitConfig| config.with_image_size(32).with_patch_size(4);
        match self.model {
            ModelSize::Tiny => VitConfig::tiny(10),
            ModelSize::Cifar => VitConfig::cifar(10),
            ModelSize::Small => small_images(VitConfig::small_16(10)),
            ModelSize::Base => small_images(VitConfig::base_16(10)),
            ModelSize::Large => small_images(VitConfig::large_16(10)),
        }
    }

    /// The folder to go on from, if this run goes on from one.
    ///
    /// After a restart by the launcher that is the last save, where there is one already. A run
    /// that begins anew does so in a folder without a save, so that one run never takes another's
    /// for its own. Collective.
    ///
    /// # Errors
    /// [`Error::User`] for the save of another run; what a collective returns.
    pub fn resumes(&self, world: &World) -> Result<Option<&Path>> {
        let Some(folder) = &self.save else {
            return Ok(None);
        };
        let saved = world.has_save(folder)?;
        match (self.resume, world.restarts()) {
            (true, _) => Ok(Some(folder)),
            (false, 0) if saved => Err(Error::user(format!(
                "{} holds the save of an earlier run: go on from it with --resume, or choose \
                 another folder",
                folder.display()
            ))),
            (false, _) => Ok(saved.then_some(folder)),
        }
    }

    /// This rank's share of the training and of the test set.
    ///
    /// # Errors
    /// [`Error::File`] if the files are missing, short or damaged; [`Error::Config`] if a number
    /// on the command line cannot be.
    pub fn data(&self, world: &World) -> Result<(Loader<ImageBatch>, Loader<ImageBatch>)> {
        if self.accumulate == 0 {
            let (what, expected) = ("--accumulate".into(), "at least 1".into());
            let found = "0".into();
            return Err(Error::Config {
                what,
                expected,
                found,
            });
        }
        let device = world.device();
        match &self.data {
            Some(folder) => {
                let (train, test) = Cifar10::open(folder)?;
                self.loaders(world, &device, train, test)
            }
            None => {
                let (train, test) = (Synthetic::train(0, 2048), Synthetic::test(0, 512));
                self.loaders(world, &device, train, test)
            }
        }
    }

    fn loaders<D: Dataset<Item = Image> + 'static>(
        &self,
        world: &World,
        device: &Device,
        train: D,
        test: D,
    ) -> Result<(Loader<ImageBatch>, Loader<ImageBatch>)> {
        let mine = |len: usize| {
            DistributedSampler::new(len, self.per_gpu_batch)?.for_rank(world.rank(), world.size())
        };
        let (shuffled, ordered) = (mine(train.len())?.shuffled(self.seed), mine(test.len())?);
        let plain = ImageBatcher::new(device);
        let augmented = plain.clone().with_augmentation(self.seed);
        Ok((
            Loader::new(train, shuffled, move |images, info| {
                augmented.collate(&images, info)
            })?,
            Loader::new(test, ordered, move |images, info| {
                plain.collate(&images, info)
            })?,
        ))
    }

    /// Steps of an epoch of so many batches a rank.
    pub fn epoch_steps(&self, batches: usize) -> usize {
        batches.div_ceil(self.accumulate)
    }

    /// Steps of the whole run.
    pub fn total_steps(&self, batches: usize) -> usize {
        let all = self.epochs * self.epoch_steps(batches);
        self.steps.map_or(all, |steps| steps.min(all))
    }

    /// The learning rate of a run of `steps`.
    pub fn schedule(&self, steps: usize) -> Schedule {
        Schedule {
            peak: self.lr,
            warmup: steps.div_ceil(10),
            steps,
        }
    }
}
