//! One run of the launcher, and the processes that belong to it.

use rustix::process::{Pid, Signal, kill_process};
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// No run here takes more than a few seconds; one that takes this long hangs.
const LIMIT: Duration = Duration::from_secs(40);

/// A run that is going on.
pub(crate) struct Run {
    child: Child,
    mark: String,
    out: Text,
    err: Text,
    readers: Vec<JoinHandle<()>>,
    deadline: Instant,
}

/// How a run ended and what it printed.
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) out: Vec<u8>,
    pub(crate) err: String,
    pub(crate) took: Duration,
}

#[derive(Clone, Default)]
struct Text(Arc<Mutex<Vec<u8>>>);

/// The launcher with these flags, for a shell script as the program.
pub(crate) fn launcher(flags: &str, script: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_burn-dist-run"));
    command.args(flags.split_whitespace());
    command.args(["--", "sh", "-c", script]);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        let threads = ["RAYON_NUM_THREADS", "OMP_NUM_THREADS"].contains(&&*name);
        if threads || name.starts_with("BURN_DIST_") {
            command.env_remove(&*name);
        }
    }
    command
}

/// Runs a script on so many ranks to its end.
pub(crate) fn run(ranks: usize, script: &str) -> Ended {
    Run::start(&mut ranked(ranks, script)).end()
}

pub(crate) fn ranked(ranks: usize, script: &str) -> Command {
    launcher(&format!("--nproc-per-node {ranks}"), script)
}

/// Whether a signal can be tested: what a shell runs in the background ignores SIGINT, what nohup
/// runs SIGHUP, and so does all that is started from there.
pub(crate) fn is_heard(signal: Signal) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let ignored = status.lines().find_map(|l| l.strip_prefix("SigIgn:"));
    let ignored = u64::from_str_radix(ignored.unwrap().trim(), 16).unwrap();
    ignored & (1 << (signal.as_raw() - 1)) == 0
}

impl Run {
    pub(crate) fn start(command: &mut Command) -> Self {
        static RUNS: AtomicUsize = AtomicUsize::new(0);
        let number = RUNS.fetch_add(1, Ordering::Relaxed);
        let mark = format!("LAUNCHER_TEST=run-{}-{number}", std::process::id());
        let (name, value) = mark.split_once('=').unwrap();
        command
            .env(name, value)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let since = Instant::now();
        let mut child = command.spawn().unwrap();
        let (out, err) = (Text::default(), Text::default());
        let readers = vec![
            out.read(child.stdout.take().unwrap()),
            err.read(child.stderr.take().unwrap()),
        ];
        Self {
            child,
            mark,
            out,
            err,
            readers,
            deadline: since + LIMIT,
        }
    }

    /// Waits until the run has printed this, so often.
    pub(crate) fn until(&mut self, text: &str, times: usize) {
        let found = |from: &Text| from.text().matches(text).count();
        self.wait(text, |run| found(&run.out) + found(&run.err) >= times);
    }

    pub(crate) fn out(&self) -> String {
        self.out.text()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits until nothing of the run is left.
    pub(crate) fn gone(&mut self) {
        let _ = self.child.wait();
        self.wait("the end of all processes", |run| run.left().is_empty());
    }

    /// Waits for the end, and that nothing is left then.
    pub(crate) fn end(self) -> Ended {
        // What was killed needs a core once more to die.
        let (ended, left) = self.finish(Duration::from_secs(5));
        assert_eq!(left, [], "left of it: {}", ended.err);
        ended
    }

    /// Waits for the end; also returns what is left of the run, and kills that.
    pub(crate) fn end_with_left(self) -> (Ended, Vec<Pid>) {
        self.finish(Duration::ZERO)
    }

    /// The end, and what is still left after so long.
    fn finish(mut self, patience: Duration) -> (Ended, Vec<Pid>) {
        let start = self.deadline - LIMIT;
        self.wait("the launcher's end", |run| {
            run.child.try_wait().unwrap().is_some()
        });
        let took = start.elapsed();
        let code = self.child.wait().unwrap().code();
        let until = Instant::now() + patience;
        let mut left = self.left();
        while !left.is_empty() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
            left = self.left();
        }
        self.kill();
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        let ended = Ended {
            code,
            out: self.out.0.lock().unwrap().clone(),
            err: self.err.text(),
            took,
        };
        (ended, left)
    }

    fn wait(&mut self, what: &str, done: impl Fn(&mut Self) -> bool) {
        while !done(self) {
            if Instant::now() > self.deadline {
                self.kill();
                let (out, err) = (self.out.text(), self.err.text());
                panic!("waited too long for {what}\nout: {out}\nerr: {err}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// All processes that were started in the environment of this run. The dead have none.
    fn left(&self) -> Vec<Pid> {
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = processes.filter_map(|p| p.file_name().to_str()?.parse::<i32>().ok());
        let marked = |pid: &i32| {
            let path = format!("/proc/{pid}/environ");
            let environment = std::fs::read(Path::new(&path)).unwrap_or_default();
            let mut variables = environment.split(|&b| b == 0);
            variables.any(|v| v == self.mark.as_bytes())
        };
        pids.filter(marked).filter_map(Pid::from_raw).collect()
    }

    fn kill(&mut self) {
        for pid in self.left() {
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Text {
    fn read(&self, mut from: impl Read + Send + 'static) -> JoinHandle<()> {
        let text = self.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 8192];
            while let Ok(read @ 1..) = from.read(&mut buffer) {
                text.0.lock().unwrap().extend_from_slice(&buffer[..read]);
            }
        })
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl Ended {
    /// The lines of standard output, in alphabetical order.
    pub(crate) fn lines(&self) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.out);
        let mut lines: Vec<_> = text.lines().map(str::to_string).collect();
        lines.sort();
        lines
    }
}
