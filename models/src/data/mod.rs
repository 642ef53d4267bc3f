//! Data sets: images and texts, from files or generated.
//!
//! [`Cifar10`] and [`Synthetic`] are a [`Dataset`](burn_dist::data::Dataset) of [`Image`]s, which an
//! [`ImageBatcher`] makes into an [`ImageBatch`] of tensors. As the batcher works from a sample's index and not
//! from a shared generator, an image is cropped and flipped in the same way on every rank. [`text`] has the
//! same for texts. Batches of both are [`Classified`]. With the feature `images`, `ImageFolder` reads folders of JPEG
//! and PNG files.
//!
//! ```
//! use burn::tensor::Device;
//! use burn_dist::data::{Batch, Loader};
//! use burn_dist_models::data::{ImageBatcher, Synthetic};
//!
//! let train = Synthetic::train(42, 64);
//! let batcher = ImageBatcher::new(&Device::flex()).with_augmentation(42);
//! let collate = move |items: Vec<_>, info: &_| batcher.collate(&items, info);
//! // On several ranks: `Loader::new(&world, ..)`, each its share.
//! let loader = Loader::replicated(train, Batch::per_rank(16), collate)?.shuffled(42);
//!
//! for batch in loader.epoch(0)? {
//!     let batch = batch?;
//!     assert_eq!(batch.images.dims(), [16, 3, 32, 32]);
//!     assert_eq!(batch.labels.dims(), [16]);
//! }
//! # Ok::<(), burn_dist::Error>(())
//! ```

mod augment;
mod batch;
mod cifar;
mod classified;
mod files;
mod image;
#[cfg(feature = "images")]
mod image_folder;
#[cfg(feature = "images")]
mod pictures;
mod relabelled;
mod synthetic;
pub mod text;

pub use batch::{ImageBatch, ImageBatcher};
pub use cifar::Cifar10;
pub use classified::Classified;
pub use image::{CHANNELS, Image, PIXELS, SIDE};
#[cfg(feature = "images")]
pub use image_folder::{BrokenImage, ImageFolder, TestShare, TransformedFolder};
#[cfg(feature = "images")]
pub use pictures::{Picture, PictureBatcher, Transform};
pub use relabelled::{Labelled, Relabelled};
pub use synthetic::Synthetic;
