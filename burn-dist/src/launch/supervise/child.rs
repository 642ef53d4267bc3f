//! One rank's process, and the processes that it starts itself.

use super::end::End;
use super::program::Program;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, getpid, getppid, kill_process_group};
use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{self, ChildStderr, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// A process that leads a process group of its own.
///
/// It is waited for only once all ranks have ended. Until then the system gives its process id, which is
/// also that of its process group, to no other process, so that a signal to what a rank has left running
/// cannot reach another one.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) rank: usize,
    pub(super) end: Option<End>,
    /// From its start to its end.
    pub(super) lived: Duration,
    started: Instant,
    process: process::Child,
    pid: Pid,
    sent: Vec<i32>,
    /// Whether the process id is still its own.
    has_pid: bool,
}

impl Child {
    /// Starts the program. It is killed when the thread that calls this ends, however that ends.
    pub(super) fn start(
        rank: usize,
        program: &Program,
        variables: Vec<(&str, Option<OsString>)>,
    ) -> io::Result<Self> {
        let mut command = Command::new(&program.path);
        command
            .args(&program.args)
            .envs(program.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        for (name, value) in variables {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let launcher = getpid();
        // SAFETY: between fork and exec only system calls are made; nothing is allocated and no
        // lock is taken.
        #[allow(unsafe_code)]
        unsafe {
            command.pre_exec(move || die_with(launcher));
        }
        let process = command.spawn()?;
        Ok(Self {
            rank,
            end: None,
            lived: Duration::ZERO,
            started: Instant::now(),
            pid: Pid::from_child(&process),
            process,
            sent: Vec::new(),
            has_pid: true,
        })
    }

    /// Its standard output and error, once.
    pub(super) fn outputs(&mut self) -> (Option<ChildStdout>, Option<ChildStderr>) {
        (self.process.stdout.take(), self.process.stderr.take())
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Whether this launcher sent the signal before the process had ended.
    pub(super) fn was_sent(&self, signal: i32) -> bool {
        self.sent.contains(&signal)
    }

    /// Whether it has ended since the last call.
    pub(super) fn has_just_ended(&mut self) -> bool {
        if self.end.is_some() {
            return false;
        }
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        self.end = match rustix::process::waitid(WaitId::Pid(self.pid), options) {
            Ok(None) | Err(rustix::io::Errno::INTR) => None,
            Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Some(End::Exited(code as u8)),
                (None, Some(signal)) => Some(End::Killed(signal)),
                (None, None) => None,
            },
            Err(_) => {
                self.has_pid = false;
                Some(End::Unknown)
            }
        };
        self.lived = self.started.elapsed();
        self.end.is_some()
    }

    /// Sends a signal to the process and all it has started, as far as that is in its group.
    pub(super) fn signal(&mut self, signal: Signal) {
        if self.has_pid && kill_process_group(self.pid, signal).is_ok() && self.end.is_none() {
            self.sent.push(signal.as_raw());
        }
    }

    /// Kills what is left of it, and gives the process id back to the system.
    pub(super) fn reap(&mut self) {
        if self.has_pid {
            self.signal(Signal::KILL);
            let _ = self.process.wait();
            self.has_pid = false;
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.reap();
    }
}

/// Has this process killed when its parent is gone, even by `kill -9`.
fn die_with(launcher: Pid) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // Too late if the parent has ended before that: then another process is the parent.
    if getppid() != Some(launcher) {
        return Err(rustix::io::Errno::SRCH.into());
    }
    Ok(())
}
