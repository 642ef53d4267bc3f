//! What an object store answers, as an error that says what to do.

use crate::error::Error;
use object_store::Error as StoreError;
use std::path::Path;

/// Characters of an answer that are shown.
const MAX_ANSWER: usize = 300;

/// Parts of answers, and what they mean to the user.
const KNOWN: [(&[&str], &str); 3] = [
    (
        &[
            "RequestTimeTooSkewed",
            "Signature not yet current",
            "Signature expired",
        ],
        "the clock of this host differs from the store's: set it",
    ),
    (
        &[
            "NoSuchBucket",
            "NoSuchContainer",
            "ContainerNotFound",
            "bucket does not exist",
        ],
        "there is no such bucket or container: make it, or give another one",
    ),
    (
        // The last are asked for credentials when the environment has none.
        &[
            "AccessDenied",
            "InvalidAccessKeyId",
            "SignatureDoesNotMatch",
            "AuthenticationFailed",
            "latest/api/token",
            "latest/meta-data",
            "computeMetadata",
            "metadata/identity",
        ],
        "check the credentials in the environment, and what they allow",
    ),
];

/// The error of a request about `path`.
pub(super) fn fault(path: &Path, expected: impl Into<String>, error: &StoreError) -> Error {
    let mut answer = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !answer.contains(&inner_text) {
            answer = format!("{answer}: {inner_text}");
        }
        cause = inner.source();
    }
    let known = KNOWN
        .iter()
        .find(|(parts, _)| parts.iter().any(|part| answer.contains(part)));
    let refused = matches!(
        error,
        StoreError::Unauthenticated { .. } | StoreError::PermissionDenied { .. }
    );
    let advice = known
        .or(KNOWN.last().filter(|_| refused))
        .map(|(_, advice)| *advice);
    let words: Vec<&str> = answer.split_whitespace().collect();
    let answer: String = words.join(" ").chars().take(MAX_ANSWER).collect();
    let found = match advice {
        Some(advice) => format!("{advice}; the store says: {answer}"),
        None => answer,
    };
    Error::file(path, expected, found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_explained() {
        for (answer, words) in [
            (
                "<Code>RequestTimeTooSkewed</Code>",
                "the clock of this host",
            ),
            (
                "<Code>NoSuchBucket</Code>\n<Message>x</Message>",
                "no such bucket",
            ),
            (
                "error performing PUT http://169.254.169.254/latest/api/token",
                "credentials",
            ),
        ] {
            let error = StoreError::Generic {
                store: "S3",
                source: answer.into(),
            };
            let text = fault(Path::new("s3://b/run"), "a save", &error).to_string();
            assert!(
                text.contains(words) && text.contains("s3://b/run"),
                "{text}"
            );
            assert!(!text.contains('\n'), "{text}");
        }
        let denied = StoreError::PermissionDenied {
            path: "run".into(),
            source: "403".into(),
        };
        let text = fault(Path::new("s3://b/run"), "a save", &denied).to_string();
        assert!(text.contains("credentials"), "{text}");
    }
}
