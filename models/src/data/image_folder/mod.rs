//! Folders of images, with a folder for each class.

mod broken;
mod folder;
mod layout;
mod listing;
mod lists;
mod parts;
mod split;
mod transformed;

pub use broken::BrokenImage;
pub use folder::ImageFolder;
pub use split::TestShare;
pub use transformed::TransformedFolder;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
