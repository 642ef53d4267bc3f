//! One variable of an environment.

use crate::error::{Error, Result};
use std::fmt::{self, Display};
use std::ops::RangeInclusive;
use std::time::Duration;

/// No world is larger; whatever is sized by a number from outside stays within reason.
pub(super) const MOST_RANKS: usize = 1 << 20;
/// No wait is longer: it would overflow the clock.
pub(super) const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// The environment that variables are looked up in: a process's own, or a test's.
#[derive(Clone, Copy)]
pub(super) struct Environment<'a> {
    lookup: &'a dyn Fn(&str) -> Option<String>,
}

/// A variable that is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Variable {
    pub(super) name: &'static str,
    pub(super) value: String,
}

impl<'a> Environment<'a> {
    pub(super) fn new(lookup: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self { lookup }
    }

    /// A variable, without the spaces around its value. An empty one counts as not set, because
    /// that is what scripts and job files make of values they do not have.
    pub(super) fn variable(&self, name: &'static str) -> Option<Variable> {
        let value = (self.lookup)(name)?.trim().to_string();
        (!value.is_empty()).then_some(Variable { name, value })
    }

    /// The first of some variables that is set.
    pub(super) fn first_of(&self, names: &[&'static str]) -> Option<Variable> {
        names.iter().find_map(|name| self.variable(name))
    }

    /// A variable as it is; for the few where an empty value means something.
    pub(super) fn raw(&self, name: &str) -> Option<String> {
        (self.lookup)(name)
    }
}

impl Variable {
    pub(super) fn number(&self, accepted: RangeInclusive<usize>) -> Result<usize> {
        let digits = self.value.bytes().all(|b| b.is_ascii_digit());
        match self.value.parse() {
            Ok(number) if digits && accepted.contains(&number) => Ok(number),
            _ => {
                let (least, most) = accepted.into_inner();
                Err(self.wrong(format!("a whole number from {least} to {most}")))
            }
        }
    }

    pub(super) fn seconds(&self) -> Result<Duration> {
        let seconds = self.value.parse();
        let accepted = seconds
            .ok()
            .filter(|s| (0.01..=YEAR.as_secs_f64()).contains(s));
        let exact = accepted.and_then(|s| Duration::try_from_secs_f64(s).ok());
        exact.ok_or_else(|| self.wrong("a number of seconds, at least 0.01"))
    }

    /// An error about this variable's value.
    pub(super) fn wrong(&self, expected: impl Into<String>) -> Error {
        Error::config(self.name, expected, format!("{:?}", shortened(&self.value)))
    }

    /// An error about a flag's value, made one about this variable, in which the value was found.
    pub(super) fn named(&self, error: Error) -> Error {
        match error {
            Error::Config {
                expected, found, ..
            } => Error::config(self.name, expected, found),
            other => other,
        }
    }
}

impl Display for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, shortened(&self.value))
    }
}

/// As much of a value as a message has room for.
fn shortened(value: &str) -> String {
    match value.char_indices().nth(100) {
        Some((end, _)) => format!("{}...", &value[..end]),
        None => value.into(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_variable_is_not_set() {
        let lookup = |name: &str| match name {
            "EMPTY" => Some(" ".to_string()),
            "RANK" => Some(" 3\n".to_string()),
            _ => None,
        };
        let env = Environment::new(&lookup);
        assert_eq!(env.variable("EMPTY"), None);
        assert_eq!(env.raw("EMPTY").as_deref(), Some(" "));
        let rank = env.first_of(&["NONE", "EMPTY", "RANK"]).unwrap();
        assert_eq!(rank.to_string(), "RANK=3");
        assert_eq!(rank.number(0..=9), Ok(3));
        let error = rank.number(5..=9).unwrap_err().to_string();
        assert_eq!(
            error,
            "RANK: expected a whole number from 5 to 9, found \"3\""
        );
    }

    #[test]
    fn a_message_shows_the_beginning_of_a_long_value() {
        let variable = Variable {
            name: "RANK",
            value: "é".repeat(5000),
        };
        assert!(variable.number(0..=1).unwrap_err().to_string().len() < 400);
        for value in ["+1", "-1", "1.0", "0x1", "99999999999999999999999"] {
            let value = value.into();
            assert!(
                Variable {
                    name: "RANK",
                    value
                }
                .number(0..=9)
                .is_err()
            );
        }
    }
}
