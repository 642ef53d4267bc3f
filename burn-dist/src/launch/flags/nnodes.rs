//! The number of hosts, as `--nnodes` takes it.

use crate::error::{Error, Result};

/// Reads a number of hosts, which torchrun also accepts as a range.
pub(super) fn nodes(text: &str) -> Result<usize> {
    let number = |text: &str| text.trim().parse::<usize>().ok().filter(|n| *n > 0);
    let (least, most) = text.split_once(':').unwrap_or((text, text));
    match (number(least), number(most)) {
        (Some(least), Some(most)) if least == most => Ok(most),
        (Some(least), Some(most)) if least < most => {
            let expected = "one number of hosts, as a world does not grow or shrink (elasticity)";
            Err(Error::config("nnodes", expected, format!("{text:?}")))
        }
        _ => {
            let found: String = text.chars().take(60).collect();
            Err(Error::config(
                "nnodes",
                "a number of hosts, from 1",
                format!("{found:?}"),
            ))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::launch::{NProc, Transport};
    use proptest::prelude::*;

    #[test]
    fn numbers_of_hosts() {
        assert_eq!(nodes("2"), Ok(2));
        assert_eq!(nodes("2:2"), Ok(2));
        let error = nodes("1:4").unwrap_err().to_string();
        assert!(
            error.contains("elasticity") && error.contains("1:4"),
            "{error}"
        );
        for text in ["", "0", "0:0", "4:1", "-1", "two", "1:2:3", ":"] {
            assert!(nodes(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_reading(text in ".{0,40}", digits in "[0-9:]{0,40}") {
            for text in [text, digits] {
                let _ = nodes(&text);
                let _ = text.parse::<NProc>();
                let _ = text.parse::<Transport>();
            }
        }
    }
}
