//! What goes wrong with a matrix of experiments: who, what was expected, what was found, and what to do.

use std::path::{Path, PathBuf};

/// An error of this package.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A value of the command line that cannot be.
    #[error("{what}: expected {expected}, found {found}")]
    Value {
        /// The flag or the axis.
        what: String,
        /// What it takes.
        expected: String,
        /// What was given.
        found: String,
    },
    /// A file or folder that is not as it should be.
    #[error("{}: expected {expected}, found {found}", path.display())]
    File {
        /// Where it is.
        path: PathBuf,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A program that does not start or cannot be built.
    #[error("the program {program}: {found}; {advice}")]
    Program {
        /// Its name or its path.
        program: String,
        /// What happened.
        found: String,
        /// What helps.
        advice: String,
    },
    /// A chart that could not be drawn.
    #[error("the figure {figure} could not be drawn: {found}")]
    Drawing {
        /// Its name.
        figure: String,
        /// What the plotting library said.
        found: String,
    },
    /// Ctrl-C or SIGTERM, after all children have ended.
    #[error("interrupted: all processes have ended; the same command goes on with what is missing")]
    Interrupted,
}

impl Error {
    /// A value of the command line that cannot be.
    pub fn value(
        what: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self::Value {
            what: what.into(),
            expected: expected.into(),
            found: found.into(),
        }
    }

    /// A file that is not as it should be.
    pub fn file(path: &Path, expected: impl Into<String>, found: impl ToString) -> Self {
        Self::File {
            path: path.into(),
            expected: expected.into(),
            found: found.to_string(),
        }
    }
}

/// What may fail with an [`enum@Error`].
pub type Result<T> = std::result::Result<T, Error>;
