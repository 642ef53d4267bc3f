//! Comparison of the command lines of all ranks.
//!
//! Another learning rate on one rank causes no error anywhere: replicas diverge, or the shards of a model are
//! stepped at two rates. So the whole command line is compared before anything is made, except for the
//! arguments listed here.

use burn_dist::{Error, Result, World};
use serde::Serialize;
use serde_json::Value;

/// The part of an argument that is compared although its value may differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compared {
    Nothing,
    /// Whether it was given.
    Presence,
}

/// The arguments that may differ between ranks, and why.
const MAY_DIFFER: [(&str, Compared, &str); 12] = [
    (
        "launch",
        Compared::Nothing,
        "a host's own number, its addresses and ports, its restarts and its log folder; that the ranks \
         belong to one world is compared where they meet",
    ),
    (
        "ranks",
        Compared::Nothing,
        "threads of one process, which have one command line",
    ),
    (
        "save",
        Compared::Presence,
        "a path, which may be spelled or mounted in another way; the save itself is compared",
    ),
    (
        "config",
        Compared::Nothing,
        "a path; what the file says is compared",
    ),
    (
        "log_to",
        Compared::Presence,
        "a path, and rank 0's alone is written to",
    ),
    (
        "output_dir",
        Compared::Presence,
        "a path, and rank 0's alone is written to",
    ),
    (
        "export",
        Compared::Presence,
        "a path, and rank 0's alone is written to",
    ),
    (
        "from",
        Compared::Presence,
        "a path; the weights there are compared",
    ),
    (
        "data",
        Compared::Presence,
        "a path; the samples there are compared",
    ),
    (
        "adapters",
        Compared::Presence,
        "a path; the adapters there are compared",
    ),
    (
        "export_adapters",
        Compared::Presence,
        "a path, and rank 0's alone is written to",
    ),
    (
        "tokenizer",
        Compared::Presence,
        "a path; rank 0's vocabulary is everybody's",
    ),
];

/// Returns if all ranks were given the same arguments, but for those that may differ. Collective.
///
/// # Errors
/// [`Error::Disagreement`], the same on every rank, with the first argument that differs and both
/// values.
pub fn same_arguments<A: Serialize>(world: &World, arguments: &A) -> Result<()> {
    let mut value = serde_json::to_value(arguments)
        .map_err(|e| Error::config("the command line", "one that can be compared", e))?;
    leave_out(&mut value);
    world.agree("the command line", &value)
}

/// Removes what is not compared, at every level.
fn leave_out(value: &mut Value) {
    let Value::Object(fields) = value else {
        return;
    };
    for (name, compared, _) in MAY_DIFFER {
        match (compared, fields.get_mut(name)) {
            (_, None) => {}
            (Compared::Nothing, Some(_)) => drop(fields.remove(name)),
            (Compared::Presence, Some(value)) => *value = Value::Bool(!value.is_null()),
        }
    }
    fields.values_mut().for_each(leave_out);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::run::{BertArgs, VitArgs};
    use burn_dist::launch::Threads;
    use clap::{Args, Parser};

    /// The error if rank 1 is started with these additional arguments.
    fn error_with<A: Parser + Serialize>(more: &str) -> Option<String> {
        let run = |world: World| {
            let more = if world.rank() == 1 { more } else { "" };
            let words = std::iter::once("run").chain(more.split_whitespace());
            same_arguments(&world, &A::try_parse_from(words).unwrap())
        };
        Threads::new(3)
            .run(run)
            .err()
            .map(|error| error.to_string())
    }

    #[test]
    fn a_differing_argument_is_named_with_both_values() {
        for (more, expected) in [
            ("--lr 0.5", "lr is 0.5 on rank 1, where rank 0 has 0.002"),
            ("--clip 2", "clip is 2.0 on rank 1, where rank 0 has 1.0"),
            ("--recompute", "recompute is true on rank 1"),
            (
                "--optimizer muon",
                "optimizer is \"Muon\" on rank 1, where rank 0 has \"Adamw\"",
            ),
            ("--precision bf16", "precision is \"bf16\" on rank 1"),
            ("--strategy ddp", "strategy."),
            ("--seed 3", "seed is 3 on rank 1"),
            (
                "--save here",
                "save is true on rank 1, where rank 0 has false",
            ),
        ] {
            let found = error_with::<VitArgs>(more).unwrap();
            assert!(found.contains(expected), "{found}");
            let found = error_with::<BertArgs>(more).unwrap();
            assert!(found.starts_with("the command line differs"), "{found}");
        }
        let found = error_with::<BertArgs>("--dropout 0.2").unwrap();
        assert!(found.contains("dropout is 0.2 on rank 1"), "{found}");
    }

    #[test]
    fn arguments_of_one_host_may_differ() {
        assert_eq!(error_with::<VitArgs>(""), None);
        assert_eq!(
            error_with::<VitArgs>("--node-rank 1 --max-restarts 2"),
            None
        );
        let run = |world: World| {
            let path = ["/data", "/mnt/data", "data"][world.rank()];
            let words = ["run", "--data", path, "--from", path, "--save", path];
            same_arguments(&world, &BertArgs::try_parse_from(words).unwrap())
        };
        Threads::new(3).run(run).unwrap();
    }

    #[test]
    fn every_argument_is_compared_or_listed() {
        fn check<A: Parser + Serialize>() {
            fn names(value: &Value, found: &mut Vec<String>) {
                for (name, value) in value.as_object().into_iter().flatten() {
                    found.push(name.clone());
                    names(value, found);
                }
            }
            let mut found: Vec<_> = MAY_DIFFER.map(|(name, ..)| name.to_string()).into();
            let arguments = A::try_parse_from(["run"]).unwrap();
            names(&serde_json::to_value(arguments).unwrap(), &mut found);
            let command = A::command();
            let launch = burn_dist::launch::Flags::augment_args(clap::Command::new("launch"));
            let of_launch: Vec<_> = launch.get_arguments().map(|a| a.get_id()).collect();
            for argument in command.get_arguments().map(|a| a.get_id()) {
                let name = argument.as_str();
                let known = found.iter().any(|found| found == name)
                    || of_launch.contains(&argument)
                    || ["help", "version"].contains(&name);
                assert!(known, "{name} is neither compared nor listed");
            }
        }
        check::<VitArgs>();
        check::<BertArgs>();
    }
}
