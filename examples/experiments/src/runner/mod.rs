//! Runs what is missing of a matrix, one experiment after the other.

mod children;
mod command;
mod launch;
mod others;
mod programs;
mod resources;
mod state;

pub use command::{Command, ELSEWHERE, Meeting, commands};
pub use launch::{Launch, Outcome};
pub use programs::Programs;
pub use resources::lacking;
pub use state::State;
pub(crate) use state::summary;

use crate::matrix::{Experiment, Matrix};
use crate::{Error, Result, files};
use children::{Children, End};
use others::CoreTime;
use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Lines of a failed run's output that are told.
const TAIL: usize = 15;

/// How runs are made.
#[derive(Debug)]
pub struct Runner<'a> {
    /// The folder of the matrix.
    pub out: &'a Path,
    /// What is started.
    pub programs: Programs,
    /// Cores of this machine.
    pub cores: usize,
    /// Compute threads of a rank.
    pub threads: usize,
    /// How long one run may take.
    pub deadline: Duration,
    /// Set by Ctrl-C and SIGTERM.
    pub stop: &'a AtomicBool,
}

/// How many runs there are of each kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Complete before.
    pub kept: usize,
    /// Run now, with success.
    pub finished: usize,
    /// Run now, without.
    pub failed: usize,
    /// Not for this machine.
    pub elsewhere: usize,
}

/// The folder of a run in that of its matrix.
pub fn run_folder(out: &Path, one: &Experiment) -> PathBuf {
    out.join("runs").join(one.name())
}

impl Runner<'_> {
    /// Runs what is missing. A run that fails is told, and the others go on.
    ///
    /// # Errors
    /// [`Error::Interrupted`] after Ctrl-C or SIGTERM; [`Error::File`] if a folder cannot be read or written.
    pub fn run(&self, matrix: &Matrix, say: &mut dyn FnMut(&str)) -> Result<Tally> {
        let mut tally = Tally::default();
        let all = matrix.experiments.len();
        for (number, one) in matrix.experiments.iter().enumerate() {
            let folder = run_folder(self.out, one);
            let name = format!("[{}/{all}] {}", number + 1, one.name());
            match State::of(&folder)? {
                State::Complete => {
                    tally.kept += 1;
                    say(&format!("{name}: there already"));
                    continue;
                }
                State::Incomplete => {
                    let aside = files::move_aside(&folder)?;
                    say(&format!("{name}: incomplete, moved to {}", aside.display()));
                }
                State::Missing => {}
            }
            if let Some(why) = lacking(one) {
                tally.elsewhere += 1;
                say(&format!("{name}: not run here: {why}"));
                continue;
            }
            say(&format!("{name}: running"));
            let outcome = self.one(one, &folder)?;
            let seconds = outcome.seconds;
            if outcome.success {
                tally.finished += 1;
                say(&format!("{name}: finished in {seconds:.1} s"));
            } else {
                tally.failed += 1;
                say(&format!(
                    "{name}: FAILED after {seconds:.1} s: {}",
                    outcome.message
                ));
            }
        }
        Ok(tally)
    }

    /// Runs one experiment in a folder that is not there yet.
    fn one(&self, one: &Experiment, folder: &Path) -> Result<Outcome> {
        files::make_folder(folder)?;
        let program = self.programs.path(one.model.program);
        let meeting = Meeting {
            host: "127.0.0.1",
            port: free_port()?,
        };
        let mut launch = Launch {
            experiment: one.clone(),
            commands: commands(one, &program, folder, self.threads, meeting),
            cores: self.cores,
            threads: self.threads,
            outcome: None,
        };
        launch.write(folder)?;
        let log = folder.join("run.log");
        let file = OpenOptions::new().create(true).append(true).open(&log);
        let file = file.map_err(|e| Error::file(&log, "a file to append to", e))?;
        let (began, before) = (Instant::now(), CoreTime::now());
        let end = match Children::start(&launch.commands, &file) {
            Ok(mut children) => children.wait(self.deadline, self.stop)?,
            Err(error) => End::Failure(error.to_string()),
        };
        let used = before.zip(CoreTime::now());
        let outcome = Outcome {
            success: end == End::Success && State::of(folder)? == State::Complete,
            seconds: began.elapsed().as_secs_f64(),
            others_cores: used.and_then(|(then, now)| then.used_by_others(now, self.cores)),
            message: String::new(),
        };
        let message = match &end {
            _ if outcome.success => String::new(),
            End::Success => "it ended with success, but left no summary of a finished run".into(),
            End::Failure(what) => what.clone(),
            End::Deadline => format!(
                "it took longer than {} s; --deadline gives it more",
                self.deadline.as_secs()
            ),
            End::Interrupted => "interrupted".into(),
        };
        let message = match outcome.success {
            success if success => message,
            _ => format!("{message}; the end of {}:\n{}", log.display(), tail(&log)),
        };
        let outcome = Outcome { message, ..outcome };
        launch.outcome = Some(outcome.clone());
        launch.write(folder)?;
        if end == End::Interrupted || self.stop.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        Ok(outcome)
    }
}

/// A port of this machine that nobody listens at.
fn free_port() -> Result<u16> {
    let found = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
    let found =
        found.map_err(|e| Error::value("a free port", "one on 127.0.0.1", e.to_string()))?;
    Ok(found.port())
}

/// The last lines of a file, as far as it can be read.
fn tail(path: &Path) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let mut last = VecDeque::new();
    for line in text.lines() {
        if last.len() == TAIL {
            last.pop_front();
        }
        last.push_back(format!("    {line}"));
    }
    Vec::from(last).join("\n")
}
