//! The command line of the image example: its models and its data.

use super::{Classes, Pretrained, RunArgs, named};
use crate::VitConfig;
use crate::data::Relabelled;
use crate::data::{CHANNELS, Cifar10, Image, ImageBatch, ImageBatcher, Synthetic};
use crate::vit::hf_name;
use burn_dist::data::{Dataset, Loader};
use burn_dist::weights::Weights;
use burn_dist::{Error, Result, World};
use clap::{Parser, ValueEnum};
use serde::Serialize;
use std::hash::Hash;
use std::path::PathBuf;
use std::sync::Arc;

/// The arguments of the image example.
#[derive(Debug, Clone, Parser, Serialize)]
#[command(
    version,
    about = "Train a Vision Transformer on images of 32x32 pixels, sharded over several ranks",
    mut_arg("weight_decay", |arg| arg.default_value("0.05"))
)]
pub struct VitArgs {
    /// The arguments that all examples share.
    #[command(flatten)]
    pub run: RunArgs,

    /// The model.
    #[arg(long, value_enum, default_value_t = VitSize::Tiny)]
    pub model: VitSize,

    /// The folder of CIFAR-10's binary files; without it, a synthetic set that needs no files.
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
}

/// The models to choose from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
pub enum VitSize {
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

/// One rank's share of the data of an image classifier.
#[derive(Debug)]
pub struct Images {
    /// The training set.
    pub train: Loader<ImageBatch>,
    /// What epochs are scored on, if not on the test set.
    pub validation: Option<Loader<ImageBatch>>,
    /// The test set.
    pub test: Loader<ImageBatch>,
    /// The classes' names, by the number that the model gives them.
    pub classes: Vec<String>,
}

impl VitArgs {
    /// The name of the model, in records and folders.
    pub fn name(&self) -> String {
        named("vit", &self.model)
    }

    /// The configuration, for the 10 classes that both data sets have, and the pretrained checkpoint. Collective.
    ///
    /// A pretrained one keeps its sizes, its images' among them, but not its classifier.
    ///
    /// # Errors
    /// [`Error::User`] if weights cannot be fetched, [`Error::File`] if they are not for this model, and
    /// [`Error::Config`] if it takes images of another number of channels.
    pub fn model(&self, world: &World) -> Result<(VitConfig, Option<Pretrained>)> {
        let Some(pretrained) = self.run.weights.pretrained(world)? else {
            return Ok((self.config(), None));
        };
        let config = VitConfig {
            classes: 10,
            ..pretrained.config(VitConfig::from_hf)?
        };
        if config.channels != CHANNELS {
            return Err(Error::config(
                "the images of the model given by --from",
                format!("{CHANNELS} channels, which the data have"),
                config.channels,
            ));
        }
        check_positions(&config, &pretrained.weights(hf_name)?)?;
        Ok((config, Some(pretrained)))
    }

    /// A new model, for the 32x32 pixels of both data sets.
    fn config(&self) -> VitConfig {
        // The larger models are made for 224 pixels in patches of 16; the body stays theirs.
        let small_images = |config: VitConfig| config.with_image_size(32).with_patch_size(4);
        match self.model {
            VitSize::Tiny => VitConfig::tiny(10),
            VitSize::Cifar => VitConfig::cifar(10),
            VitSize::Small => small_images(VitConfig::small_16(10)),
            VitSize::Base => small_images(VitConfig::base_16(10)),
            VitSize::Large => small_images(VitConfig::large_16(10)),
        }
    }

    /// This rank's share of the training and of the test set, in images of this model's size.
    ///
    /// # Errors
    /// [`Error::File`] if the files are missing, short or damaged; [`Error::Config`] if a number on the
    /// command line cannot be; [`Error::Disagreement`] if ranks have different samples.
    pub fn data(
        &self,
        world: &World,
        config: &VitConfig,
        pretrained: Option<&Pretrained>,
    ) -> Result<Images> {
        let batcher = ImageBatcher::new(&world.device()).with_side(config.image_size);
        match &self.data {
            Some(folder) => {
                let (train, test) = Cifar10::open(folder)?;
                let classes = train.classes().to_vec();
                self.loaders(world, (train, test), &classes, pretrained, batcher)
            }
            None => {
                self.run.say_made_up(world, "images");
                let (train, test) = (Synthetic::train(0, 2048), Synthetic::test(0, 512));
                let classes = Synthetic::classes().iter().map(ToString::to_string);
                let classes: Vec<_> = classes.collect();
                self.loaders(world, (train, test), &classes, pretrained, batcher)
            }
        }
    }

    fn loaders<D: Dataset<Item = Image> + Hash + 'static>(
        &self,
        world: &World,
        (train, test): (D, D),
        classes: &[String],
        pretrained: Option<&Pretrained>,
        plain: ImageBatcher,
    ) -> Result<Images> {
        world.agree_hash("the training data", &train)?;
        world.agree_hash("the test data", &test)?;
        let theirs = pretrained.map(Pretrained::classes).transpose()?.flatten();
        let classes = Classes::new(world, classes, theirs.as_deref());
        let relabelled = |images| Relabelled::new(images, classes.numbers.clone());
        let (train, test) = (relabelled(Arc::new(train)), relabelled(Arc::new(test)));
        let (train, validation, test) = self.run.divide(train, test)?;
        let augmented = plain.clone().with_augmentation(self.run.seed);
        let scored = |set| {
            let plain = plain.clone();
            self.run
                .testing(world, set, move |images, info| plain.collate(&images, info))
        };
        Ok(Images {
            train: self.run.training(world, train, move |images, info| {
                augmented.collate(&images, info)
            })?,
            validation: validation.map(scored).transpose()?,
            test: scored(test)?,
            classes: classes.names,
        })
    }
}

/// Checks that the position embeddings fit the image size of the configuration.
fn check_positions(config: &VitConfig, weights: &Weights) -> Result<()> {
    let Some(name) = hf_name("embeddings.positions").map(|name| name.name) else {
        return Ok(());
    };
    let wanted = 1 + (config.image_size / config.patch_size).pow(2);
    let mut tensors = weights.tensors();
    let table = tensors.find(|(found, _)| found.ends_with(name.trim_start_matches("vit.")));
    let Some((_, &[_, found, _])) = table else {
        return Ok(());
    };
    if found == wanted {
        return Ok(());
    }
    let side = found.saturating_sub(1).isqrt() * config.patch_size;
    Err(Error::config(
        "image_size in config.json",
        format!("{side}, for {name} has {found} rows"),
        format!(
            "{}, which needs {wanted} rows: tables are not interpolated",
            config.image_size
        ),
    ))
}
