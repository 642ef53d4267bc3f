//! Random crops and flips, drawn from the seed, the epoch and the sample's index instead of a running generator:
//! they do not depend on which rank prepares an image, and in what order.

use burn_dist::data::Stream;

use super::SIDE;

/// The most that a crop is shifted, in pixels.
const PADDING: usize = 4;

/// A shift of the image within a border, perhaps with a horizontal flip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Crop {
    /// The window's corner in the image with its border; `PADDING` is the image as it is.
    left: usize,
    top: usize,
    flipped: bool,
}

impl Crop {
    /// No shift and no flip.
    pub(super) const NONE: Self = Self {
        left: PADDING,
        top: PADDING,
        flipped: false,
    };

    /// The crop of a sample in an epoch, always the same one.
    pub(super) fn random(seed: u64, epoch: u64, index: usize) -> Self {
        let mut stream = Stream::new(*b"cropflip", seed, epoch, index as u64);
        let places = 2 * PADDING as u64 + 1;
        Self {
            left: stream.below(places) as usize,
            top: stream.below(places) as usize,
            flipped: stream.coin(),
        }
    }

    /// The row of the image that output row `y` shows; nothing for the border.
    pub(super) fn row(self, y: usize) -> Option<usize> {
        inside(y + self.top)
    }

    /// The column of the image that output column `x` shows; nothing for the border.
    pub(super) fn column(self, x: usize) -> Option<usize> {
        let x = if self.flipped { SIDE - 1 - x } else { x };
        inside(x + self.left)
    }
}

fn inside(bordered: usize) -> Option<usize> {
    bordered.checked_sub(PADDING).filter(|&at| at < SIDE)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn without_augmentation_every_pixel_keeps_its_position() {
        assert!((0..SIDE).all(|at| Crop::NONE.row(at) == Some(at)));
        assert!((0..SIDE).all(|at| Crop::NONE.column(at) == Some(at)));
    }

    #[test]
    fn a_crop_shifts_and_then_flips() {
        let crop = Crop {
            left: 0,
            top: 8,
            flipped: true,
        };
        assert_eq!(
            (crop.row(0), crop.row(27), crop.row(28)),
            (Some(4), Some(31), None)
        );
        assert_eq!(
            (crop.column(0), crop.column(27), crop.column(28)),
            (Some(27), Some(0), None)
        );
    }

    #[test]
    fn every_crop_occurs_and_depends_on_seed_epoch_and_index_only() {
        let crop = Crop::random(1, 2, 3);
        assert_eq!(crop, Crop::random(1, 2, 3));
        let all = (0..4000).map(|index| Crop::random(1, 2, index));
        let all: HashSet<_> = all.map(|c| (c.left, c.top, c.flipped)).collect();
        assert_eq!(all.len(), 9 * 9 * 2);
        let of = |seed, epoch| (0..50).map(move |index| Crop::random(seed, epoch, index));
        assert!(!of(1, 2).eq(of(1, 3)));
        assert!(!of(1, 2).eq(of(4, 2)));
    }
}
