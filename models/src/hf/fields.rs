//! The fields of a `config.json`: each with its default, and an error for values that the models here do not
//! support.

use serde_json::{Map, Value};
use thiserror::Error;

use crate::config::{self, ConfigError};

/// Why a `config.json` describes none of our models.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum HfConfigError {
    /// It is no JSON object.
    #[error("config.json: expected a JSON object, found {found}")]
    Json {
        /// What the parser said.
        found: String,
    },
    /// A field has a value of another kind.
    #[error("config.json: `{field}` is {found}: expected {expected}")]
    Field {
        /// The field.
        field: &'static str,
        /// What it holds.
        found: String,
        /// What it should hold.
        expected: &'static str,
    },
    /// A field has a value that the model here does not support.
    #[error("config.json: `{field}` is {found}: this model supports only {supported}")]
    Unsupported {
        /// The field.
        field: &'static str,
        /// What it holds.
        found: String,
        /// The supported values.
        supported: String,
    },
    /// The sizes describe no model.
    #[error("config.json: {0}")]
    Sizes(#[from] ConfigError),
}

/// Characters of a value that a message shows, as a value of a foreign file may have any length.
const SHOWN: usize = 200;

fn shown(value: &impl std::fmt::Display) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN) {
        None => text,
        Some((end, _)) => format!("{}... ({} bytes in all)", &text[..end], text.len()),
    }
}

/// A parsed `config.json`.
#[derive(Debug)]
pub(crate) struct Fields(Map<String, Value>);

impl Fields {
    pub(crate) fn parse(text: &str) -> Result<Self, HfConfigError> {
        match serde_json::from_str(text) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(other) => Err(HfConfigError::Json {
                found: shown(&other),
            }),
            Err(error) => Err(HfConfigError::Json {
                found: shown(&error),
            }),
        }
    }

    /// A field's value; null counts as missing.
    fn value(&self, field: &str) -> Option<&Value> {
        self.0.get(field).filter(|value| !value.is_null())
    }

    pub(crate) fn size(
        &self,
        field: &'static str,
        otherwise: usize,
    ) -> Result<usize, HfConfigError> {
        let number = |value: &Value| value.as_u64().and_then(|x| usize::try_from(x).ok());
        let size = self.read(field, otherwise, number, "a whole number")?;
        let most = config::most(field);
        // The error names the field as the file does.
        if size > most {
            Err(ConfigError::TooLarge { field, size, most }.into())
        } else {
            Ok(size)
        }
    }

    pub(crate) fn number(&self, field: &'static str, otherwise: f64) -> Result<f64, HfConfigError> {
        self.read(field, otherwise, Value::as_f64, "a number")
    }

    fn read<T>(
        &self,
        field: &'static str,
        otherwise: T,
        read: impl Fn(&Value) -> Option<T>,
        expected: &'static str,
    ) -> Result<T, HfConfigError> {
        let Some(value) = self.value(field) else {
            return Ok(otherwise);
        };
        read(value).ok_or_else(|| HfConfigError::Field {
            field,
            found: shown(value),
            expected,
        })
    }

    /// A text that must be one of `supported`; the first is the default.
    pub(crate) fn one_of(
        &self,
        field: &'static str,
        supported: &[&'static str],
    ) -> Result<&'static str, HfConfigError> {
        let Some(value) = self.value(field) else {
            return Ok(supported.first().copied().unwrap_or_default());
        };
        let found = supported.iter().find(|name| value.as_str() == Some(name));
        found.copied().ok_or_else(|| HfConfigError::Unsupported {
            field,
            found: shown(value),
            supported: supported.join(" or "),
        })
    }

    /// Checks that a boolean is `supported`, which is also its default.
    pub(crate) fn switch(&self, field: &'static str, supported: bool) -> Result<(), HfConfigError> {
        match self.value(field) {
            Some(value) if *value != Value::Bool(supported) => Err(HfConfigError::Unsupported {
                field,
                found: shown(value),
                supported: supported.to_string(),
            }),
            _ => Ok(()),
        }
    }

    /// The number of classes: that of the named labels, or else two.
    pub(crate) fn classes(&self) -> Result<usize, HfConfigError> {
        let named = self.read(
            "id2label",
            None,
            |value| value.as_object().map(|labels| Some(labels.len())),
            "an object from number to label",
        )?;
        match named {
            Some(labels) => Ok(labels),
            None => self.size("num_labels", 2),
        }
    }
}

/// The classes that a `config.json` names, by number; `None` if it names none, or only as `LABEL_0` and
/// so on, which says nothing.
///
/// # Errors
///
/// [`HfConfigError`] if they are not numbered from 0 without a gap.
///
/// # Example
///
/// ```
/// use burn_dist_models::hf::class_names;
///
/// let names = class_names(r#"{"id2label": {"1": "dog", "0": "cat"}}"#)?;
/// assert_eq!(names, Some(vec!["cat".to_string(), "dog".to_string()]));
/// assert_eq!(class_names(r#"{"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}"#)?, None);
/// # Ok::<(), burn_dist_models::hf::HfConfigError>(())
/// ```
pub fn class_names(text: &str) -> Result<Option<Vec<String>>, HfConfigError> {
    const FIELD: &str = "id2label";
    let fields = Fields::parse(text)?;
    let Some(labels) = fields.value(FIELD) else {
        return Ok(None);
    };
    let expected = "an object from the numbers 0, 1, .. to labels";
    let wrong = || HfConfigError::Field {
        field: FIELD,
        found: shown(labels),
        expected,
    };
    let labels = labels.as_object().ok_or_else(wrong)?;
    let name = |number: usize| labels.get(&number.to_string())?.as_str().map(String::from);
    let names: Option<Vec<String>> = (0..labels.len()).map(name).collect();
    let names = names.ok_or_else(wrong)?;
    let says_nothing = names
        .iter()
        .enumerate()
        .all(|(n, name)| *name == format!("LABEL_{n}"));
    Ok((!says_nothing).then_some(names))
}

