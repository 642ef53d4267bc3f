//! What is done to an image before a model sees it, as `preprocessor_config.json` says.

use serde_json::{Map, Value, json};
use thiserror::Error;

/// The largest height or width, in pixels.
const MOST: usize = 1 << 14;

/// How images become the input of a model: their size, and the mean and deviation of their colours.
///
/// Pillow resizes, antialiased; then a square is cut from the middle if one is asked for, and each channel becomes
/// `(byte * rescale - mean) / std`.
///
/// # Example
///
/// ```
/// use burn_dist_models::hf::{Preprocessor, Resample, Resize};
///
/// let text = r#"{"size": {"height": 384, "width": 384}, "resample": 3, "image_mean": [0.5, 0.5, 0.5]}"#;
/// let preprocessor = Preprocessor::from_hf(text)?;
/// assert_eq!(preprocessor.resize, Some(Resize::Square(384)));
/// assert_eq!((preprocessor.side(), preprocessor.resample), (Some(384), Resample::Bicubic));
///
/// let mistake = Preprocessor::from_hf(r#"{"size": {"height": 384, "width": 224}}"#).unwrap_err();
/// assert_eq!(
///     mistake.to_string(),
///     "`size` is {\"height\":384,\"width\":224}: expected a square, as the model's images are"
/// );
/// # Ok::<(), burn_dist_models::hf::PreprocessorError>(())
/// ```
///
/// # Source
///
/// `ViTImageProcessor` of Hugging Face's `transformers`.
#[derive(Debug, Clone, PartialEq)]
pub struct Preprocessor {
    /// How the image is scaled; `None` if it has to have its size already.
    pub resize: Option<Resize>,
    /// The filter of the scaling.
    pub resample: Resample,
    /// The height and width of the part in the middle that is cut out, if one is.
    pub crop: Option<usize>,
    /// What a byte is multiplied by: 1/255, or 1.
    pub rescale: f32,
    /// What is subtracted from each channel.
    pub mean: [f32; 3],
    /// What each channel is divided by.
    pub std: [f32; 3],
}

/// The size that an image is scaled to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resize {
    /// This height and width, whatever its shape was.
    Square(usize),
    /// This length of the shorter side; the other keeps its ratio.
    Shorter(usize),
}

/// The filters of Pillow, each with its number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resample {
    /// The nearest pixel.
    Nearest = 0,
    /// Lanczos' window of three pixels.
    Lanczos = 1,
    /// Linear between two pixels, wider where an image shrinks.
    Bilinear = 2,
    /// Cubic between four pixels.
    Bicubic = 3,
    /// The mean of what an output pixel covers.
    Box = 4,
    /// Hamming's window.
    Hamming = 5,
}

/// What a `preprocessor_config.json` has that is not understood.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PreprocessorError {
    /// It is no JSON object.
    #[error("expected a JSON object, found {0}")]
    Json(String),
    /// A field has another value than it may have.
    #[error("`{field}` is {found}: expected {expected}")]
    Field {
        /// The field.
        field: &'static str,
        /// What it holds.
        found: String,
        /// What it should hold.
        expected: &'static str,
    },
}

/// Means and deviations of ImageNet's training images by channel.
const IMAGENET: ([f32; 3], [f32; 3]) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);

impl Preprocessor {
    /// ImageNet's usual one, for images of `side` pixels: the shorter side becomes 8/7 of that (256 for 224), and the
    /// middle is cut out.
    ///
    /// # Source
    ///
    /// torchvision's `ImageClassification` presets.
    #[must_use]
    pub fn imagenet(side: usize) -> Self {
        let (mean, std) = IMAGENET;
        Self {
            resize: Some(Resize::Shorter((side * 8).div_ceil(7))),
            resample: Resample::Bilinear,
            crop: Some(side),
            rescale: 1.0 / 255.0,
            mean,
            std,
        }
    }

    /// What a `preprocessor_config.json` says; what it leaves out is as in `ViTImageProcessor`: 224 pixels, bilinear,
    /// mean and deviation 0.5.
    ///
    /// # Errors
    ///
    /// [`PreprocessorError`] for a size that is no square, and for values that are not understood.
    pub fn from_hf(text: &str) -> Result<Self, PreprocessorError> {
        let fields = Fields::parse(text)?;
        let size = fields.size("size")?.unwrap_or(Resize::Square(224));
        let crop = match fields.size("crop_size")? {
            _ if !fields.switch("do_center_crop", false)? => None,
            Some(Resize::Square(side)) => Some(side),
            _ => return Err(fields.wrong("crop_size", "a square")),
        };
        let crop = match (size, crop) {
            // No batch could be made of the images as they are then.
            (Resize::Shorter(side), None) => Some(side),
            (_, crop) => crop,
        };
        let normalize = fields.switch("do_normalize", true)?;
        let channels = |field, usual| {
            if normalize {
                fields.channels(field)
            } else {
                Ok([usual; 3])
            }
        };
        Ok(Self {
            resize: fields.switch("do_resize", true)?.then_some(size),
            resample: fields.resample()?,
            crop,
            rescale: if fields.switch("do_rescale", true)? {
                fields.number("rescale_factor", 1.0 / 255.0)?
            } else {
                1.0
            },
            mean: channels("image_mean", 0.0)?,
            std: channels("image_std", 1.0)?,
        })
    }

