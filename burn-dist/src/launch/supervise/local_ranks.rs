//! All ranks of this host, from their start until all that they have started has ended.

use super::child::Child;
use super::end::{End, Ended, Outcome};
use super::output::Output;
use super::program::Program;
use super::rank_variables::RankVariables;
use super::signals::{self, Event, Watch};
use super::terminal::{Stderr, Stream, Terminal};
use crate::error::{Error, Result};
use crate::launch::host;
use crate::launch::rank_set::RankSet;
use rustix::process::Signal;
use signal_hook::consts::SIGINT;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long ranks have to finish their step, save and leave after a signal to the launcher.
pub(super) const STOP_GRACE: Duration = Duration::from_secs(30);

/// How long ranks have to end by themselves after another has failed, as they tell each other; and as
/// long again after SIGTERM.
pub(super) const FAIL_GRACE: Duration = Duration::from_secs(5);

/// How long the output of processes that ranks have started, and left running, is waited for.
const LEFTOVER_OUTPUT_WAIT: Duration = Duration::from_secs(1);

/// How often children are checked without a signal, which may get lost.
const CHILD_POLL_EVERY: Duration = Duration::from_secs(1);

/// What the launcher watches, prints to, and allows its ranks.
#[derive(Debug)]
pub(super) struct Supervisor {
    pub(super) watch: Watch,
    pub(super) stderr: Stderr,
    pub(super) terminal: Terminal,
    pub(super) stop_grace: Duration,
    pub(super) fail_grace: Duration,
    /// How many starts have failed on other hosts: the ranks of those are to end.
    pub(super) failed_starts: Arc<AtomicUsize>,
}

/// The ranks of this host.
#[derive(Debug)]
pub(super) struct LocalRanks<'a> {
    supervisor: &'a Supervisor,
    attempt: usize,
    children: Vec<Child>,
    /// Ended ranks in the order in which they were found so.
    order: Vec<usize>,
    /// Outputs that are still read.
    readers: usize,
    /// Readers of output end when the writing end is dropped.
    stop_reading: (Arc<PipeReader>, Option<PipeWriter>),
    /// The signal that asked the launcher to stop.
    stop: Option<i32>,
    failed: bool,
    terminate_at: Option<Instant>,
    kill_at: Option<Instant>,
}

impl<'a> LocalRanks<'a> {
    /// Starts all ranks, or none.
    pub(super) fn start(supervisor: &'a Supervisor, variables: &RankVariables<'_>) -> Result<Self> {
        let pipe = io::pipe().map_err(|e| Error::config("the launcher", "a pipe", e))?;
        let mut started = Self {
            supervisor,
            attempt: variables.part.attempt,
            children: Vec::new(),
            order: Vec::new(),
            readers: 0,
            stop_reading: (Arc::new(pipe.0), Some(pipe.1)),
            stop: None,
            failed: false,
            terminate_at: None,
            kill_at: None,
        };
        let RankVariables {
            part,
            program,
            records,
            ..
        } = variables;
        for (local, rank) in part.here().enumerate() {
            let logs =
                [Stream::Out, Stream::Err].map(|stream| records.log(rank, stream, part.attempt));
            let [out_log, err_log] = logs;
            let own = variables.of(local);
            let mut child =
                Child::start(rank, program, own).map_err(|e| not_started(rank, program, e))?;
            let (out, err) = child.outputs();
            started.children.push(child);
            started.read(rank, Stream::Out, out, out_log?)?;
            started.read(rank, Stream::Err, err, err_log?)?;
        }
        Ok(started)
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
            terminal: self.supervisor.terminal.clone(),
            stop_reading: self.stop_reading.0.clone(),
        };
        let done = self.supervisor.watch.sender();
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

    /// Returns when all ranks and what they have started have ended, and all their output is read.
    pub(super) fn wait(mut self) -> Outcome {
        loop {
            self.note_ended();
            self.note_others();
            if self.children.iter().all(|child| child.end.is_some()) {
                break;
            }
            self.send_due_signals();
            let deadline = self.terminate_at.into_iter().chain(self.kill_at).min();
            match self.next(deadline) {
                Some(Event::Stop(signal)) => self.stop(signal),
                Some(Event::Read) => self.readers -= 1,
                Some(Event::Child | Event::Others) | None => {}
            }
        }
        self.drain(Some(Instant::now() + LEFTOVER_OUTPUT_WAIT));
        for child in &mut self.children {
            child.reap();
        }
        // A process that still has the pipe open has left its process group on purpose: only what it has
        // written by now is read. That may block for as long as the terminal is not read.
        self.stop_reading.1 = None;
        self.drain(None);
        self.outcome()
    }

    /// Notes which ranks have ended; after the first failure the others have `fail_grace` to end.
    fn note_ended(&mut self) {
        for at in 0..self.children.len() {
            let child = &mut self.children[at];
            let Some(end) = child.has_just_ended().then_some(child.end).flatten() else {
                continue;
            };
            self.order.push(at);
            if end.is_success() || self.failed || self.stop.is_some() {
                continue;
            }
            self.failed = true;
            let grace = self.supervisor.fail_grace;
            self.terminate_at = Some(Instant::now() + grace);
            let failed = format!("rank {} {end}", self.children[at].rank);
            let others = match self.running() {
                running if running.is_empty() => String::new(),
                running => format!("; {} may end within {grace:?}", RankSet(&running)),
            };
            self.supervisor.stderr.print(&format!("{failed}{others}"));
        }
    }

    /// If ranks of another host have failed, or that host is lost, these have `fail_grace` to end.
    fn note_others(&mut self) {
        let failed = self.supervisor.failed_starts.load(Ordering::SeqCst) > self.attempt;
        if failed && !self.failed && self.stop.is_none() {
            self.failed = true;
            self.terminate_at = Some(Instant::now() + self.supervisor.fail_grace);
        }
    }

    /// Sends the signals whose time has come.
    fn send_due_signals(&mut self) {
        let now = Instant::now();
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if due(self.terminate_at) {
            self.terminate_at = None;
            self.kill_at = Some(now + self.supervisor.fail_grace);
            self.signal(Signal::TERM, "does not end", "do not end");
            // A stopped process receives it only once it continues.
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
            self.kill_at = Some(Instant::now() + self.supervisor.stop_grace);
        }
        for child in &mut self.children {
            child.signal(Signal::TERM);
        }
        let (name, grace) = (signals::name(signal), self.supervisor.stop_grace);
        let running = self.running();
        let text = format!("{name}: {} may finish within {grace:?}", RankSet(&running));
        self.supervisor.stderr.print(&text);
    }

    fn signal(&mut self, signal: Signal, one: &str, many: &str) {
        let running = self.running();
        for child in &mut self.children {
            child.signal(signal);
        }
        let (ranks, name) = (RankSet(&running), signals::name(signal.as_raw()));
        let text = format!("{ranks} {}: {name}", ranks.verb(one, many));
        self.supervisor.stderr.print(&text);
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
                Some(Event::Child | Event::Others) | None => {}
            }
        }
    }

    fn next(&self, deadline: Option<Instant>) -> Option<Event> {
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        self.supervisor
            .watch
            .next(left.map_or(CHILD_POLL_EVERY, |left| left.min(CHILD_POLL_EVERY)))
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
                lived: child.lived,
                error: None,
            })
        };
        Outcome {
            ends: self.order.iter().filter_map(ended).collect(),
            stop: self.stop,
        }
    }
}

/// The error for a program that cannot be run; the exit codes are a shell's.
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
