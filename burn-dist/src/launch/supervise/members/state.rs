//! What the launcher of node rank 0 knows of all hosts, and every decision on it: who takes part in the next
//! start, who is lost, and when there is no further start.
//!
//! There are no sockets, threads or clocks here. The service passes in what has arrived and the time, and sends
//! what comes back. `T` is the way to one launcher: a connection in the service, a number in tests.

use super::message::Report;
use super::plan::{Host, Plan, hosts, ranks};
use crate::error::Error;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// What node rank 0's launcher was started with.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    pub(crate) least_nodes: usize,
    pub(crate) most_nodes: usize,
    pub(crate) max_restarts: usize,
    /// How long what is lost may take to come back.
    pub(crate) rejoin: Duration,
    /// How long the least number of hosts may take to come to the first start.
    pub(crate) patience: Duration,
    /// How long a launcher that is alive may take to end its ranks.
    pub(crate) ending: Duration,
}

/// All hosts, as node rank 0's launcher sees them.
#[derive(Debug)]
pub(crate) struct State<T> {
    limits: Limits,
    hosts: BTreeMap<usize, Present<T>>,
    /// Why hosts that were here are not any more.
    gone: BTreeMap<usize, String>,
    /// The last start.
    plan: Option<Plan>,
    phase: Phase,
}

/// A launcher that is connected.
#[derive(Debug)]
struct Present<T> {
    name: String,
    way: T,
    ranks: usize,
    least: usize,
    lost: Vec<String>,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It has not said yet what it can start.
    Silent,
    /// It waits for the next start.
    Waiting,
    Running,
    /// Its ranks have ended well.
    Succeeded,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Launchers come, or come back, since this time.
    Gathering(Instant),
    Running,
    Over,
}

/// A decision, and the launcher to tell it to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Notice<T> {
    pub(crate) to: T,
    pub(crate) decision: Decision,
}

/// What a launcher is told; the service adds the port to a start.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Decision {
    End,
    Start(Plan),
    Finished,
    Over(Option<Error>),
}

/// Why a caller is not taken in, and whether it may be later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) problem: String,
    pub(crate) again: bool,
}

