//! The commands of an experiment: one for each node.

use crate::matrix::{Device, Experiment};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;

/// A command line, with what it adds to its environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Variables.
    pub environment: Vec<(String, String)>,
    /// The program.
    pub program: String,
    /// Its arguments.
    pub arguments: Vec<String>,
}

/// Where the nodes of a run meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meeting<'a> {
    /// The host of node 0, as others reach it.
    pub host: &'a str,
    /// Its port.
    pub port: u16,
}

/// Where commands that are shown, and not run, meet.
pub const ELSEWHERE: Meeting = Meeting {
    host: "node0",
    port: 29500,
};

/// The commands of one experiment, by node.
pub fn commands(
    one: &Experiment,
    program: &Path,
    folder: &Path,
    threads: usize,
    meeting: Meeting<'_>,
) -> Vec<Command> {
    let nodes = one.setup.nodes;
    let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
    let node = |node: usize| {
        let mut arguments = match nodes {
            1 => words(&["--standalone"]),
            _ => words(&[
                "--nnodes",
                &nodes.to_string(),
                "--node-rank",
                &node.to_string(),
                "--master-addr",
                meeting.host,
                "--master-port",
                &meeting.port.to_string(),
            ]),
        };
        let ranks = one.setup.ranks_per_node.to_string();
        arguments.extend(words(&["--nproc-per-node", &ranks]));
        match &one.link {
            Some(link) => arguments.extend(words(&["--link", &link.shape])),
            // Nodes that share a machine would share its memory, which nodes do not.
            None if nodes > 1 && one.setup.ranks_per_node == 1 => {
                arguments.extend(words(&["--transport", "tcp"]));
            }
            None => {}
        }
        arguments.extend(one.arguments());
        arguments.extend(words(&["--log-to", &folder.display().to_string()]));
        // A rank on a GPU needs its host's cores for data alone.
        let is_cpu = one.recipe.device == Device::Cpu;
        let environment = is_cpu.then(|| ("RAYON_NUM_THREADS".into(), threads.to_string()));
        Command {
            environment: environment.into_iter().collect(),
            program: program.display().to_string(),
            arguments,
        }
    };
    (0..nodes).map(node).collect()
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.environment {
            write!(f, "{name}={} ", quoted(value))?;
        }
        f.write_str(&quoted(&self.program))?;
        for argument in &self.arguments {
            write!(f, " {}", quoted(argument))?;
        }
        Ok(())
    }
}

/// A word as a shell reads it.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.into()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(quoted("1gbit,5ms"), "1gbit,5ms");
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
