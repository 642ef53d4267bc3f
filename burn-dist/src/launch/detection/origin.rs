//! A value and where it came from.

use crate::error::Result;
use crate::launch::variable::{Environment, MOST_RANKS, Variable};
use std::fmt::{self, Display};

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A variable, as it was set.
    Variable {
        /// Its name.
        name: String,
        /// Its value.
        value: String,
    },
    /// A rule, as text, where no variable holds the value itself.
    Rule(String),
}

/// Where each value of an [`Identity`](crate::launch::Identity) came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origins {
    /// Of the rank.
    pub rank: Origin,
    /// Of the number of ranks.
    pub world_size: Origin,
    /// Of the rank among those of its host.
    pub local_rank: Origin,
    /// Of the number of ranks on the host.
    pub local_world_size: Origin,
    /// Of the host of rank 0.
    pub master_addr: Origin,
    /// Of the port of rank 0.
    pub master_port: Origin,
}

/// A value that remembers its origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sourced<T> {
    pub(super) value: T,
    pub(super) origin: Origin,
}

impl<T> Sourced<T> {
    pub(super) fn new(value: T, variable: Variable) -> Self {
        let origin = Origin::Variable {
            name: variable.name.into(),
            value: variable.value,
        };
        Self { value, origin }
    }

    pub(super) fn by_rule(value: T, rule: impl Into<String>) -> Self {
        let origin = Origin::Rule(rule.into());
        Self { value, origin }
    }
}

impl Sourced<usize> {
    /// The first of some variables that is set, as a number.
    pub(super) fn number(env: Environment<'_>, names: &[&'static str]) -> Result<Option<Self>> {
        let Some(variable) = env.first_of(names) else {
            return Ok(None);
        };
        Ok(Some(Self::new(variable.number(0..=MOST_RANKS)?, variable)))
    }
}

impl Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variable { name, value } => write!(f, "{name}={value}"),
            Self::Rule(rule) => f.write_str(rule),
        }
    }
}
