//! The command line of the image example: its models and its data.

use super::image_source::ImageSource;
use super::{Classes, ImageArgs, Pretrained, RunArgs, named, positions, preprocessing};
use crate::VitConfig;
use crate::data::Relabelled;
use crate::data::{CHANNELS, Cifar10, Image, ImageBatch, ImageBatcher, Synthetic};
use crate::hf::Preprocessor;
use burn_dist::data::{Dataset, Loader};
use burn_dist::{Error, Result, World};
use clap::{Parser, ValueEnum};
use serde::Serialize;
use std::hash::Hash;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[cfg(feature = "images")]
use super::folder_images;
#[cfg(feature = "images")]
use crate::data::{ImageFolder, PictureBatcher, Transform};

/// The arguments of the image example.
#[derive(Debug, Clone, Parser, Serialize)]
#[command(
    version,
    about = "Train a Vision Transformer on images, sharded over several ranks",
    mut_arg("weight_decay", |arg| arg.default_value("0.05"))
)]
pub struct VitArgs {
    /// The arguments that all examples share.
    #[command(flatten)]
    pub run: RunArgs,

    /// The model.
    #[arg(long, value_enum, default_value_t = VitSize::Tiny)]
    pub model: VitSize,

    /// A folder of CIFAR-10's binary files, or one with a folder of JPEG and PNG images for each class (food101's too),
    /// for which the program is built with --features images; without it, a synthetic set that needs no files.
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,

    /// Size of images, test part, broken images.
    #[command(flatten)]
    pub images: ImageArgs,
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
    /// How the images of a folder are made, for the export; `None` for images of 32 x 32 pixels.
    pub preprocessor: Option<Preprocessor>,
}

impl VitArgs {
    /// The name of the model, in records and folders.
    pub fn name(&self) -> String {
        named("vit", &self.model)
    }

    /// The configuration, for the classes of the data, and the pretrained checkpoint. Collective.
    ///
    /// A pretrained one keeps its sizes but not its classifier. Images have the size that `--image-size` says, or
    /// else that of the checkpoint's preprocessing (for a folder of images), or else that of its configuration; its
    /// position embeddings are interpolated where that is another size than theirs.
    ///
    /// # Errors
    /// [`Error::User`] if weights cannot be fetched, [`Error::File`] if they are not for this model, and
    /// [`Error::Config`] if it takes images of another number of channels or of a size that its patches do not divide.
    pub fn model(&self, world: &World) -> Result<(VitConfig, Option<Pretrained>)> {
        let source = self.source()?;
        let classes = classes(source)?;
        let Some(pretrained) = self.run.weights.pretrained(world)? else {
            let config = self.config(source, classes);
            return Ok((config, None));
        };
        let own = VitConfig {
            classes,
            ..pretrained.config(VitConfig::from_hf)?
        };
        if own.channels != CHANNELS {
            return Err(Error::config(
                "the images of the model given by --from",
                format!("{CHANNELS} channels, which the data have"),
                own.channels,
            ));
        }
        let preprocessor = match source {
            ImageSource::Folder(_) => preprocessing::of_checkpoint(Some(&pretrained))?,
            _ => None,
        };
        let side = self.images.image_size;
        let side = side.or(preprocessor.and_then(|preprocessor| preprocessor.side()));
        let config = own.clone().with_image_size(side.unwrap_or(own.image_size));
        config.validate().map_err(Error::user)?;
        let pretrained = positions::fitted(world, pretrained, &own, config.image_size)?;
        Ok((config, Some(pretrained)))
    }

