//! The environment variables that the launcher sets for each rank.
//!
//! These are torchrun's, for programs written for it, and our own, which burn-dist prefers and which say
//! what torchrun has no variable for.

use super::program::Program;
use crate::launch::Node;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// What all ranks of one attempt have in common.
#[derive(Debug)]
pub(super) struct RankVariables<'a> {
    pub(super) node: &'a Node,
    pub(super) program: &'a Program,
    pub(super) port: u16,
    /// Whether the launcher holds the port, so that rank 0 must share it.
    pub(super) reserved: bool,
    pub(super) attempt: usize,
    /// Shared by all ranks, so that no other process can join.
    pub(super) secret: Option<&'a str>,
    pub(super) flights: &'a Path,
    pub(super) cores: usize,
}

/// The variables that say how many compute threads a rank has.
const THREADS: [&str; 2] = ["RAYON_NUM_THREADS", "OMP_NUM_THREADS"];

impl RankVariables<'_> {
    /// The variables of the rank with this number on this host; `None` where one must not be set.
    pub(super) fn of(&self, local: usize, error: PathBuf) -> Vec<(&'static str, Option<OsString>)> {
        let Node {
            nodes,
            node_rank,
            ranks,
            ref master_addr,
            max_restarts,
            ..
        } = *self.node;
        let text = |value: &dyn ToString| Some(OsString::from(value.to_string()));
        let (rank, world) = (text(&(node_rank * ranks + local)), text(&(nodes * ranks)));
        let (local, local_world) = (text(&local), text(&ranks));
        let (addr, port) = (text(master_addr), text(&self.port));
        let attempt = text(&self.attempt);
        let mut variables = vec![
            ("RANK", rank.clone()),
            ("WORLD_SIZE", world.clone()),
            ("LOCAL_RANK", local.clone()),
            ("LOCAL_WORLD_SIZE", local_world.clone()),
            ("GROUP_RANK", text(&node_rank)),
            ("GROUP_WORLD_SIZE", text(&nodes)),
            ("MASTER_ADDR", addr.clone()),
            ("MASTER_PORT", port.clone()),
            ("TORCHELASTIC_RESTART_COUNT", attempt.clone()),
            ("TORCHELASTIC_MAX_RESTARTS", text(&max_restarts)),
            ("TORCHELASTIC_ERROR_FILE", Some(error.into())),
            // It would say that the launcher runs PyTorch's store on the master port.
            ("TORCHELASTIC_USE_AGENT_STORE", None),
            ("BURN_DIST_RANK", rank),
            ("BURN_DIST_WORLD_SIZE", world),
            ("BURN_DIST_LOCAL_RANK", local),
            ("BURN_DIST_LOCAL_WORLD_SIZE", local_world),
            ("BURN_DIST_MASTER_ADDR", addr),
            ("BURN_DIST_MASTER_PORT", port),
            ("BURN_DIST_PORT_RESERVED", self.reserved.then(|| "1".into())),
            ("BURN_DIST_RESTART_COUNT", attempt),
            ("BURN_DIST_FLIGHT_DIR", Some(self.flights.into())),
            ("BURN_DIST_PARENT", text(&std::process::id())),
        ];
        if let Some(secret) = self.secret {
            variables.push(("BURN_DIST_SECRET", text(&secret)));
        }
        // Ranks with more threads than cores slow each other down.
        if THREADS
            .iter()
            .all(|name| self.program.variable(name).is_none())
        {
            let threads = (self.cores / ranks.max(1)).max(1);
            variables.extend(THREADS.map(|name| (name, text(&threads))));
        }
        variables
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn variables(program: &Program, local: usize) -> Vec<(&'static str, Option<OsString>)> {
        let node = Node {
            nodes: 2,
            node_rank: 1,
            ranks: 3,
            master_addr: "first".into(),
            master_port: 29500,
            max_restarts: 4,
            log_dir: None,
        };
        let shared = RankVariables {
            node: &node,
            program,
            port: 29500,
            reserved: false,
            attempt: 2,
            secret: None,
            flights: Path::new("/flights"),
            cores: 8,
        };
        shared.of(local, "/error".into())
    }

    fn value(variables: &[(&str, Option<OsString>)], name: &str) -> Option<String> {
        let (_, value) = variables.iter().find(|(n, _)| *n == name)?;
        value.clone().map(|v| v.into_string().unwrap())
    }

    #[test]
    fn a_rank_of_a_second_host_is_told_its_numbers() {
        let found = variables(&Program::new("x"), 2);
        let expected = [
            ("RANK", "5"),
            ("WORLD_SIZE", "6"),
            ("LOCAL_RANK", "2"),
            ("LOCAL_WORLD_SIZE", "3"),
            ("GROUP_RANK", "1"),
            ("GROUP_WORLD_SIZE", "2"),
            ("MASTER_ADDR", "first"),
            ("MASTER_PORT", "29500"),
            ("TORCHELASTIC_RESTART_COUNT", "2"),
            ("TORCHELASTIC_MAX_RESTARTS", "4"),
            ("TORCHELASTIC_ERROR_FILE", "/error"),
            ("BURN_DIST_RANK", "5"),
            ("BURN_DIST_WORLD_SIZE", "6"),
            ("BURN_DIST_LOCAL_RANK", "2"),
            ("BURN_DIST_LOCAL_WORLD_SIZE", "3"),
            ("BURN_DIST_MASTER_ADDR", "first"),
            ("BURN_DIST_MASTER_PORT", "29500"),
            ("BURN_DIST_RESTART_COUNT", "2"),
            ("BURN_DIST_FLIGHT_DIR", "/flights"),
        ];
        for (name, expected) in expected {
            assert_eq!(value(&found, name).as_deref(), Some(expected), "{name}");
        }
        // Set to nothing, so that what the launcher inherited does not reach the rank.
        for name in ["TORCHELASTIC_USE_AGENT_STORE", "BURN_DIST_PORT_RESERVED"] {
            assert!(found.contains(&(name, None)), "{name}");
        }
        assert!(!found.iter().any(|(name, _)| *name == "BURN_DIST_SECRET"));
    }

    #[test]
    fn cores_are_divided_unless_the_user_has_done_so() {
        let mut program = Program::new("x");
        if THREADS.iter().all(|name| std::env::var_os(name).is_none()) {
            let found = variables(&program, 0);
            for name in THREADS {
                assert_eq!(value(&found, name).as_deref(), Some("2"));
            }
        }
        program.env.push(("OMP_NUM_THREADS".into(), "7".into()));
        let found = variables(&program, 0);
        assert!(!found.iter().any(|(name, _)| THREADS.contains(name)));
    }
}
