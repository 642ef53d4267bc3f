//! A running command with the processes that it has started.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// No run here takes more than a few seconds; one that takes this long hangs.
const LIMIT: Duration = Duration::from_secs(60);
/// The variables that a run inherits: none of a launcher that runs the tests.
const KEPT: [&str; 5] = ["PATH", "HOME", "TMPDIR", "LANG", "LD_LIBRARY_PATH"];
const MARK: &str = "BURN_DIST_INTEROP_TEST";

/// A running command.
pub(crate) struct Run {
    child: Child,
    mark: String,
    out: Text,
    err: Text,
    readers: Vec<JoinHandle<()>>,
    deadline: Instant,
}

/// How a run ended and what it printed.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

#[derive(Clone, Default)]
struct Text(Arc<Mutex<Vec<u8>>>);

/// A program that cargo has built: an example, or one of the library's own.
pub(crate) fn built(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.ancestors().nth(2).unwrap().join(name);
    assert!(
        path.is_file(),
        "{} is missing: `cargo test` of the workspace builds it, and so does `cargo build \
         --examples --bins`",
        path.display()
    );
    path
}

/// A program in `PATH`, if it is there.
pub(crate) fn installed(name: &str) -> Option<PathBuf> {
    let folders = std::env::var_os("PATH")?;
    let mut paths = std::env::split_paths(&folders).map(|folder| folder.join(name));
    paths.find(|path| path.is_file())
}

/// A command with little of this process's environment, and these variables.
pub(crate) fn command(program: impl AsRef<Path>, variables: &str) -> Command {
    let mut command = Command::new(program.as_ref());
    command.env_clear();
    let kept = KEPT.map(|name| (name, std::env::var_os(name)));
    command.envs(
        kept.into_iter()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    command.envs(pairs(variables));
    command
}

/// Variables written as `NAME=value NAME=value`.
pub(crate) fn pairs(variables: &str) -> impl Iterator<Item = (&str, &str)> {
    variables
        .split_whitespace()
        .filter_map(|word| word.split_once('='))
}

impl Run {
    pub(crate) fn start(command: &mut Command) -> Self {
        static RUNS: AtomicUsize = AtomicUsize::new(0);
        let number = RUNS.fetch_add(1, Ordering::Relaxed);
        let mark = format!("{}-{number}", std::process::id());
        command
            .env(MARK, &mark)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (out, err) = (Text::default(), Text::default());
        let readers = vec![
            out.read(child.stdout.take().unwrap()),
            err.read(child.stderr.take().unwrap()),
        ];
        Self {
            child,
            mark: format!("{MARK}={mark}"),
            out,
            err,
            readers,
            deadline: Instant::now() + LIMIT,
        }
    }

    /// Waits until the run has printed this text.
    pub(crate) fn until(&mut self, text: &str) {
        self.wait(text, |run| run.out.text().contains(text));
    }

    /// Waits for the end, and checks that no process is left soon after.
    pub(crate) fn end(mut self) -> Ended {
        self.wait("its end", |run| run.child.try_wait().unwrap().is_some());
        let code = self.child.wait().unwrap().code();
        // Some launchers clean up in another process.
        self.wait("the end of all its processes", |run| run.left().is_empty());
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        Ended {
            code,
            out: self.out.text(),
            err: self.err.text(),
        }
    }

    fn wait(&mut self, what: &str, done: impl Fn(&mut Self) -> bool) {
        while !done(self) {
            if Instant::now() > self.deadline {
                let left = self.left();
                self.kill();
                let (out, err) = (self.out.text(), self.err.text());
                panic!("waited too long for {what} ({left:?})\nout: {out}\nerr: {err}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// All processes that were started in the environment of this run. The dead have none.
    fn left(&self) -> Vec<i32> {
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = processes.filter_map(|p| p.file_name().to_str()?.parse::<i32>().ok());
        let marked = |pid: &i32| {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let mut variables = environment.split(|&b| b == 0);
            variables.any(|v| v == self.mark.as_bytes())
        };
        pids.filter(marked).collect()
    }

    fn kill(&mut self) {
        for pid in self.left() {
            let kill = ["-KILL", &pid.to_string()].map(str::to_owned);
            let _ = Command::new("kill")
                .args(kill)
                .stderr(Stdio::null())
                .status();
        }
        let _ = self.child.kill();
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
