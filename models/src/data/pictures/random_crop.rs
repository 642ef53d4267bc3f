//! The random part of an image that training sees, drawn from the seed, the epoch and the image's index.

use burn_dist::data::Stream;

/// Tries to find a part of the drawn shape that fits.
const TRIES: usize = 10;
/// The ratio of width to height, at least and at most.
const RATIO: (f64, f64) = (3.0 / 4.0, 4.0 / 3.0);
/// The share of the image's pixels, at least and at most.
const SHARE: (f32, f32) = (0.08, 1.0);

/// A part of an image, perhaps flipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RandomCrop {
    /// Column and row where it begins.
    pub(super) corner: (usize, usize),
    /// Its width and height.
    pub(super) size: (usize, usize),
    /// Whether it is mirrored from left to right.
    pub(super) flipped: bool,
}

impl RandomCrop {
    /// The part of an image of `width` x `height` pixels, always the same for a seed, an epoch and an index.
    pub(super) fn draw(
        (seed, epoch, index): (u64, u64, usize),
        (width, height): (usize, usize),
    ) -> Self {
        let mut stream = Stream::new(*b"resizcrp", seed, epoch, index as u64);
        let flipped = stream.coin();
        let area = (width * height) as f64;
        for _ in 0..TRIES {
            let wanted = area * f64::from(stream.between(SHARE.0, SHARE.1));
            let (low, high) = (RATIO.0.ln() as f32, RATIO.1.ln() as f32);
            let ratio = f64::from(stream.between(low, high)).exp();
            let size = (
                (wanted * ratio).sqrt().round_ties_even() as usize,
                (wanted / ratio).sqrt().round_ties_even() as usize,
            );
            if (1..=width).contains(&size.0) && (1..=height).contains(&size.1) {
                let mut place = |free: usize| stream.below(free as u64 + 1) as usize;
                let (top, left) = (place(height - size.1), place(width - size.0));
                return Self {
                    corner: (left, top),
                    size,
                    flipped,
                };
            }
        }
        Self::middle((width, height), flipped)
    }

    /// The largest part in the middle whose shape is allowed: for very long images.
    fn middle((width, height): (usize, usize), flipped: bool) -> Self {
        let ratio = width as f64 / height as f64;
        let size = if ratio < RATIO.0 {
            let rows = (width as f64 / RATIO.0).round_ties_even() as usize;
            (width, rows.clamp(1, height))
        } else if ratio > RATIO.1 {
            let columns = (height as f64 * RATIO.1).round_ties_even() as usize;
            (columns.clamp(1, width), height)
        } else {
            (width, height)
        };
        Self {
            corner: ((width - size.0) / 2, (height - size.1) / 2),
            size,
            flipped,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crops_lie_inside_and_have_the_share_and_shape_that_were_drawn() {
        let (width, height) = (400, 300);
        let all: Vec<_> = (0..3000)
            .map(|index| RandomCrop::draw((1, 2, index), (width, height)))
            .collect();
        let area = |crop: &RandomCrop| (crop.size.0 * crop.size.1) as f64 / (400.0 * 300.0);
        for crop in &all {
            assert!(crop.corner.0 + crop.size.0 <= width);
            assert!(crop.corner.1 + crop.size.1 <= height);
            let ratio = crop.size.0 as f64 / crop.size.1 as f64;
            assert!((0.74..1.35).contains(&ratio), "{crop:?}");
            assert!((0.078..=1.0).contains(&area(crop)), "{crop:?}");
        }
        // Shares are uniform, but for those near 1 that fit less often: torchvision's have this mean.
        let mean = all.iter().map(area).sum::<f64>() / 3000.0;
        assert!((0.415..0.455).contains(&mean), "{mean}");
        let flips = all.iter().filter(|crop| crop.flipped).count();
        assert!((1350..1650).contains(&flips), "{flips}");
    }

    #[test]
    fn a_crop_depends_on_seed_epoch_and_index_only() {
        let of = |seed, epoch| {
            let crop = move |index| RandomCrop::draw((seed, epoch, index), (90, 70));
            (0..20).map(crop).collect::<Vec<_>>()
        };
        assert_eq!(of(1, 2), of(1, 2));
        assert_ne!(of(1, 2), of(1, 3));
        assert_ne!(of(1, 2), of(2, 2));
    }

    #[test]
    fn very_long_images_keep_their_middle() {
        let long = RandomCrop::draw((0, 0, 0), (3000, 30));
        assert_eq!((long.corner, long.size), ((1480, 0), (40, 30)));
        let high = RandomCrop::draw((0, 0, 0), (1, 900));
        assert_eq!(high.size, (1, 1));
        let one = RandomCrop::draw((0, 0, 0), (1, 1));
        assert_eq!((one.corner, one.size), ((0, 0), (1, 1)));
    }
}