    fn source(&self) -> Result<ImageSource<'_>> {
        ImageSource::of(self.data.as_deref(), &self.images)
    }

    /// A new model: for 32x32 pixels, but for a folder of images of the size that the larger ones are made for.
    fn config(&self, source: ImageSource<'_>, classes: usize) -> VitConfig {
        // The larger models are made for 224 pixels in patches of 16; the body stays theirs.
        let fitting = |config: VitConfig| match source {
            ImageSource::Folder(_) => config,
            _ => config.with_image_size(32).with_patch_size(4),
        };
        let config = match self.model {
            VitSize::Tiny => VitConfig::tiny(classes),
            VitSize::Cifar => VitConfig::cifar(classes),
            VitSize::Small => fitting(VitConfig::small_16(classes)),
            VitSize::Base => fitting(VitConfig::base_16(classes)),
            VitSize::Large => fitting(VitConfig::large_16(classes)),
        };
        let side = self.images.image_size.unwrap_or(config.image_size);
        config.with_image_size(side)
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
        match self.source()? {
            ImageSource::Cifar(folder) => {
                let (train, test) = Cifar10::open(folder)?;
                let classes = train.classes().to_vec();
                self.loaders(world, (train, test), &classes, pretrained, batcher)
            }
            ImageSource::Synthetic => {
                self.run.say_made_up(world, "images");
                let (train, test) = (Synthetic::train(0, 2048), Synthetic::test(0, 512));
                let classes = Synthetic::classes().iter().map(ToString::to_string);
                let classes: Vec<_> = classes.collect();
                self.loaders(world, (train, test), &classes, pretrained, batcher)
            }
            ImageSource::Folder(folder) => self.folder(world, folder, config, pretrained),
        }
    }

    /// The images of a folder, cut and scaled as the checkpoint says, or as usual for ImageNet.
    #[cfg(feature = "images")]
    fn folder(
        &self,
        world: &World,
        folder: &Path,
        config: &VitConfig,
        pretrained: Option<&Pretrained>,
    ) -> Result<Images> {
        let (seed, workers) = (self.run.seed, self.run.num_workers);
        let (train, test) = folder_images::open(world, folder, &self.images, (seed, workers))?;
        let theirs = pretrained.map(Pretrained::classes).transpose()?.flatten();
        let classes = Classes::new(world, train.classes(), theirs.as_deref());
        let side = config.image_size;
        let preprocessor = preprocessing::for_side(world, pretrained, side)?;
        let evaluation = Transform::evaluation(preprocessor.clone(), side);
        let training = Transform::training(preprocessor.clone(), side, seed);
        let relabelled = |images| Relabelled::new(images, classes.numbers.clone());
        // What is held out is scored as the test set is, without random cuts.
        let held_out = relabelled(train.clone().transformed(evaluation.clone()));
        let train = relabelled(train.transformed(training));
        let test = relabelled(test.transformed(evaluation));
        let (train, validation, test) = self.run.divide(train, test)?;
        let validation = validation.map(|part| part.of(held_out)).transpose()?;
        let batcher = PictureBatcher::new(&world.device(), &preprocessor);
        let scored = |set| {
            let batcher = batcher.clone();
            let collate = move |images: Vec<_>, info: &_| batcher.collate(&images, info);
            self.run.testing(world, set, collate)
        };
        let validation = validation.map(scored).transpose()?;
        let test = scored(test)?;
        Ok(Images {
            train: self.run.training(world, train, move |images, info| {
                batcher.collate(&images, info)
            })?,
            validation,
            test,
            classes: classes.names,
            preprocessor: Some(preprocessor),
        })
    }

    #[cfg(not(feature = "images"))]
    fn folder(
        &self,
        _world: &World,
        folder: &Path,
        _config: &VitConfig,
        _pretrained: Option<&Pretrained>,
    ) -> Result<Images> {
        Err(ImageSource::not_built(folder))
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
            preprocessor: None,
        })
    }
}

/// The number of classes that the data have.
fn classes(source: ImageSource<'_>) -> Result<usize> {
    match source {
        ImageSource::Synthetic | ImageSource::Cifar(_) => Ok(10),
        #[cfg(feature = "images")]
        ImageSource::Folder(folder) => Ok(ImageFolder::class_names(folder)?.len()),
        #[cfg(not(feature = "images"))]
        ImageSource::Folder(folder) => Err(ImageSource::not_built(folder)),
    }
}