/// A `config.json` with these names of its classes.
///
/// # Errors
///
/// [`HfConfigError`] if the text is no JSON object.
pub fn with_classes(text: &str, names: &[String]) -> Result<String, HfConfigError> {
    let Fields(mut fields) = Fields::parse(text)?;
    let to_label = names.iter().enumerate();
    let to_label = to_label.map(|(class, name)| (class.to_string(), name.clone().into()));
    let to_class = names.iter().enumerate();
    let to_class = to_class.map(|(class, name)| (name.clone(), class.into()));
    fields.insert("id2label".into(), Value::Object(to_label.collect()));
    fields.insert("label2id".into(), Value::Object(to_class.collect()));
    Ok(format!("{:#}\n", Value::Object(fields)))
}

/// The fields that name so many classes.
pub(crate) fn labels(classes: usize) -> [(&'static str, Value); 2] {
    let name = |class: usize| format!("LABEL_{class}");
    let to_label = (0..classes).map(|class| (class.to_string(), name(class).into()));
    let to_class = (0..classes).map(|class| (name(class), class.into()));
    [
        ("id2label", Value::Object(to_label.collect())),
        ("label2id", Value::Object(to_class.collect())),
    ]
}

/// A `config.json` of these fields.
pub(crate) fn written(fields: impl IntoIterator<Item = (&'static str, Value)>) -> String {
    let fields = fields
        .into_iter()
        .map(|(field, value)| (field.to_owned(), value));
    format!("{:#}\n", Value::Object(fields.collect()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Fields {
        Fields::parse(text).unwrap()
    }

    #[test]
    fn missing_and_null_fields_have_their_default() {
        let fields = fields(r#"{"width": null, "rate": 0.5, "act": "gelu", "labels": 3}"#);
        assert_eq!(fields.size("width", 7), Ok(7));
        assert_eq!(fields.size("depth", 8), Ok(8));
        assert_eq!(fields.number("rate", 0.0), Ok(0.5));
        assert_eq!(fields.one_of("act", &["gelu"]), Ok("gelu"));
        assert_eq!(fields.one_of("other", &["absolute"]), Ok("absolute"));
        assert_eq!(fields.switch("bias", true), Ok(()));
        assert_eq!(fields.classes(), Ok(2));
    }

    #[test]
    fn class_names_are_ordered_by_number() {
        let names: Vec<String> = (0..12).map(|n| format!("class {}", 11 - n)).collect();
        let text = with_classes(&written(labels(2)), &names).unwrap();
        assert_eq!(class_names(&text), Ok(Some(names)));
        assert_eq!(fields(&text).classes(), Ok(12));
        assert_eq!(class_names(r#"{"num_labels": 3}"#), Ok(None));
        for wrong in [
            r#"{"id2label": {"1": "a"}}"#,
            r#"{"id2label": ["a"]}"#,
            r#"{"id2label": {"0": 3}}"#,
        ] {
            let message = class_names(wrong).unwrap_err().to_string();
            assert!(message.contains("`id2label`"), "{message}");
        }
    }

    #[test]
    fn labels_are_counted() {
        let named = written(labels(5));
        assert_eq!(fields(&named).classes(), Ok(5));
        assert_eq!(fields(r#"{"num_labels": 9}"#).classes(), Ok(9));
    }

    #[test]
    fn long_values_are_shortened_in_messages() {
        let long = "\u{e9}".repeat(2_000_000);
        let text = serde_json::json!({"width": long, "act": long, "bias": long, "id2label": long});
        let text = text.to_string();
        let found = fields(&text);
        let errors = [
            found.size("width", 1).unwrap_err(),
            found.one_of("act", &["gelu"]).unwrap_err(),
            found.switch("bias", true).unwrap_err(),
            class_names(&text).unwrap_err(),
            Fields::parse(&format!("[{text}]")).unwrap_err(),
        ];
        for error in errors {
            let message = error.to_string();
            assert!(message.contains("bytes in all"), "{}", message.len());
            assert!(message.len() < 1000, "{}", message.len());
        }
    }

    #[test]
    fn each_error_names_its_field() {
        let found = fields(r#"{"width": "wide", "act": "relu", "bias": false}"#);
        assert_eq!(
            found.size("width", 1).unwrap_err().to_string(),
            "config.json: `width` is \"wide\": expected a whole number"
        );
        assert_eq!(
            found
                .one_of("act", &["gelu", "none"])
                .unwrap_err()
                .to_string(),
            "config.json: `act` is \"relu\": this model supports only gelu or none"
        );
        assert_eq!(
            found.switch("bias", true).unwrap_err().to_string(),
            "config.json: `bias` is false: this model supports only true"
        );
        assert!(
            Fields::parse("[1]")
                .unwrap_err()
                .to_string()
                .contains("found [1]")
        );
        assert!(Fields::parse("{").is_err());
    }
}
