//! The processes of one run: started together, waited for, and ended together.

use super::Command;
use crate::{Error, Result};
use rustix::process::{Pid, Signal, kill_process_group};
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long processes may take to end when they are told to, and the others when one has failed.
const GRACE: Duration = Duration::from_secs(20);

/// How often they are looked at.
const POLL: Duration = Duration::from_millis(50);

/// How a run's processes have ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// All by themselves, with success.
    Success,
    /// One of them with this.
    Failure(String),
    /// Ended here, because they took too long.
    Deadline,
    /// Ended here, because this process was told to end.
    Interrupted,
}

/// Processes that have not ended are killed when this is dropped.
#[derive(Debug)]
pub(super) struct Children {
    /// By node, with how it has ended.
    children: Vec<(Child, Option<ExitStatus>)>,
}

impl Children {
    /// Starts all of them, in groups of their own: what they start ends with them.
    pub(super) fn start(commands: &[Command], log: &File) -> Result<Self> {
        let mut all = Self {
            children: Vec::new(),
        };
        for command in commands {
            let failed = |e: std::io::Error| Error::Program {
                program: command.program.clone(),
                found: e.to_string(),
                advice: "see that it can be started by hand".into(),
            };
            let output = || log.try_clone().map_err(failed);
            let mut process = std::process::Command::new(&command.program);
            process
                .args(&command.arguments)
                .envs(command.environment.iter().cloned())
                .stdin(Stdio::null())
                .stdout(output()?)
                .stderr(output()?)
                .process_group(0);
            // Of a launcher around this process, whose ranks these are not.
            for name in [
                "RANK",
                "WORLD_SIZE",
                "LOCAL_RANK",
                "LOCAL_WORLD_SIZE",
                "NODE_RANK",
                "MASTER_ADDR",
                "MASTER_PORT",
            ] {
                process.env_remove(name);
            }
            all.children.push((process.spawn().map_err(failed)?, None));
        }
        Ok(all)
    }

    /// Waits until all have ended, or ends them.
    pub(super) fn wait(&mut self, deadline: Duration, stop: &AtomicBool) -> Result<End> {
        let began = Instant::now();
        let mut failure: Option<(Instant, String)> = None;
        loop {
            let running = self.poll()?;
            if failure.is_none() {
                failure = self.failure().map(|what| (Instant::now(), what));
            }
            let end = match &failure {
                Some((_, what)) if running == 0 => Some(End::Failure(what.clone())),
                Some((since, what)) if since.elapsed() > GRACE => Some(End::Failure(what.clone())),
                None if running == 0 => Some(End::Success),
                _ if stop.load(Ordering::Relaxed) => Some(End::Interrupted),
                _ if began.elapsed() > deadline => Some(End::Deadline),
                _ => None,
            };
            if let Some(end) = end {
                self.end()?;
                return Ok(end);
            }
            std::thread::sleep(POLL);
        }
    }

    /// Notes which have ended, and returns how many have not.
    fn poll(&mut self) -> Result<usize> {
        for (child, ended) in &mut self.children {
            if ended.is_none() {
                *ended = child.try_wait().map_err(|e| Error::Program {
                    program: format!("of process {}", child.id()),
                    found: e.to_string(),
                    advice: "it could not be waited for".into(),
                })?;
            }
        }
        Ok(self
            .children
            .iter()
            .filter(|(_, ended)| ended.is_none())
            .count())
    }

    fn failure(&self) -> Option<String> {
        let mut ends = self.children.iter().enumerate();
        ends.find_map(|(node, (_, ended))| {
            let status = ended.filter(|status| !status.success())?;
            Some(format!("node {node} ended with {status}"))
        })
    }

    /// Tells those that run to end, and kills those that do not.
    fn end(&mut self) -> Result<()> {
        self.signal(Signal::TERM);
        let told = Instant::now();
        while self.poll()? > 0 {
            if told.elapsed() > GRACE {
                self.signal(Signal::KILL);
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// Sends a signal to the groups of those that run.
    fn signal(&self, signal: Signal) {
        let running = self.children.iter().filter(|(_, ended)| ended.is_none());
        for (child, _) in running {
            let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
            if let Some(pid) = pid {
                // It may have ended meanwhile.
                let _ = kill_process_group(pid, signal);
            }
        }
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        for (child, _) in &mut self.children {
            // It was killed, or has ended.
            let _ = child.wait();
        }
    }
}