    /// The height and width that a model gets, if it does not depend on the image.
    #[must_use]
    pub fn side(&self) -> Option<usize> {
        match (self.crop, self.resize) {
            (Some(side), _) | (None, Some(Resize::Square(side))) => Some(side),
            _ => None,
        }
    }

    /// The same for images of another height and width; a margin that is cut off keeps its share.
    #[must_use]
    pub fn with_side(mut self, side: usize) -> Self {
        let before = self.side().unwrap_or(side);
        let scaled = |x: usize| (x * side + before / 2) / before.max(1);
        self.resize = Some(match self.resize {
            Some(Resize::Shorter(shorter)) => Resize::Shorter(scaled(shorter)),
            Some(Resize::Square(square)) => Resize::Square(scaled(square)),
            None => Resize::Square(side),
        });
        self.crop = self.crop.map(|_| side);
        self
    }

    /// The `preprocessor_config.json` of it, for `ViTImageProcessor`.
    #[must_use]
    pub fn to_hf(&self) -> String {
        let square = |side: usize| json!({"height": side, "width": side});
        let size = match self.resize {
            Some(Resize::Shorter(side)) => json!({ "shortest_edge": side }),
            Some(Resize::Square(side)) => square(side),
            None => square(self.side().unwrap_or(224)),
        };
        let mut fields = json!({
            "image_processor_type": "ViTImageProcessor",
            "do_resize": self.resize.is_some(),
            "size": size,
            "resample": self.resample as u8,
            "do_center_crop": self.crop.is_some(),
            "do_rescale": true,
            "rescale_factor": f64::from(self.rescale),
            "do_normalize": true,
            "image_mean": self.mean,
            "image_std": self.std,
        });
        if let (Some(side), Some(fields)) = (self.crop, fields.as_object_mut()) {
            fields.insert("crop_size".into(), square(side));
        }
        format!("{fields:#}\n")
    }
}

/// The fields of the file.
struct Fields(Map<String, Value>);

