//! The claim of one launcher: which rank a process is, by its variables.

use super::launcher::Launcher;
use super::origin::Sourced;
use crate::error::{Error, Result};
use crate::launch::variable::Environment;
use std::fmt::{self, Display};

/// One launcher's answer to which rank a process is; what it leaves open is `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) launcher: Launcher,
    pub(super) rank: Sourced<usize>,
    pub(super) world_size: Sourced<usize>,
    pub(super) local_rank: Option<Sourced<usize>>,
    pub(super) local_world_size: Option<Sourced<usize>>,
    pub(super) master_addr: Option<Sourced<String>>,
    pub(super) master_port: Option<Sourced<u16>>,
    /// As far as this launcher knows, each host has one process.
    pub(super) one_per_host: bool,
}

impl Claim {
    /// Reads a rank and a world size that only mean something together.
    pub(super) fn read(
        env: Environment<'_>,
        launcher: Launcher,
        rank: &'static str,
        world_size: &'static str,
    ) -> Result<Option<Self>> {
        let rank_read = Sourced::number(env, &[rank])?;
        match (rank_read, Sourced::number(env, &[world_size])?) {
            (None, None) => Ok(None),
            (Some(rank), Some(size)) => Ok(Some(Self::new(launcher, rank, size))),
            (Some(rank), None) => Err(missing(world_size, &rank)),
            (None, Some(size)) => Err(missing(rank, &size)),
        }
    }

    pub(super) fn new(
        launcher: Launcher,
        rank: Sourced<usize>,
        world_size: Sourced<usize>,
    ) -> Self {
        Self {
            launcher,
            rank,
            world_size,
            local_rank: None,
            local_world_size: None,
            master_addr: None,
            master_port: None,
            one_per_host: false,
        }
    }

    /// Whether both mean the same rank of the same world.
    pub(super) fn agrees_with(&self, other: &Self) -> bool {
        self.rank.value == other.rank.value && self.world_size.value == other.world_size.value
    }

    /// Takes from another claim about the same rank what this one leaves open.
    pub(super) fn fill_from(&mut self, other: Self) {
        // Both or neither: two launchers may mean different things by a host.
        if self.local_rank.is_none() && self.local_world_size.is_none() {
            self.local_rank = other.local_rank;
            self.local_world_size = other.local_world_size;
        } else if self.local_world_size.is_none() && self.local_agrees(&other) {
            self.local_world_size = other.local_world_size;
        }
        self.master_addr = self.master_addr.take().or(other.master_addr);
        self.master_port = self.master_port.take().or(other.master_port);
    }

    fn local_agrees(&self, other: &Self) -> bool {
        let value = |claim: &Self| claim.local_rank.as_ref().map(|rank| rank.value);
        value(self) == value(other)
    }
}

/// An error about a variable that has to be set beside another.
pub(super) fn missing<T>(name: &str, beside: &Sourced<T>) -> Error {
    let expected = format!("a number, as {} is set", beside.origin);
    Error::config(name, expected, "nothing")
}

impl Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (rank, size) = (&self.rank, &self.world_size);
        write!(f, "rank {} of {} ", rank.value, size.value)?;
        write!(f, "({}, {}) by {}", rank.origin, size.origin, self.launcher)
    }
}
