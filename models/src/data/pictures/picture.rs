//! A picture of any size, with its class.

use crate::data::{CHANNELS, Labelled};

/// A colour picture of any size and its class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `width * height` pixels, row by row from the top; red, green and blue of each beside one another.
    pub pixels: Vec<u8>,
    /// The class.
    pub label: u16,
}

impl Picture {
    /// The part of it that begins at column `left` and row `top`, which lies inside.
    pub(super) fn part(
        &self,
        (left, top): (usize, usize),
        (width, height): (usize, usize),
    ) -> Self {
        let rows = self.pixels.chunks_exact(self.width * CHANNELS);
        let part = |row: &[u8]| row[left * CHANNELS..(left + width) * CHANNELS].to_vec();
        let pixels = rows.skip(top).take(height).flat_map(part).collect();
        Self {
            width,
            height,
            pixels,
            label: self.label,
        }
    }

    /// Mirrored from left to right.
    pub(super) fn flipped(mut self) -> Self {
        for row in self.pixels.chunks_exact_mut(self.width * CHANNELS) {
            row.reverse();
            // The colours of each pixel are reversed, too, until here.
            row.chunks_exact_mut(CHANNELS).for_each(<[u8]>::reverse);
        }
        self
    }
}

impl Labelled for Picture {
    fn label_mut(&mut self) -> &mut u16 {
        &mut self.label
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_and_flips_keep_the_colours_of_a_pixel() {
        let picture = Picture {
            width: 3,
            height: 2,
            pixels: (0..18).collect(),
            label: 7,
        };
        let part = picture.part((1, 1), (2, 1));
        assert_eq!((part.width, part.height, part.label), (2, 1, 7));
        assert_eq!(part.pixels, [12, 13, 14, 15, 16, 17]);
        assert_eq!(part.flipped().pixels, [15, 16, 17, 12, 13, 14]);
        assert_eq!(picture.clone().flipped().flipped(), picture);
    }
}
