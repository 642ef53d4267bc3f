//! This launcher among those of all hosts, before each start.

use super::local_ranks::Supervisor;
use super::members::{
    Call, Decision, Failed, Limits, Member, Next, Report, Service, Start, State, Verdict,
};
use super::port::Port;
use super::signals;
use crate::error::{Error, Result};
use crate::launch::host;
use crate::launch::node::{Elastic, Node};
use crate::launch::settings::Settings;
use std::time::{Duration, Instant};

/// How often a launcher that waits looks for a signal.
const POLL_EVERY: Duration = Duration::from_millis(100);
/// How often it calls node rank 0 again.
const CALL_EVERY: Duration = Duration::from_millis(250);
/// How long ranks that have ended may take to be gone, besides their grace.
const ENDING: Duration = Duration::from_secs(10);

/// This launcher, and the others.
#[derive(Debug)]
pub(super) enum Group {
    /// There is no other host.
    Alone(Box<Alone>),
    Several(Box<Several>),
}

/// A launcher that has nobody to agree with.
#[derive(Debug)]
pub(super) struct Alone {
    state: State<()>,
    master: String,
    /// The port that was asked for; 0 for any free one.
    asked: u16,
    /// Kept for rank 0 until the next start.
    port: Option<Port>,
}

/// This launcher's place among several.
#[derive(Debug)]
pub(super) struct Several {
    // In this order: the service ends when all members have gone.
    member: Option<Member>,
    _service: Option<Service>,
    call: Call,
    run: Option<String>,
    report: Option<Report>,
    /// Hosts of the last start.
    hosts: usize,
    rejoin: Duration,
    patience: Duration,
}

impl Group {
    /// Meets the other launchers, if there may be others.
    pub(super) fn join(
        node: &Node,
        elastic: &Elastic,
        settings: &Settings,
        supervisor: &Supervisor,
    ) -> Result<Self> {
        let limits = Limits {
            least_nodes: elastic.least_nodes,
            most_nodes: node.nodes,
            max_restarts: node.max_restarts,
            rejoin: elastic.rejoin,
            patience: settings.patience,
            ending: 2 * supervisor.fail_grace + ENDING,
        };
        if node.nodes == 1 {
            let mut state = State::new(limits, Instant::now());
            let refused = |_| Error::config("number of this host", "0", node.node_rank);
            state
                .come(node.node_rank, &host::name(), ())
                .map_err(refused)?;
            return Ok(Self::Alone(Box::new(Alone {
                state,
                master: node.master_addr.clone(),
                asked: node.master_port,
                port: None,
            })));
        }
        let call = Call {
            master: node.master_addr.clone(),
            port: node.master_port,
            secret: settings.secret.clone(),
            heartbeat: settings.heartbeat,
            node: node.node_rank,
            nodes: (elastic.least_nodes, node.nodes),
            failed_starts: supervisor.failed_starts.clone(),
        };
        let serve = || {
            let address = (call.master.as_str(), call.port);
            Service::start(limits, address, call.secret.clone(), call.heartbeat)
        };
        let mut several = Several {
            member: None,
            _service: (node.node_rank == 0).then(serve).transpose()?,
            call,
            run: None,
            report: None,
            hosts: node.nodes,
            rejoin: elastic.rejoin,
            patience: settings.patience,
        };
        several.call(several.patience, supervisor)?;
        Ok(Self::Several(Box::new(several)))
    }

    /// Says how the ranks of this host are, and waits for what is decided: it is never [`Verdict::End`].
    ///
    /// # Errors
    /// [`Error::TooFew`] if node rank 0 is lost; [`Error::Config`] if a signal asks to stop.
    pub(super) fn next(&mut self, report: Report, supervisor: &Supervisor) -> Result<Verdict> {
        match self {
            Self::Alone(alone) => alone.next(report),
            Self::Several(several) => {
                several.say(report);
                several.next(supervisor)
            }
        }
    }

    /// Says that the ranks have ended well, and waits a little for what comes of it, as this launcher ends.
    pub(super) fn end(&mut self, report: Report) {
        if let Self::Several(several) = self {
            several.say(report);
            let member = several.member.as_ref();
            member.map(|member| member.next(ENDING));
        }
    }
}

