//! Scaling of pictures, as Pillow scales them.

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};

use super::picture::Picture;
use crate::hf::Resample;

/// The picture at another size; antialiased where it shrinks. The error says why that cannot be.
///
/// The columns are scaled first and the rows then, with bytes between, as Pillow does; the crate alone begins with the
/// rows, which differs by several steps at edges.
pub(super) fn resized(
    picture: &Picture,
    (width, height): (usize, usize),
    filter: Resample,
) -> Result<Picture, String> {
    let narrowed = scaled(picture, (width, picture.height), filter);
    narrowed
        .and_then(|narrowed| scaled(&narrowed, (width, height), filter))
        .map_err(|cause| {
            let (columns, rows) = (picture.width, picture.height);
            format!("{cause}, from {columns} x {rows} to {width} x {height} pixels")
        })
}

fn scaled(
    picture: &Picture,
    (width, height): (usize, usize),
    filter: Resample,
) -> Result<Picture, Box<dyn std::error::Error>> {
    let number = |x: usize| u32::try_from(x);
    let (columns, rows) = (number(picture.width)?, number(picture.height)?);
    let source = ImageRef::new(columns, rows, &picture.pixels, PixelType::U8x3)?;
    let mut target = Image::new(number(width)?, number(height)?, PixelType::U8x3);
    let options = ResizeOptions::new().resize_alg(algorithm(filter));
    Resizer::new().resize(&source, &mut target, &options)?;
    Ok(Picture {
        width,
        height,
        pixels: target.into_vec(),
        label: picture.label,
    })
}

fn algorithm(filter: Resample) -> ResizeAlg {
    ResizeAlg::Convolution(match filter {
        Resample::Nearest => return ResizeAlg::Nearest,
        Resample::Lanczos => FilterType::Lanczos3,
        Resample::Bilinear => FilterType::Bilinear,
        Resample::Bicubic => FilterType::CatmullRom,
        Resample::Box => FilterType::Box,
        Resample::Hamming => FilterType::Hamming,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::transform::golden::Golden;
    use super::*;

    /// Both round to bytes after the rows and again after the columns, with weights of 22 bits there and of 14 or so
    /// here.
    #[test]
    fn sizes_and_filters_agree_with_pillow_within_one_step() {
        let golden = Golden::read();
        let source = golden.picture("source");
        for (name, filter) in [
            ("nearest", Resample::Nearest),
            ("lanczos", Resample::Lanczos),
            ("bilinear", Resample::Bilinear),
            ("bicubic", Resample::Bicubic),
            ("box", Resample::Box),
            ("hamming", Resample::Hamming),
        ] {
            for (height, width) in [(16, 16), (20, 24), (50, 61)] {
                let expected = golden.picture(&format!("resized/{name}/{height}x{width}"));
                let found = resized(&source, (width, height), filter).unwrap();
                let off = expected.pixels.iter().zip(&found.pixels);
                let worst = off.map(|(a, b)| a.abs_diff(*b)).max().unwrap();
                assert!(worst <= 1, "{name} {height}x{width}: {worst}");
            }
        }
    }

    #[test]
    fn what_cannot_be_scaled_is_an_error() {
        let short = Picture {
            width: 4,
            height: 4,
            pixels: vec![0; 5],
            label: 0,
        };
        let message = resized(&short, (2, 2), Resample::Bilinear).unwrap_err();
        assert!(message.ends_with("from 4 x 4 to 2 x 2 pixels"), "{message}");
    }
}