impl Fields {
    fn parse(text: &str) -> Result<Self, PreprocessorError> {
        match serde_json::from_str(text) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(_) => Err(PreprocessorError::Json("another value".into())),
            Err(error) => Err(PreprocessorError::Json(error.to_string())),
        }
    }

    fn value(&self, field: &str) -> Option<&Value> {
        self.0.get(field).filter(|value| !value.is_null())
    }

    fn wrong(&self, field: &'static str, expected: &'static str) -> PreprocessorError {
        let found = self
            .value(field)
            .map_or("not there".into(), Value::to_string);
        let found = found.chars().take(100).collect();
        PreprocessorError::Field {
            field,
            found,
            expected,
        }
    }

    fn switch(&self, field: &'static str, usual: bool) -> Result<bool, PreprocessorError> {
        let Some(value) = self.value(field) else {
            return Ok(usual);
        };
        value
            .as_bool()
            .ok_or_else(|| self.wrong(field, "true or false"))
    }

    fn number(&self, field: &'static str, usual: f32) -> Result<f32, PreprocessorError> {
        let Some(value) = self.value(field) else {
            return Ok(usual);
        };
        let number = value.as_f64().filter(|x| *x > 0.0 && x.is_finite());
        number
            .map(|x| x as f32)
            .ok_or_else(|| self.wrong(field, "a number above 0"))
    }

    /// One number for all channels, or three.
    fn channels(&self, field: &'static str) -> Result<[f32; 3], PreprocessorError> {
        let wrong = || self.wrong(field, "three numbers, no deviation being 0");
        let number = |value: &Value| value.as_f64().map(|x| x as f32);
        let found = match self.value(field) {
            None => return Ok([0.5; 3]),
            Some(Value::Array(all)) => all.iter().map(number).collect::<Option<Vec<f32>>>(),
            Some(one) => number(one).map(|x| vec![x; 3]),
        };
        let found: Option<[f32; 3]> = found.and_then(|all| all.try_into().ok());
        found
            .filter(|all| field != "image_std" || all.iter().all(|x| *x > 0.0))
            .ok_or_else(wrong)
    }

    /// A whole number, `{height, width}` or `{shortest_edge}`.
    fn size(&self, field: &'static str) -> Result<Option<Resize>, PreprocessorError> {
        let Some(value) = self.value(field) else {
            return Ok(None);
        };
        let expected = "a number of pixels, {height, width} or {shortest_edge}";
        let pixels = |value: &Value| {
            let pixels = value.as_u64().and_then(|x| usize::try_from(x).ok());
            pixels.filter(|x| (1..=MOST).contains(x))
        };
        let part = |name: &str| value.get(name).and_then(pixels);
        let found = match (pixels(value), part("height"), part("width")) {
            (Some(side), ..) => Some(Resize::Square(side)),
            (_, Some(height), Some(width)) if height == width => Some(Resize::Square(height)),
            (_, Some(_), Some(_)) => {
                return Err(self.wrong(field, "a square, as the model's images are"));
            }
            _ if value.get("longest_edge").is_some() => None,
            _ => part("shortest_edge").map(Resize::Shorter),
        };
        found.map(Some).ok_or_else(|| self.wrong(field, expected))
    }

    fn resample(&self) -> Result<Resample, PreprocessorError> {
        use Resample::{Bicubic, Bilinear, Box, Hamming, Lanczos, Nearest};
        let Some(value) = self.value("resample") else {
            return Ok(Bilinear);
        };
        [Nearest, Lanczos, Bilinear, Bicubic, Box, Hamming]
            .into_iter()
            .find(|filter| value.as_u64() == Some(*filter as u64))
            .ok_or_else(|| self.wrong("resample", "the number of a filter of Pillow, 0 to 5"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(text: &str) -> Preprocessor {
        Preprocessor::from_hf(text).unwrap()
    }

    #[test]
    fn each_form_of_a_size_is_read() {
        for (text, resize, side) in [
            ("{}", Resize::Square(224), 224),
            (r#"{"size": 96}"#, Resize::Square(96), 96),
            (
                r#"{"size": {"height": 8, "width": 8}}"#,
                Resize::Square(8),
                8,
            ),
            (
                r#"{"size": {"shortest_edge": 40}}"#,
                Resize::Shorter(40),
                40,
            ),
            (
                r#"{"size": 256, "do_center_crop": true, "crop_size": {"height": 224, "width": 224}}"#,
                Resize::Square(256),
                224,
            ),
            (
                r#"{"size": {"shortest_edge": 256}, "do_center_crop": true, "crop_size": 224}"#,
                Resize::Shorter(256),
                224,
            ),
            (
                r#"{"size": 256, "crop_size": 224}"#,
                Resize::Square(256),
                256,
            ),
        ] {
            let found = read(text);
            assert_eq!(
                (found.resize, found.side()),
                (Some(resize), Some(side)),
                "{text}"
            );
        }
        let as_it_is = read(r#"{"do_resize": false, "size": 32}"#);
        assert_eq!((as_it_is.resize, as_it_is.side()), (None, None));
    }

    #[test]
    fn colours_are_scaled_as_the_file_says() {
        let usual = read("{}");
        assert_eq!((usual.mean, usual.std), ([0.5; 3], [0.5; 3]));
        assert_eq!(usual.rescale, 1.0 / 255.0);
        let text = r#"{"image_mean": [0.1, 0.2, 0.3], "image_std": 0.5, "rescale_factor": 0.5}"#;
        let other = read(text);
        assert_eq!((other.mean, other.std), ([0.1, 0.2, 0.3], [0.5; 3]));
        assert_eq!(other.rescale, 0.5);
        let none = read(r#"{"image_mean": [9, 9, 9], "do_normalize": false, "do_rescale": false}"#);
        assert_eq!(
            (none.mean, none.std, none.rescale),
            ([0.0; 3], [1.0; 3], 1.0)
        );
    }

    #[test]
    fn another_side_keeps_the_share_of_the_margin() {
        let usual = Preprocessor::imagenet(224);
        assert_eq!(usual.resize, Some(Resize::Shorter(256)));
        let larger = usual.with_side(384);
        assert_eq!(larger.resize, Some(Resize::Shorter(439)));
        assert_eq!(larger.side(), Some(384));
        let square = read(r#"{"size": 224}"#).with_side(64);
        assert_eq!(
            (square.resize, square.crop),
            (Some(Resize::Square(64)), None)
        );
    }

    #[test]
    fn what_is_written_is_read_again() {
        for text in ["{}", r#"{"size": {"shortest_edge": 40}, "resample": 3}"#] {
            let once = read(text);
            assert_eq!(read(&once.to_hf()), once, "{}", once.to_hf());
        }
        let imagenet = Preprocessor::imagenet(32);
        assert_eq!(read(&imagenet.to_hf()), imagenet);
    }

    #[test]
    fn each_error_names_its_field() {
        for (text, field) in [
            (r#"{"size": 0}"#, "`size` is 0"),
            (r#"{"size": {"longest_edge": 9}}"#, "`size` is "),
            (r#"{"size": {"height": 3}}"#, "`size` is "),
            (r#"{"resample": 6}"#, "`resample` is 6"),
            (r#"{"image_mean": [1, 2]}"#, "`image_mean` is [1,2]"),
            (r#"{"image_std": [1, 0, 1]}"#, "`image_std` is [1,0,1]"),
            (r#"{"do_resize": 3}"#, "`do_resize` is 3"),
            (r#"{"rescale_factor": -1}"#, "`rescale_factor` is -1"),
            (r#"{"do_center_crop": true}"#, "`crop_size` is not there"),
            ("[]", "expected a JSON object"),
            ("{", "expected a JSON object"),
        ] {
            let message = Preprocessor::from_hf(text).unwrap_err().to_string();
            assert!(message.contains(field), "{text}: {message}");
        }
    }
}
