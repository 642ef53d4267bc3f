//! The program that every rank of a host runs.

use std::ffi::{OsStr, OsString};

/// What every rank of a host runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Its path, or its name if it is in `PATH`.
    pub path: OsString,
    /// What it is called with.
    pub args: Vec<OsString>,
    /// Environment variables, besides those of this process.
    pub env: Vec<(OsString, OsString)>,
}

impl Program {
    /// A program without arguments.
    pub fn new(path: impl Into<OsString>) -> Self {
        Self {
            path: path.into(),
            args: Vec::new(),
            env: Vec::new(),
        }
    }

    /// A variable as a rank would find it without the launcher.
    pub(super) fn variable(&self, name: &str) -> Option<OsString> {
        let given = self.env.iter().rev().find(|(n, _)| n == OsStr::new(name));
        given
            .map(|(_, value)| value.clone())
            .or_else(|| std::env::var_os(name))
    }
}
