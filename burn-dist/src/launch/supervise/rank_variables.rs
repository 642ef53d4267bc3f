//! The environment variables that the launcher sets for each rank.
//!
//! These are torchrun's, for programs written for it, and our own, which burn-dist prefers and which say
//! what torchrun has no variable for.

use super::part::Part;
use super::program::Program;
use super::records::Records;
use std::ffi::OsString;

/// What all ranks of one attempt have in common.
#[derive(Debug)]
pub(super) struct RankVariables<'a> {
    pub(super) part: &'a Part,
    pub(super) program: &'a Program,
    pub(super) records: &'a Records,
    pub(super) master_addr: &'a str,
    pub(super) port: u16,
    /// Whether the launcher holds the port, so that rank 0 must share it.
    pub(super) reserved: bool,
    /// Shared by all ranks, so that no other process can join.
    pub(super) secret: Option<&'a str>,
    pub(super) cores: usize,
}

/// The variables that say how many compute threads a rank has.
const THREADS: [&str; 2] = ["RAYON_NUM_THREADS", "OMP_NUM_THREADS"];

impl RankVariables<'_> {
    /// The variables of the rank with this number on this host; `None` where one must not be set.
    pub(super) fn of(&self, local: usize) -> Vec<(&'static str, Option<OsString>)> {
        let Part {
            first,
            ranks,
            world,
            group,
            groups,
            attempt,
            max_restarts,
            initial,
            ..
        } = *self.part;
        let text = |value: &dyn ToString| Some(OsString::from(value.to_string()));
        let (number, world) = (first + local, text(&world));
        let error = self.records.error_path(number);
        let rank = text(&number);
        let (local, local_world) = (text(&local), text(&ranks));
        let (addr, port) = (text(&self.master_addr), text(&self.port));
        let attempt = text(&attempt);
        let mut variables = vec![
            ("RANK", rank.clone()),
            ("WORLD_SIZE", world.clone()),
            ("LOCAL_RANK", local.clone()),
            ("LOCAL_WORLD_SIZE", local_world.clone()),
            ("GROUP_RANK", text(&group)),
            ("GROUP_WORLD_SIZE", text(&groups)),
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
            ("BURN_DIST_INITIAL_WORLD_SIZE", text(&initial)),
            (
                "BURN_DIST_FLIGHT_DIR",
                Some(self.records.flight_folder().into()),
            ),
            ("BURN_DIST_PARENT", text(&std::process::id())),
        ];
        variables.extend(self.of_a_changing_world(number));
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

    /// What is set only where the world may change.
    fn of_a_changing_world(&self, rank: usize) -> Vec<(&'static str, Option<OsString>)> {
        let Some(changing) = &self.part.changing else {
            return vec![("BURN_DIST_READY_FILE", None)];
        };
        let ready = self.records.ready_path(rank);
        let mut variables = vec![("BURN_DIST_READY_FILE", Some(ready.into()))];
        if let Some(join) = changing.join {
            let seconds = join.as_secs_f64().to_string();
            variables.push(("BURN_DIST_JOIN_TIMEOUT", Some(seconds.into())));
        }
        if let Some(gpus) = &changing.gpus {
            variables.push(("CUDA_VISIBLE_DEVICES", Some(gpus.into())));
        }
        variables
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::part::Changing;
    use super::*;
    use crate::launch::Node;
    use std::time::Duration;

    fn node() -> Node {
        Node {
            nodes: 2,
            node_rank: 1,
            ranks: 3,
            master_addr: "first".into(),
            master_port: 29500,
            max_restarts: 4,
            log_dir: Some("/logs".into()),
            elastic: None,
        }
    }

    fn of(program: &Program, part: &Part, local: usize) -> Vec<(&'static str, Option<OsString>)> {
        let shared = RankVariables {
            part,
            program,
            records: &Records::in_folders("/logs", "/flights"),
            master_addr: "first",
            port: 29500,
            reserved: false,
            secret: None,
            cores: 8,
        };
        shared.of(local)
    }

    fn variables(program: &Program, local: usize) -> Vec<(&'static str, Option<OsString>)> {
        of(program, &Part::of(&node(), 2), local)
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
            ("TORCHELASTIC_ERROR_FILE", "/logs/rank-5/error.json"),
            ("BURN_DIST_INITIAL_WORLD_SIZE", "6"),
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
        for name in [
            "TORCHELASTIC_USE_AGENT_STORE",
            "BURN_DIST_PORT_RESERVED",
            "BURN_DIST_READY_FILE",
        ] {
            assert!(found.contains(&(name, None)), "{name}");
        }
        assert!(!found.iter().any(|(name, _)| *name == "BURN_DIST_SECRET"));
    }

    #[test]
    fn a_rank_of_a_smaller_world_is_told_its_new_numbers() {
        let part = Part {
            first: 2,
            ranks: 1,
            world: 3,
            group: 1,
            initial: 6,
            changing: Some(Changing {
                join: Some(Duration::from_millis(1500)),
                gpus: Some("0,2".into()),
            }),
            ..Part::of(&node(), 1)
        };
        let found = of(&Program::new("x"), &part, 0);
        for (name, expected) in [
            ("RANK", "2"),
            ("WORLD_SIZE", "3"),
            ("LOCAL_WORLD_SIZE", "1"),
            ("BURN_DIST_RANK", "2"),
            ("BURN_DIST_WORLD_SIZE", "3"),
            ("BURN_DIST_INITIAL_WORLD_SIZE", "6"),
            ("BURN_DIST_READY_FILE", "/logs/rank-2/ready"),
            ("BURN_DIST_JOIN_TIMEOUT", "1.5"),
            ("CUDA_VISIBLE_DEVICES", "0,2"),
        ] {
            assert_eq!(value(&found, name).as_deref(), Some(expected), "{name}");
        }
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
