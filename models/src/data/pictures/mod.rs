//! Pictures of any size, from JPEG and PNG files, and how they become the square input of a model.

mod batch;
mod decode;
mod picture;
mod random_crop;
mod resize;
mod transform;

pub use batch::PictureBatcher;
pub(super) use decode::decode;
pub use picture::Picture;
pub use transform::Transform;
