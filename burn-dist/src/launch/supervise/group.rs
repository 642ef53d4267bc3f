//! All ranks of this host, from their start until nothing of them is left.

use super::child::Child;
use super::end::{End, Ended, Outcome};
use super::environment::Environment;
use super::output::Output;
use super::program::Program;
use super::records::{Records, ranks};
use super::signals::{self, Event, Watch};
use super::terminal::{Stream, Terminal, Voice};
use crate::error::{Error, Result};
use crate::launch::host;
use crate::launch::ranks::Ranks;
use rustix::process::Signal;
use signal_hook::consts::SIGINT;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long ranks have to finish their step, save and leave after a signal to the launcher.
pub(super) const STOP_GRACE: Duration = Duration::from_secs(30);

/// How long ranks have to end by themselves after another has failed: they tell each other. The
/// same again after SIGTERM.
pub(super) const FAIL_GRACE: Duration = Duration::from_secs(5);

/// How long the output of what ranks have started, and left behind, is waited for.
const LEFTOVERS: Duration = Duration::from_secs(1);

/// How often children are looked at without a reason; a signal may get lost.
const TICK: Duration = Duration::from_secs(1);

/// What a group needs besides its ranks.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) watch: Watch,
    pub(super) voice: Voice,
    pub(super) terminal: Terminal,
    pub(super) stop_grace: Duration,
    pub(super) fail_grace: Duration,
}

/// The ranks of this host.
#[derive(Debug)]
pub(super) struct Group<'a> {
    desk: &'a Desk,
    children: Vec<Child>,
    /// Ended ranks in the order in which they were found so.
    order: Vec<usize>,
    /// Outputs that are still read.
    readers: usize,
    enough: (Arc<PipeReader>, Option<PipeWriter>),
    /// The signal that asked the launcher to stop.
    stop: Option<i32>,
    failed: bool,
    terminate_at: Option<Instant>,
    kill_at: Option<Instant>,
}

impl<'a> Group<'a> {
    /// Starts all ranks, or none.
    pub(super) fn start(
        desk: &'a Desk,
        environment: &Environment<'_>,
        records: &Records,
    ) -> Result<Self> {
        let pipe = io::pipe().map_err(|e| Error::config("the launcher", "a pipe", e))?;
        let mut group = Self {
            desk,
            children: Vec::new(),
            order: Vec::new(),
            readers: 0,
            enough: (Arc::new(pipe.0), Some(pipe.1)),
            stop: None,
            failed: false,
            terminate_at: None,
            kill_at: None,
        };
        let Environment { node, program, .. } = environment;
        for (local, rank) in ranks(node).enumerate() {
            let logs = [Stream::Out, Stream::Err]
                .map(|stream| records.log(rank, stream, environment.attempt));
            let [out_log, err_log] = logs;
            let variables = environment.of(local, records.error_path(rank));
            let mut child = Child::start(rank, program, variables)
                .map_err(|e| not_started(rank, program, e))?;
            let (out, err) = child.outputs();
            group.children.push(child);
            group.read(rank, Stream::Out, out, out_log?)?;
            group.read(rank, Stream::Err, err, err_log?)?;
        }
        Ok(group)
    }

    fn read<R>(
        &mut self,
        rank: usize,
        stream: Stream,
        from: Option<R>,
        log: Option<File>,
    ) -> Result<()>
    where
        R: Read + AsFd + Send + 'static,
    {
        let Some(from) = from else {
            return Ok(());
        };
        let output = Output {
            rank,
            stream,
            from,
            log,
            terminal: self.desk.terminal.clone(),
            enough: self.enough.0.clone(),
        };
        let done = self.desk.watch.sender();
        let copy = move || {
            output.copy();
            let _ = done.send(Event::Read);
        };
        let thread = std::thread::Builder::new().name(format!("output of rank {rank}"));
        let refused = |e| Error::config(format!("output of rank {rank}"), "a thread", e);
        thread.spawn(copy).map_err(refused)?;
        self.readers += 1;
        Ok(())
    }

    /// Returns when all ranks, all they have started and all they have printed are done with.
    pub(super) fn look_after(mut self) -> Outcome {
        loop {
            self.look();
            if self.children.iter().all(|child| child.end.is_some()) {
                break;
            }
            self.act();
            let deadline = self.terminate_at.into_iter().chain(self.kill_at).min();
            match self.next(deadline) {
                Some(Event::Stop(signal)) => self.stop(signal),
                Some(Event::Read) => self.readers -= 1,
                Some(Event::Child) | None => {}
            }
        }
        self.drain(Some(Instant::now() + LEFTOVERS));
        for child in &mut self.children {
            child.bury();
        }
        // What still has a pipe open has left its group on purpose: only what it has written by
        // now counts. Nobody reading the terminal is a reason to wait.
        self.enough.1 = None;
        self.drain(None);
        self.outcome()
    }

