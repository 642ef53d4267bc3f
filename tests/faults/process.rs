//! The processes of one test: their signals, output, files and exit codes.

use std::io::Read;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// No case takes more than a few seconds; one that takes this long hangs.
const LIMIT: Duration = Duration::from_secs(40);
const POLL_EVERY: Duration = Duration::from_millis(3);

/// The processes of one test, killed when it is over.
pub(crate) struct Group {
    name: String,
    folder: TempDir,
    pub(crate) port: u16,
    env: Vec<(String, String)>,
    pub(crate) all: Vec<Process>,
    since: Instant,
}

/// A process, and what it has printed.
pub(crate) struct Process {
    name: String,
    child: Child,
    text: Arc<Mutex<Vec<u8>>>,
    readers: Vec<JoinHandle<()>>,
    pub(crate) end: Option<(ExitStatus, Instant)>,
}

impl Group {
    pub(crate) fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            folder: tempfile::tempdir().unwrap(),
            port: free_port(),
            env: Vec::new(),
            all: Vec::new(),
            since: Instant::now(),
        }
    }

    /// A variable for all processes that are started from now on.
    pub(crate) fn set(&mut self, name: &str, value: impl ToString) -> &mut Self {
        self.env.push((name.into(), value.to_string()));
        self
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn has(&self, file: &str) -> bool {
        self.file(file).exists()
    }

    /// Names of the files that start so.
    pub(crate) fn files(&self, start: &str) -> Vec<String> {
        let files = std::fs::read_dir(self.folder.path()).unwrap().flatten();
        let names = files.map(|f| f.file_name().to_string_lossy().into_owned());
        let mut names: Vec<_> = names.filter(|name| name.starts_with(start)).collect();
        names.sort();
        names
    }

    /// The process that made a file.
    pub(crate) fn pid_in(&self, file: &str) -> u32 {
        std::fs::read_to_string(self.file(file))
            .unwrap()
            .parse()
            .unwrap()
    }

    pub(crate) fn make(&self, file: &str) {
        std::fs::write(self.file(file), "").unwrap();
    }

    /// Starts all ranks of a world.
    pub(crate) fn world(&mut self, size: usize) {
        (0..size).for_each(|rank| self.rank(rank, size));
    }

    /// Starts a rank by hand.
    pub(crate) fn rank(&mut self, rank: usize, world: usize) {
        let mut command = self.command();
        let place = [
            ("RANK", rank),
            ("WORLD_SIZE", world),
            ("LOCAL_RANK", rank),
            ("LOCAL_WORLD_SIZE", world),
            ("MASTER_PORT", self.port.into()),
        ];
        for (name, value) in place {
            command.env(format!("BURN_DIST_{name}"), value.to_string());
        }
        command.env("BURN_DIST_MASTER_ADDR", "127.0.0.1");
        self.start(format!("rank {rank}"), command);
    }

    /// Starts a launcher of so many ranks.
    pub(crate) fn launcher(&mut self, ranks: usize) {
        let mut command = self.command();
        command.env("FAULTS_NPROC", ranks.to_string());
        self.start("launcher".into(), command);
    }

    /// Starts a launcher of as many ranks as the variables for all processes say.
    pub(crate) fn elastic_launcher(&mut self) {
        let command = self.command();
        self.start("launcher".into(), command);
    }

    /// Starts a process that is all ranks.
    pub(crate) fn threads(&mut self) {
        let command = self.command();
        self.start("threads".into(), command);
    }

    fn command(&self) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["rank_program", "--exact", "--ignored", "--nocapture"]);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if ["BURN_DIST_", "FAULTS_", "RUST_"]
                .iter()
                .any(|start| text.starts_with(start))
            {
                command.env_remove(&name);
            }
        }
        command
            .env("FAULTS_FOLDER", self.folder.path())
            // Folders of a killed launcher are inside the test's folder, and removed with it.
            .env("TMPDIR", self.folder.path())
            .env("RAYON_NUM_THREADS", "1")
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn start(&mut self, name: String, mut command: Command) {
        let mut child = command.spawn().unwrap();
        let text = Arc::default();
        let readers = vec![
            read(child.stdout.take().unwrap(), &text),
            read(child.stderr.take().unwrap(), &text),
        ];
        self.all.push(Process {
            name,
            child,
            text,
            readers,
            end: None,
        });
    }

    /// Sends a signal; returns the moment before.
    pub(crate) fn signal(&self, process: usize, signal: &str) -> Instant {
        let since = Instant::now();
        send(self.all[process].pid(), signal);
        since
    }

    /// Waits until something is so.
    pub(crate) fn until(&mut self, what: &str, done: impl Fn(&mut Self) -> bool) {
        while !done(self) {
            let late = self.since.elapsed() > LIMIT;
            self.check(!late, || format!("waited too long for {what}"));
            std::thread::sleep(POLL_EVERY);
        }
    }

    pub(crate) fn until_file(&mut self, file: &str) {
        self.until(file, |group| {
            let early = group.all.iter_mut().any(|p| p.look());
            let there = group.has(file);
            group.check(there || !early, || format!("an end before {file}"));
            there
        });
    }

    /// Waits until so many ranks have joined the rendezvous: each has two connections to it.
    pub(crate) fn until_joined(&mut self, ranks: usize) {
        let port = format!(":{:04X}", self.port);
        self.until("ranks at the rendezvous", |_| {
            let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
            let open = table.lines().filter(|line| {
                let columns: Vec<_> = line.split_whitespace().collect();
                columns[2].ends_with(&port) && columns[3] == "01"
            });
            open.count() >= 2 * ranks
        });
    }

    /// Waits for the ends of some processes; how long after `since` the last of them was.
    pub(crate) fn ends(&mut self, some: &[usize], since: Instant, limit: Duration) -> Duration {
        self.until("the ends", |group| {
            let late = since.elapsed() > limit + Duration::from_secs(5);
            group.check(!late, || format!("no end of {some:?} in time"));
            some.iter().filter(|i| !group.all[**i].look()).count() == 0
        });
        let ends = some.iter().filter_map(|i| self.all[*i].end);
        let last = ends.map(|(_, at)| at).max().unwrap();
        let took = last.saturating_duration_since(since);
        self.check(took < limit, || format!("{some:?} ended after {took:?}"));
        took
    }

    /// Waits until no process of this test is left.
    pub(crate) fn gone(&mut self) {
        let since = Instant::now();
        self.until("the end of everything", |group| {
            for process in &mut group.all {
                process.look();
            }
            let left = group.left();
            let late = since.elapsed() > Duration::from_secs(10);
            group.check(!late || left.is_empty(), || format!("left of it: {left:?}"));
            left.is_empty()
        });
    }

    /// All living processes that were started in the environment of this test.
    fn left(&self) -> Vec<u32> {
        let mark = format!("FAULTS_FOLDER={}", self.folder.path().display());
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = processes.filter_map(|p| p.file_name().to_str()?.parse().ok());
        let marked = |pid: &u32| {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|b| *b == 0).any(|v| v == mark.as_bytes())
        };
        pids.filter(marked).collect()
    }

    /// The error that a process ended with.
    pub(crate) fn error(&self, process: usize) -> String {
        let text = self.all[process].text();
        let error = text.lines().find_map(|line| line.strip_prefix("error: "));
        self.check(error.is_some(), || {
            format!("no error of {}", self.all[process].name)
        });
        error.unwrap_or_default().to_owned()
    }

    pub(crate) fn code(&self, process: usize) -> Option<i32> {
        self.all[process].end.and_then(|(status, _)| status.code())
    }

    pub(crate) fn expect(&self, text: &str, words: &[&str]) {
        for word in words {
            self.check(text.contains(word), || {
                format!("{word:?} is not in {text:?}")
            });
        }
    }

    pub(crate) fn expect_code(&self, process: usize, code: i32) {
        let found = self.code(process);
        self.check(found == Some(code), || {
            format!(
                "{} ended with {found:?}, not {code}",
                self.all[process].name
            )
        });
    }

    /// Fails the test, unless something holds, with all that the processes have printed.
    pub(crate) fn check(&self, holds: bool, problem: impl FnOnce() -> String) {
        if !holds {
            let mut report = format!("{}: {}\n", self.name, problem());
            for process in &self.all {
                let (name, end) = (&process.name, process.end.map(|(status, _)| status));
                report += &format!("--- {name}: {end:?}\n{}\n", process.text());
            }
            panic!("{report}");
        }
    }

    pub(crate) fn say(&self, took: Duration) {
        println!("{}: {} ms", self.name, took.as_millis());
    }
}