impl Alone {
    fn next(&mut self, report: Report) -> Result<Verdict> {
        let now = Instant::now();
        let mut notices = self.state.report(0, report, now);
        notices.extend(self.state.decide(now));
        Ok(match notices.pop().map(|notice| notice.decision) {
            Some(Decision::Start(plan)) => {
                let fresh = (self.asked == 0).then(|| Port::reserve(&self.master));
                self.port = fresh.transpose()?;
                let port = self.port.as_ref().map_or(self.asked, Port::number);
                Verdict::Start(Start { plan, port })
            }
            Some(Decision::Finished) => Verdict::Finished,
            Some(Decision::Over(error)) => Verdict::Over(error),
            Some(Decision::End) | None => Verdict::Over(None),
        })
    }
}

impl Several {
    fn say(&mut self, report: Report) {
        if let Some(member) = &self.member {
            member.report(&report);
        }
        self.report = Some(report);
    }

    fn next(&mut self, supervisor: &Supervisor) -> Result<Verdict> {
        loop {
            check_signal(supervisor)?;
            let next = match &self.member {
                Some(member) => member.next(POLL_EVERY),
                None => Next::Lost("it has not answered".into()),
            };
            match next {
                Next::Nothing | Next::Verdict(Verdict::End) => {}
                Next::Verdict(verdict) => {
                    if let Verdict::Start(start) = &verdict {
                        self.hosts = start.plan.hosts.len();
                    }
                    return Ok(verdict);
                }
                Next::Lost(why) => self.call_again(&why, supervisor)?,
            }
        }
    }

    /// Calls node rank 0 again after the connection to it has ended, for as long as it may take to come back.
    fn call_again(&mut self, why: &str, supervisor: &Supervisor) -> Result<()> {
        self.member = None;
        let called = match self.call.node {
            // Its service is its own.
            0 => Err(Error::config("node rank 0", "its own launcher", why)),
            _ => self.call(self.rejoin, supervisor),
        };
        if let Err(error) = called {
            check_signal(supervisor)?;
            let Call {
                master,
                port,
                nodes,
                ..
            } = &self.call;
            let left = self.hosts.saturating_sub(1);
            let hosts = |count: usize| match count {
                1 => "1 host is".into(),
                count => format!("{count} hosts are"),
            };
            return Err(Error::TooFew {
                lost: format!(
                    "node rank 0 at {master}:{port}, the host of the rendezvous, is lost: {why}, and it is not \
                     back after {:?} ({error})",
                    self.rejoin
                ),
                left: hosts(left),
                least: match nodes.0 {
                    1 => "1 host, which must be node rank 0, is".into(),
                    least => format!("{least} hosts, node rank 0 among them, are"),
                },
            });
        }
        if let (Some(member), Some(report)) = (&self.member, &self.report) {
            member.report(report);
        }
        Ok(())
    }

    /// Calls node rank 0 until it answers, but no longer than `patience`.
    fn call(&mut self, patience: Duration, supervisor: &Supervisor) -> Result<()> {
        let until = Instant::now() + patience;
        let Call {
            master, port, node, ..
        } = &self.call;
        let what = format!("node rank {node}, calling node rank 0 at {master}:{port}");
        loop {
            check_signal(supervisor)?;
            let events = supervisor.watch.sender();
            match self.call.call(self.run.as_deref(), events) {
                Ok(member) => {
                    self.run = Some(member.run.clone());
                    self.member = Some(member);
                    return Ok(());
                }
                Err(Failed::Refused(problem)) => {
                    let expected = "the launcher of this run, started with the same --nnodes and \
                                    BURN_DIST_SECRET";
                    return Err(Error::config(what, expected, problem));
                }
                Err(Failed::Retry(problem)) if Instant::now() >= until => {
                    let expected = format!("an answer within {patience:?}");
                    return Err(Error::config(what, expected, problem));
                }
                Err(Failed::Retry(_)) => std::thread::sleep(CALL_EVERY),
            }
        }
    }
}

/// An error if a signal has asked this launcher to stop.
fn check_signal(supervisor: &Supervisor) -> Result<()> {
    match supervisor.watch.stop() {
        Some(signal) => {
            let found = signals::name(signal);
            Err(Error::config(
                "the launcher",
                "to wait for the other hosts",
                found,
            ))
        }
        None => Ok(()),
    }
}
