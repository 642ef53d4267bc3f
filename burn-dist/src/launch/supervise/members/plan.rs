//! Who takes part in one start.

use crate::launch::rank_set::RankSet;
use serde::{Deserialize, Serialize};

/// One start of the world: the hosts that take part, in the order of their ranks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// How often the world was started again.
    pub(crate) restart: usize,
    pub(crate) max_restarts: usize,
    pub(crate) hosts: Vec<Host>,
    /// Ranks of the first start.
    pub(crate) initial: usize,
    /// Ranks of the start before this one.
    pub(crate) former: Option<usize>,
    /// Who has left or come since then, and why.
    pub(crate) changes: Vec<String>,
}

/// A host that takes part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Host {
    /// The number that its launcher was given.
    pub(crate) node: usize,
    pub(crate) name: String,
    /// Its first rank.
    pub(crate) first: usize,
    pub(crate) ranks: usize,
}

impl Plan {
    /// Number of ranks.
    pub(crate) fn world(&self) -> usize {
        self.hosts.iter().map(|host| host.ranks).sum()
    }

    /// A host's place among those that take part, and what it starts.
    pub(crate) fn of(&self, node: usize) -> Option<(usize, &Host)> {
        let mut hosts = self.hosts.iter().enumerate();
        hosts.find(|(_, host)| host.node == node)
    }

    /// What to say before this start, if there is anything to say.
    pub(crate) fn line(&self) -> Option<String> {
        let world = self.world();
        let size = match self.former {
            None if self.changes.is_empty() => return None,
            None => format!("start with {}", ranks(world)),
            Some(former) => {
                let (restart, most) = (self.restart, self.max_restarts);
                let size = if world <= former {
                    format!("{world} of {}", ranks(former))
                } else {
                    format!("{} instead of {former}", ranks(world))
                };
                format!("restart {restart} of {most}: {size}")
            }
        };
        let changes = self.changes.iter().map(|change| format!(", {change}"));
        Some(size + &changes.collect::<String>())
    }
}

impl Host {
    /// Its ranks and its name, with one of two verbs: `ranks 2,3 on b are`.
    pub(crate) fn with_verb(&self, one: &str, many: &str) -> String {
        let ranks = (self.first..self.first + self.ranks).collect();
        let ranks = RankSet(&ranks);
        format!("{ranks} on {} {}", self.name, ranks.verb(one, many))
    }
}

/// A number of ranks, in words.
pub(crate) fn ranks(count: usize) -> String {
    match count {
        1 => "1 rank".into(),
        count => format!("{count} ranks"),
    }
}

/// A number of hosts, in words.
pub(crate) fn hosts(count: usize) -> String {
    match count {
        1 => "1 host".into(),
        count => format!("{count} hosts"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_the_world_changed() {
        let host = |node, first, ranks| Host {
            node,
            name: format!("h{node}"),
            first,
            ranks,
        };
        let mut plan = Plan {
            restart: 0,
            max_restarts: 3,
            hosts: vec![host(0, 0, 1), host(2, 1, 1)],
            initial: 2,
            former: None,
            changes: vec![],
        };
        assert_eq!(plan.line(), None);
        plan.changes = vec!["node rank 1 has not come within 10s".into()];
        assert_eq!(
            plan.line().unwrap(),
            "start with 2 ranks, node rank 1 has not come within 10s"
        );
        (plan.restart, plan.former) = (1, Some(3));
        let lost = host(1, 1, 1).with_verb("is", "are");
        plan.changes = vec![format!("{lost} not back after 10s")];
        assert_eq!(
            plan.line().unwrap(),
            "restart 1 of 3: 2 of 3 ranks, rank 1 on h1 is not back after 10s"
        );
        (plan.restart, plan.former) = (2, Some(1));
        plan.changes = vec![host(2, 1, 2).with_verb("takes part", "take part")];
        assert_eq!(
            plan.line().unwrap(),
            "restart 2 of 3: 2 ranks instead of 1, ranks 1,2 on h2 take part"
        );
        assert_eq!(plan.of(2), Some((1, &plan.hosts[1])));
        assert_eq!(plan.of(1), None);
    }
}