impl Process {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended.
    pub(crate) fn look(&mut self) -> bool {
        if self.end.is_none()
            && let Some(status) = self.child.try_wait().unwrap()
        {
            self.end = Some((status, Instant::now()));
            // Its output is complete, unless another process holds its pipes.
            let readers = std::mem::take(&mut self.readers);
            let until = Instant::now() + Duration::from_secs(5);
            for reader in readers {
                while !reader.is_finished() && Instant::now() < until {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
        self.end.is_some()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().unwrap()).into_owned()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for process in self.all.iter_mut().filter(|p| p.end.is_none()) {
            let _ = process.child.kill();
            let _ = process.child.wait();
        }
        for pid in self.left() {
            send(pid, "KILL");
        }
    }
}

pub(crate) fn send(pid: u32, signal: &str) {
    let command = format!("kill -{signal} {pid}");
    let _ = Command::new("sh").args(["-c", &command]).status();
}

fn read(mut from: impl Read + Send + 'static, text: &Arc<Mutex<Vec<u8>>>) -> JoinHandle<()> {
    let text = text.clone();
    std::thread::spawn(move || {
        let mut buffer = [0; 8192];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            text.lock().unwrap().extend_from_slice(&buffer[..read]);
        }
    })
}

/// A free port, outside of the range from which the system assigns ports.
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = std::process::id().wrapping_mul(64) + NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 10_000 + (number % 20_000) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