    /// Notices who has ended.
    fn look(&mut self) {
        for at in 0..self.children.len() {
            let child = &mut self.children[at];
            let Some(end) = child.look().then_some(child.end).flatten() else {
                continue;
            };
            self.order.push(at);
            if end.is_success() || self.failed || self.stop.is_some() {
                continue;
            }
            self.failed = true;
            let grace = self.desk.fail_grace;
            self.terminate_at = Some(Instant::now() + grace);
            let failed = format!("rank {} {end}", self.children[at].rank);
            let others = match self.running() {
                running if running.is_empty() => String::new(),
                running => format!("; {} may end within {grace:?}", Ranks(&running)),
            };
            self.desk.voice.say(&format!("{failed}{others}"));
        }
    }

    /// Does what is due.
    fn act(&mut self) {
        let now = Instant::now();
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if due(self.terminate_at) {
            self.terminate_at = None;
            self.kill_at = Some(now + self.desk.fail_grace);
            self.signal(Signal::TERM, "does not end", "do not end");
            // One that stands still cannot even hear it.
            for child in &mut self.children {
                child.signal(Signal::CONT);
            }
        }
        if due(self.kill_at) {
            self.kill_at = None;
            self.signal(Signal::KILL, "is still there", "are still there");
        }
    }

    /// The launcher got a signal.
    fn stop(&mut self, signal: i32) {
        let again = self.stop.replace(signal).is_some();
        if again {
            if signal == SIGINT {
                self.terminate_at = None;
                self.kill_at = Some(Instant::now());
            }
            return;
        }
        // Ranks that must end after a failure keep the time that they have for it.
        if self.kill_at.is_none() {
            self.terminate_at = None;
            self.kill_at = Some(Instant::now() + self.desk.stop_grace);
        }
        for child in &mut self.children {
            child.signal(Signal::TERM);
        }
        let (name, grace) = (signals::name(signal), self.desk.stop_grace);
        let running = self.running();
        let text = format!("{name}: {} may finish within {grace:?}", Ranks(&running));
        self.desk.voice.say(&text);
    }

    fn signal(&mut self, signal: Signal, one: &str, many: &str) {
        let running = self.running();
        for child in &mut self.children {
            child.signal(signal);
        }
        let (ranks, name) = (Ranks(&running), signals::name(signal.as_raw()));
        let text = format!("{ranks} {}: {name}", ranks.verb(one, many));
        self.desk.voice.say(&text);
    }

    fn running(&self) -> BTreeSet<usize> {
        let running = self.children.iter().filter(|child| child.end.is_none());
        running.map(|child| child.rank).collect()
    }

    /// Waits until all output is read, but no longer than until `deadline`, and not after a signal.
    fn drain(&mut self, deadline: Option<Instant>) {
        while self.readers > 0 && deadline.is_none_or(|at| Instant::now() < at) {
            match self.next(deadline) {
                Some(Event::Read) => self.readers -= 1,
                Some(Event::Stop(signal)) => {
                    self.stop = Some(signal);
                    return;
                }
                Some(Event::Child) | None => {}
            }
        }
    }

    fn next(&self, deadline: Option<Instant>) -> Option<Event> {
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        self.desk
            .watch
            .next(left.map_or(TICK, |left| left.min(TICK)))
    }

    fn outcome(self) -> Outcome {
        let ended = |&at: &usize| {
            let child = &self.children[at];
            let end = child.end?;
            Some(Ended {
                rank: child.rank,
                pid: child.pid(),
                end,
                ours: matches!(end, End::Killed(signal) if child.was_sent(signal)),
                error: None,
            })
        };
        Outcome {
            ends: self.order.iter().filter_map(ended).collect(),
            stop: self.stop,
        }
    }
}

/// A program that cannot be run is nobody's failure but the caller's; the codes are a shell's.
fn not_started(rank: usize, program: &Program, error: io::Error) -> Error {
    let path = std::path::Path::new(&program.path).display();
    let (code, remedy) = match error.kind() {
        io::ErrorKind::NotFound => (127, "give its path, or the name of a program in PATH"),
        _ => (126, "is it an executable file for this system?"),
    };
    Error::Child {
        rank,
        host: host::name(),
        status: "could not be started".into(),
        code,
        message: format!("{path}: {error}; {remedy}"),
    }
}