impl<T: Clone> State<T> {
    /// A world to which nobody has come yet.
    pub(crate) fn new(limits: Limits, now: Instant) -> Self {
        Self {
            limits,
            hosts: BTreeMap::new(),
            gone: BTreeMap::new(),
            plan: None,
            phase: Phase::Gathering(now),
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// Takes in a launcher.
    pub(crate) fn come(&mut self, node: usize, name: &str, way: T) -> Result<(), Refusal> {
        let refused = |problem, again| Err(Refusal { problem, again });
        let most = self.limits.most_nodes;
        if node >= most {
            return refused(format!("{} have no node rank {node}", hosts(most)), false);
        }
        if self.is_over() {
            return refused("the run has ended".into(), false);
        }
        if let Some(first) = self.hosts.get(&node) {
            // Its host may be back before the silence of its former launcher was noticed.
            let first = &first.name;
            let problem = format!("node rank {node} is taken by a launcher on {first}");
            return refused(problem, true);
        }
        let present = Present {
            name: name.into(),
            way,
            ranks: 0,
            least: 1,
            lost: Vec::new(),
            stage: Stage::Silent,
        };
        self.hosts.insert(node, present);
        Ok(())
    }

    /// Hears how a launcher's ranks are.
    pub(crate) fn report(&mut self, node: usize, report: Report, now: Instant) -> Vec<Notice<T>> {
        let Some(host) = self.hosts.get_mut(&node) else {
            return Vec::new();
        };
        let was_running = host.stage == Stage::Running;
        (host.ranks, host.least) = (report.ranks, report.least);
        host.lost.extend(report.lost);
        host.stage = match report.succeeded {
            Some(true) => Stage::Succeeded,
            _ => Stage::Waiting,
        };
        let failed = was_running && host.stage == Stage::Waiting;
        match self.phase {
            Phase::Running if failed => self.fail(now),
            Phase::Running => self.finish(),
            Phase::Gathering(_) | Phase::Over => Vec::new(),
        }
    }

    /// A launcher is lost.
    pub(crate) fn leave(&mut self, node: usize, why: &str, now: Instant) -> Vec<Notice<T>> {
        let Some(host) = self.hosts.remove(&node) else {
            return Vec::new();
        };
        self.gone.insert(node, why.into());
        // Ranks leave a world together: if those of one host have ended well, all have.
        let succeeded = self.hosts.values().any(|h| h.stage == Stage::Succeeded);
        match (self.phase, host.stage) {
            (Phase::Running, Stage::Running) if !succeeded => self.fail(now),
            (Phase::Running, _) => self.finish(),
            _ => Vec::new(),
        }
    }

    /// The next start, or the end, when its time has come.
    pub(crate) fn decide(&mut self, now: Instant) -> Vec<Notice<T>> {
        match self.phase {
            Phase::Gathering(since) if !self.waits(since, now) => self.conclude(),
            _ => Vec::new(),
        }
    }

    /// The world has failed: the ranks that still run are ended, and all gather again.
    fn fail(&mut self, now: Instant) -> Vec<Notice<T>> {
        let used = self.plan.as_ref().map_or(0, |plan| plan.restart);
        if used >= self.limits.max_restarts {
            return self.end(Decision::Over(None));
        }
        self.phase = Phase::Gathering(now);
        let running = self.hosts.values();
        let running = running.filter(|host| host.stage == Stage::Running);
        let end = |host: &Present<T>| Notice {
            to: host.way.clone(),
            decision: Decision::End,
        };
        running.map(end).collect()
    }

    /// Ends the run if all ranks have ended well.
    fn finish(&mut self) -> Vec<Notice<T>> {
        let stages = || self.hosts.values().map(|host| host.stage);
        let done = stages().all(|stage| stage != Stage::Running);
        if done && stages().any(|stage| stage == Stage::Succeeded) {
            return self.end(Decision::Finished);
        }
        Vec::new()
    }

    fn end(&mut self, decision: Decision) -> Vec<Notice<T>> {
        self.phase = Phase::Over;
        let hosts = std::mem::take(&mut self.hosts).into_values();
        let tell = |host: Present<T>| Notice {
            to: host.way,
            decision: decision.clone(),
        };
        hosts.map(tell).collect()
    }

    /// Whether a start must wait for others.
    fn waits(&self, since: Instant, now: Instant) -> bool {
        let Limits {
            rejoin,
            patience,
            ending,
            least_nodes,
            ..
        } = self.limits;
        let late = now >= since + rejoin;
        let Some(plan) = &self.plan else {
            let all = (0..self.limits.most_nodes).all(|node| self.is_known(node));
            let enough = self.fit().count() >= least_nodes && self.is_known(0);
            return !(all || late && enough || now >= since + patience.max(rejoin));
        };
        let mut former = plan.hosts.iter().map(|host| host.node);
        let stage = |node: usize| self.hosts.get(&node).map(|host| host.stage);
        if late {
            let ends = former.any(|node| stage(node) == Some(Stage::Running));
            return ends && now < since + rejoin.max(ending);
        }
        !former.all(|node| self.is_known(node))
    }

    /// Whether a launcher has said what it can start, and none of its ranks run.
    fn is_known(&self, node: usize) -> bool {
        let stage = self.hosts.get(&node).map(|host| host.stage);
        matches!(stage, Some(Stage::Waiting | Stage::Succeeded))
    }

    /// The hosts that can take part.
    fn fit(&self) -> impl Iterator<Item = (usize, &Present<T>)> {
        let hosts = self.hosts.iter().map(|(node, host)| (*node, host));
        hosts.filter(|(node, host)| {
            self.is_known(*node) && host.ranks > 0 && host.ranks >= host.least
        })
    }

    /// Announces the next start to those that take part, and the end to those that cannot.
    fn conclude(&mut self) -> Vec<Notice<T>> {
        let fit: BTreeSet<usize> = self.fit().map(|(node, _)| node).collect();
        let changes = self.changes(&fit);
        if let Some(error) = self.too_few(&fit, &changes) {
            return self.end(Decision::Over(Some(error)));
        }
        let mut first = 0;
        let mut placed = Vec::new();
        for (node, host) in self.fit() {
            let (name, ranks) = (host.name.clone(), host.ranks);
            placed.push(Host {
                node,
                name,
                first,
                ranks,
            });
            first += ranks;
        }
        let plan = Plan {
            restart: self.plan.as_ref().map_or(0, |plan| plan.restart + 1),
            max_restarts: self.limits.max_restarts,
            hosts: placed,
            initial: self.plan.as_ref().map_or(first, |plan| plan.initial),
            former: self.plan.as_ref().map(Plan::world),
            changes,
        };
        self.plan = Some(plan.clone());
        self.phase = Phase::Running;
        self.gone.clear();
        self.announce(&fit, plan)
    }

    fn announce(&mut self, fit: &BTreeSet<usize>, plan: Plan) -> Vec<Notice<T>> {
        let mut notices = Vec::new();
        let unfit = |node: &usize, host: &mut Present<T>| {
            // One that has not said yet what it can start is there for the next start.
            !fit.contains(node) && host.stage != Stage::Silent
        };
        for (_, host) in self.hosts.extract_if(.., unfit) {
            notices.push(Notice {
                to: host.way.clone(),
                decision: Decision::Over(Some(host.error())),
            });
        }
        for (node, host) in &mut self.hosts {
            if fit.contains(node) {
                host.stage = Stage::Running;
                host.lost.clear();
                notices.push(Notice {
                    to: host.way.clone(),
                    decision: Decision::Start(plan.clone()),
                });
            }
        }
        notices
    }

    /// Who has left or come since the last start, in words.
    fn changes(&self, fit: &BTreeSet<usize>) -> Vec<String> {
        let within = self.limits.rejoin;
        let mut changes = Vec::new();
        for (node, host) in &self.hosts {
            changes.extend(host.lost.iter().cloned());
            if !fit.contains(node) && host.stage != Stage::Silent {
                changes.push(host.fault());
            }
        }
        let former = |node| self.plan.as_ref().and_then(|plan| plan.of(node));
        for node in (0..self.limits.most_nodes).filter(|node| !self.hosts.contains_key(node)) {
            let why = self.gone.get(&node).map(|why| format!(" ({why})"));
            let why = why.unwrap_or_default();
            match (former(node), &self.plan) {
                (Some((_, host)), _) => {
                    let host = host.with_verb("is", "are");
                    changes.push(format!("{host} not back after {within:?}{why}"));
                }
                (None, None) => changes.push(format!("node rank {node} has not come")),
                (None, Some(_)) => {}
            }
        }
        if self.plan.is_some() {
            let new = self.fit().filter(|(node, _)| former(*node).is_none());
            changes.extend(
                new.map(|(_, host)| format!("{} takes part with {}", host.name, ranks(host.ranks))),
            );
        }
        changes
    }

    /// Why there can be no further start, if there can be none.
    fn too_few(&self, fit: &BTreeSet<usize>, changes: &[String]) -> Option<Error> {
        let least = self.limits.least_nodes;
        if fit.contains(&0) && fit.len() >= least {
            return None;
        }
        let is = |count| if count == 1 { "is" } else { "are" };
        let only = self.hosts.get(&0).filter(|_| self.limits.most_nodes == 1);
        let (left, least) = match (only, fit.contains(&0)) {
            (Some(host), _) => {
                let (left, least) = (host.ranks, host.least);
                let left = format!("{} {}", ranks(left), is(left));
                (left, format!("{} {}", ranks(least), is(least)))
            }
            (None, true) => {
                let left = format!("{} {}", hosts(fit.len()), is(fit.len()));
                (left, format!("{} {}", hosts(least), is(least)))
            }
            (None, false) => {
                let left = format!("{} {}", hosts(fit.len()), is(fit.len()));
                let needed = "node rank 0, the host of the rendezvous, among them, are";
                (left, format!("{}, {needed}", hosts(least)))
            }
        };
        Some(Error::TooFew {
            lost: changes.join(", "),
            left,
            least,
        })
    }
}

impl<T> Present<T> {
    /// Why it cannot take part.
    fn fault(&self) -> String {
        let (name, least) = (&self.name, self.least);
        match self.stage {
            Stage::Running => format!("the ranks on {name} do not end"),
            _ => format!("{name} has {} of at least {least}", ranks(self.ranks)),
        }
    }

    /// What its launcher ends with while others go on.
    fn error(&self) -> Error {
        let lost = [self.lost.clone(), vec![self.fault()]].concat();
        let is = |count| if count == 1 { "is" } else { "are" };
        Error::TooFew {
            lost: lost.join(", "),
            left: format!("{} of this host {}", ranks(self.ranks), is(self.ranks)),
            least: format!("{} {}", ranks(self.least), is(self.least)),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests;
