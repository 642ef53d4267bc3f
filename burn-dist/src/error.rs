//! The crate's one error type.

/// What went wrong: where, what was expected there and what was found.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A value a caller passed cannot be used.
    #[error("{what}: expected {expected}, found {found}")]
    Config {
        /// The value or the place.
        what: String,
        /// What would have been right.
        expected: String,
        /// What was there.
        found: String,
    },
    /// A file is missing, short or damaged.
    #[error("{path}: expected {expected}, found {found}")]
    File {
        /// The file or folder.
        path: String,
        /// What would have been right.
        expected: String,
        /// What was there.
        found: String,
    },
}

/// A result with the crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;
