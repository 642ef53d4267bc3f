//! JPEG and PNG files become pictures.

use image::{ImageFormat, ImageReader, Limits};
use std::io::Cursor;

use super::picture::Picture;

/// The most memory that one image may take while it is decoded, so that a file of a few bytes cannot claim all there is.
const MOST_BYTES: u64 = 512 << 20;

/// The picture in a file, as its content says and not its name; the error says what is wrong with it.
///
/// Grey, palette and 16 bits become three channels of 8 bits, alpha is dropped, and a rotation in a camera's notes is
/// not applied: as Pillow's `convert("RGB")` does.
pub(in crate::data) fn decode(bytes: &[u8], label: u16) -> Result<Picture, String> {
    let mut reader = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|error| error.to_string())?;
    match reader.format() {
        // The decoder fills what is missing with grey, without an error.
        Some(ImageFormat::Jpeg) if !has_jpeg_end(bytes) => {
            return Err("a JPEG that ends before its end marker".into());
        }
        Some(ImageFormat::Jpeg | ImageFormat::Png) => {}
        Some(other) => return Err(format!("{other:?}, which is not read: convert it")),
        None if bytes.is_empty() => return Err("an empty file".into()),
        None => return Err("neither".into()),
    }
    let mut limits = Limits::default();
    limits.max_alloc = Some(MOST_BYTES);
    reader.limits(limits);
    let image = reader.decode().map_err(|error| error.to_string())?;
    let image = image.into_rgb8();
    let (width, height) = image.dimensions();
    if width == 0 || height == 0 {
        return Err(format!("an image of {width} x {height} pixels"));
    }
    Ok(Picture {
        width: width as usize,
        height: height as usize,
        pixels: image.into_raw(),
        label,
    })
}

/// Whether the segments and scans of a JPEG end with its end marker; what comes behind does not matter.
fn has_jpeg_end(bytes: &[u8]) -> bool {
    // Behind the start marker. Thumbnails have end markers, too, but lie within segments.
    let mut at = 2;
    let mut in_scan = false;
    loop {
        let Some(&[first, marker]) = bytes.get(at..at + 2) else {
            return false;
        };
        match (first, marker) {
            (0xff, 0xd9) => return true,
            // Fill bytes before a marker.
            (0xff, 0xff) => at += 1,
            // Of a scan's data 0xff is written as 0xff00; restart markers have no length.
            (0xff, 0x00 | 0x01 | 0xd0..=0xd7) => at += 2,
            (0xff, _) => {
                let Some(&[high, low]) = bytes.get(at + 2..at + 4) else {
                    return false;
                };
                in_scan = marker == 0xda;
                at += 2 + usize::from(u16::from_be_bytes([high, low]));
            }
            _ if in_scan => at += 1,
            _ => return false,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use image::{DynamicImage, GrayImage, ImageBuffer, Luma, LumaA, Rgb, RgbImage, Rgba};

    fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    fn png(image: impl Into<DynamicImage>) -> Vec<u8> {
        encoded(&image.into(), ImageFormat::Png)
    }

    #[test]
    fn every_kind_of_png_becomes_three_channels_of_bytes() {
        let pixel = |bytes: &[u8]| decode(bytes, 0).unwrap().pixels;
        assert_eq!(pixel(&png(GrayImage::from_pixel(1, 1, Luma([9])))), [9; 3]);
        let alpha = ImageBuffer::from_pixel(1, 1, Rgba([1_u8, 2, 3, 0]));
        assert_eq!(pixel(&png(alpha)), [1, 2, 3]);
        let grey = ImageBuffer::from_pixel(1, 1, LumaA([7_u8, 128]));
        assert_eq!(pixel(&png(grey)), [7; 3]);
        let deep = ImageBuffer::from_pixel(1, 1, Rgb([0x1212_u16, 0x3434, 0xffff]));
        assert_eq!(pixel(&png(deep)), [0x12, 0x34, 0xff]);
    }

    /// A PNG of 2 x 1 pixels with a palette, written by hand as the encoder writes none.
    #[test]
    fn a_palette_becomes_its_colours() {
        let chunk = |name: &[u8], data: &[u8]| {
            let named = [name, data].concat();
            let length = (data.len() as u32).to_be_bytes();
            let check = crc32fast::hash(&named).to_be_bytes();
            [&length[..], &named, &check].concat()
        };
        // One row: no filter, and the numbers 1 and 0. Stored, not compressed.
        let row = [0, 1, 0];
        let adler = [0, 5, 0, 2];
        let stored = [&[0x78, 0x01, 1, 3, 0, 0xfc, 0xff][..], &row, &adler].concat();
        let bytes = [
            &b"\x89PNG\r\n\x1a\n"[..],
            &chunk(b"IHDR", &[0, 0, 0, 2, 0, 0, 0, 1, 8, 3, 0, 0, 0]),
            &chunk(b"PLTE", &[10, 20, 30, 40, 50, 60]),
            &chunk(b"IDAT", &stored),
            &chunk(b"IEND", &[]),
        ]
        .concat();
        let picture = decode(&bytes, 3).unwrap();
        assert_eq!((picture.width, picture.height, picture.label), (2, 1, 3));
        assert_eq!(picture.pixels, [40, 50, 60, 10, 20, 30]);
    }

    #[test]
    fn jpegs_in_colour_and_grey_are_read_closely() {
        let colours = RgbImage::from_fn(40, 24, |x, y| Rgb([5 * x as u8, 9 * y as u8, 128]));
        let grey = GrayImage::from_fn(17, 9, |x, y| Luma([(9 * x + y) as u8]));
        for image in [DynamicImage::from(colours), DynamicImage::from(grey)] {
            let picture = decode(&encoded(&image, ImageFormat::Jpeg), 0).unwrap();
            let expected = image.into_rgb8();
            let size = (picture.width as u32, picture.height as u32);
            assert_eq!(size, expected.dimensions());
            let off = |(a, b): (&u8, &u8)| f64::from(a.abs_diff(*b));
            let sum: f64 = picture.pixels.iter().zip(expected.as_raw()).map(off).sum();
            assert!(sum / (picture.pixels.len() as f64) < 6.0, "{sum}");
        }
    }

    #[test]
    fn a_file_that_is_cut_anywhere_is_an_error_and_never_a_panic() {
        let image = RgbImage::from_fn(33, 20, |x, y| Rgb([(x * y) as u8, x as u8, y as u8]));
        let image = DynamicImage::from(image);
        for format in [ImageFormat::Jpeg, ImageFormat::Png] {
            let whole = encoded(&image, format);
            assert!(decode(&whole, 0).is_ok());
            // Behind the end anything may stand; the last 12 bytes of a PNG say only that it ends.
            assert!(decode(&[&whole[..], b"tail"].concat(), 0).is_ok());
            for len in 0..whole.len() - 12 {
                assert!(decode(&whole[..len], 0).is_err(), "{format:?} {len}");
            }
        }
        let jpeg = encoded(&image, ImageFormat::Jpeg);
        let cut = decode(&jpeg[..jpeg.len() - 2], 0).unwrap_err();
        assert_eq!(cut, "a JPEG that ends before its end marker");
    }

    #[test]
    fn what_is_neither_jpeg_nor_png_is_named() {
        assert_eq!(decode(b"", 0).unwrap_err(), "an empty file");
        assert_eq!(decode(b"some text", 0).unwrap_err(), "neither");
        let gif = decode(b"GIF89a\x01\0\x01\0", 0).unwrap_err();
        assert_eq!(gif, "Gif, which is not read: convert it");
    }
}
