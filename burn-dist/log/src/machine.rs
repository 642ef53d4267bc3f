//! The machine and the program of a run, for its configuration.

use crate::Setup;
use burn_dist::{Result, World, host_name};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The version of Burn that this crate is built with.
const BURN: &str = "0.22.1";

/// Where one rank runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Seat {
    pub(crate) rank: usize,
    pub(crate) local_rank: usize,
    pub(crate) host: String,
    pid: u32,
    device: String,
    compute_threads: usize,
}

impl Seat {
    /// Every rank's, in rank order. Collective.
    pub(crate) fn all(world: &World) -> Result<Vec<Self>> {
        world.gather(&Self {
            rank: world.rank(),
            local_rank: world.local_rank(),
            host: host_name(),
            pid: std::process::id(),
            device: format!("{:?}", world.device().inner()),
            compute_threads: rayon::current_num_threads(),
        })
    }

    /// Hosts, and the most ranks on one.
    pub(crate) fn setup(seats: &[Self]) -> Setup {
        of_local_ranks(seats.iter().map(|seat| seat.local_rank))
    }
}

impl Setup {
    /// Hosts, and the most ranks on one, of a world. Collective.
    ///
    /// # Errors
    /// What a collective returns.
    pub fn of(world: &World) -> Result<Self> {
        let local_ranks = world.gather(&world.local_rank())?;
        Ok(of_local_ranks(local_ranks.into_iter()))
    }
}

/// Each host has one rank that is its first.
fn of_local_ranks(local_ranks: impl Iterator<Item = usize> + Clone) -> Setup {
    let nodes = local_ranks.clone().filter(|rank| *rank == 0).count();
    let most = local_ranks.map(|rank| rank + 1).max();
    Setup {
        nodes: nodes.max(1),
        ranks_per_node: most.unwrap_or(1),
    }
}

/// The versions and features of what the program consists of.
pub(crate) fn versions() -> Value {
    json!({
        "burn-dist": env!("CARGO_PKG_VERSION"),
        "burn": BURN,
        "features": burn_dist::features(),
        "debug_assertions": cfg!(debug_assertions),
    })
}

/// The processor and the memory of this host; what the system does not tell is left out.
pub(crate) fn machine() -> Value {
    let of = |file: &str, key: &str| {
        let text = std::fs::read_to_string(file).ok()?;
        let line = text.lines().find(|line| line.starts_with(key))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    json!({
        "os": std::env::consts::OS,
        "architecture": std::env::consts::ARCH,
        "processor": of("/proc/cpuinfo", "model name"),
        "cores": std::thread::available_parallelism().ok().map(usize::from),
        "memory": of("/proc/meminfo", "MemTotal"),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use burn_dist::launch::Threads;

    #[test]
    fn threads_are_one_host() {
        let found = Threads::new(3).run(|world| Ok(Seat::setup(&Seat::all(&world)?)));
        assert_eq!(found.unwrap()[0].to_string(), "1_3");
    }

    #[test]
    fn the_version_of_burn_is_that_of_the_workspace() {
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.toml");
        let manifest = std::fs::read_to_string(manifest).unwrap();
        let line = manifest.lines().find(|line| line.starts_with("burn ="));
        assert!(line.unwrap().contains(&format!("version = \"{BURN}\"")));
    }
}
