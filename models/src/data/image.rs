//! One image, as the files of CIFAR-10 have it.

/// Colours of an image: red, green, blue.
pub const CHANNELS: usize = 3;
/// Height and width of an image.
pub const SIDE: usize = 32;
/// Bytes of an image.
pub const PIXELS: usize = CHANNELS * SIDE * SIDE;

/// A 32x32 colour image and its class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The planes red, green and blue, each row by row from the top.
    pub pixels: [u8; PIXELS],
    /// The class.
    pub label: u16,
}
