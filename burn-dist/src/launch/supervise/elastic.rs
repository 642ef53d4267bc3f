//! A world that goes on with fewer ranks when some are lost for good, or with more when they are back.

use super::attempt::Attempt;
use super::group::Group;
use super::local_ranks::Supervisor;
use super::members::{Plan, Report, Start, Verdict};
use super::part::{Changing, Part};
use super::program::Program;
use super::rank_variables::RankVariables;
use super::records::Records;
use super::slots::Slots;
use crate::error::{Error, Result};
use crate::launch::node::{Elastic, Node};
use crate::launch::settings::Settings;
use crate::launch::variable::Environment;

/// What stays the same from start to start.
pub(super) struct Run<'a> {
    pub(super) node: &'a Node,
    pub(super) elastic: &'a Elastic,
    pub(super) program: &'a Program,
    pub(super) records: &'a Records,
    pub(super) supervisor: &'a Supervisor,
    /// Shared by the ranks of a world of one host.
    pub(super) secret: Option<&'a str>,
}

impl Run<'_> {
    /// Starts the ranks of this host as often as the launchers agree on.
    pub(super) fn run(&self) -> Result<()> {
        let lookup = |name: &str| Some(self.program.variable(name)?.to_string_lossy().into_owned());
        let settings = Settings::read(Environment::new(&lookup))?;
        let mut group = Group::join(self.node, self.elastic, &settings, self.supervisor)?;
        let mut slots = Slots::new(self.node.ranks);
        let mut report = self.report(None, &slots, Vec::new());
        let mut failed = None;
        loop {
            let start = match group.next(report, self.supervisor)? {
                Verdict::Start(start) => start,
                Verdict::Finished => return Ok(()),
                Verdict::End | Verdict::Over(None) => {
                    return Err(failed.unwrap_or_else(no_restarts));
                }
                Verdict::Over(Some(error)) => return Err(error),
            };
            if let Some(line) = start.plan.line() {
                self.supervisor.stderr.print(&line);
            }
            let part = self.part(&start.plan, &slots, &settings)?;
            let attempt = self.attempt(&start, &part)?;
            let succeeded = attempt.failure.is_none();
            if attempt.stop.is_some() {
                return match attempt.failure {
                    Some(failure) => Err(failure.error),
                    None => {
                        group.end(self.report(Some(true), &slots, Vec::new()));
                        Ok(())
                    }
                };
            }
            let has_come_up = |rank| self.records.ready_path(rank).exists();
            let (first, ends) = (part.first, &attempt.outcome.ends);
            let (rejoin, is_restart) = (self.elastic.rejoin, part.attempt > 0);
            let lost = slots.give_up(first, ends, has_come_up, rejoin, is_restart);
            report = self.report(Some(succeeded), &slots, lost);
            failed = attempt.failure.map(|failure| failure.error);
        }
    }

    fn report(&self, succeeded: Option<bool>, slots: &Slots, lost: Vec<String>) -> Report {
        Report {
            succeeded,
            ranks: slots.count(),
            least: self.elastic.least_ranks,
            lost,
        }
    }

    fn attempt(&self, start: &Start, part: &Part) -> Result<Attempt> {
        let variables = RankVariables {
            part,
            program: self.program,
            records: self.records,
            master_addr: &self.node.master_addr,
            port: start.port,
            reserved: self.node.nodes > 1 || self.node.master_port == 0,
            secret: self.secret,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
        };
        Attempt::run(self.supervisor, &variables)
    }

    /// This host's part of a start.
    fn part(&self, plan: &Plan, slots: &Slots, settings: &Settings) -> Result<Part> {
        let node = self.node.node_rank;
        let Some((group, host)) = plan.of(node) else {
            let expected = "this host among those that take part in a start";
            return Err(Error::config(format!("node rank {node}"), expected, "none"));
        };
        let visible = self.program.variable("CUDA_VISIBLE_DEVICES");
        let visible = visible.map(|list| list.to_string_lossy().into_owned());
        // A rank that does not come is noticed after the time that it has to come back.
        let join = settings.patience.min(self.elastic.rejoin);
        Ok(Part {
            first: host.first,
            ranks: host.ranks,
            world: plan.world(),
            group,
            groups: plan.hosts.len(),
            attempt: plan.restart,
            max_restarts: plan.max_restarts,
            initial: plan.initial,
            changing: Some(Changing {
                join: (plan.restart > 0).then_some(join),
                gpus: slots.gpus(visible.as_deref()),
            }),
        })
    }
}

fn no_restarts() -> Error {
    let found = "another host's failed, and no restart is left";
    Error::config("the ranks of all hosts", "to end well", found)
}
