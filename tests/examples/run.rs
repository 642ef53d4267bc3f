//! A run of an example, and what it printed.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// No run here takes more than a few seconds; one that takes this long hangs.
const LIMIT: Duration = Duration::from_secs(120);

/// Cargo puts examples next to the folder of the test's own binary.
fn binary(example: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let folder = test.ancestors().nth(2).unwrap();
    let name = format!("{example}{}", std::env::consts::EXE_SUFFIX);
    let path = folder.join("examples").join(name);
    assert!(
        path.is_file(),
        "{} is missing: `cargo test` builds it, and so does `cargo build --example {example}`",
        path.display()
    );
    path
}

/// A run of the example that is going on.
pub(crate) struct Running {
    child: Child,
    stdout: Receiver<String>,
    stderr: JoinHandle<String>,
    deadline: Instant,
    seen: Vec<String>,
}

/// How a run ended and what it printed.
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<String>,
    pub(crate) stderr: String,
}

impl Running {
    pub(crate) fn start(example: &str, args: &str, folders: &[(&str, &Path)]) -> Self {
        let mut command = Command::new(binary(example));
        command.args(args.split_whitespace());
        let records = ["--log-to", "--output-dir", "--output_dir", "--o "];
        let is_given = |flag: &str| args.contains(flag) || folders.iter().any(|(f, _)| *f == flag);
        if example.ends_with("_fsdp") && !records.into_iter().any(is_given) {
            // No folder beside the sources for every test.
            command.args(["--log-to", "none"]);
        }
        for (flag, folder) in folders {
            command.arg(flag).arg(folder);
        }
        let mut child = command
            // Panics would show themselves, and nothing else may print.
            .env("RUST_BACKTRACE", "1")
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (send, stdout) = mpsc::channel();
        std::thread::spawn(move || {
            lines
                .map_while(std::result::Result::ok)
                .try_for_each(|line| send.send(line))
        });
        let mut errors = child.stderr.take().unwrap();
        let stderr = std::thread::spawn(move || {
            let mut text = String::new();
            errors.read_to_string(&mut text).map(|_| text).unwrap()
        });
        Self {
            child,
            stdout,
            stderr,
            deadline: Instant::now() + LIMIT,
            seen: Vec::new(),
        }
    }

    /// Reads until a line that starts so, or to the end of the output.
    fn read_until(&mut self, start: Option<&str>) {
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            match self.stdout.recv_timeout(left) {
                Ok(line) => {
                    let found = start.is_some_and(|start| line.starts_with(start));
                    self.seen.push(line);
                    if found {
                        return;
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    self.child.kill().unwrap();
                    panic!("no end after {LIMIT:?}; so far: {:#?}", self.seen);
                }
            }
        }
    }

    pub(crate) fn end(mut self) -> Ended {
        self.read_until(None);
        Ended {
            code: self.child.wait().unwrap().code(),
            stdout: self.seen,
            stderr: self.stderr.join().unwrap(),
        }
    }

    /// Kills it once it has printed a line that starts so.
    pub(crate) fn kill_at(mut self, start: &str) {
        self.read_until(Some(start));
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let seen = self.seen.last().unwrap();
        assert!(seen.starts_with(start), "it ended before, with {seen}");
    }
}

impl Ended {
    pub(crate) fn succeeded(self) -> Vec<String> {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        self.stdout
    }

    /// The one line with which it failed.
    pub(crate) fn failed(self) -> String {
        assert_eq!(self.code, Some(1), "{}", self.stderr);
        // Log lines begin with a bracket.
        let lines = self.stderr.lines().filter(|line| !line.starts_with('['));
        let lines: Vec<_> = lines.collect();
        assert_eq!(lines.len(), 1, "{}", self.stderr);
        assert!(lines[0].starts_with("error: "), "{}", lines[0]);
        lines[0].to_owned()
    }
}

/// A row of the closing table.
pub(crate) fn row<'a>(output: &'a [String], name: &str) -> &'a str {
    let start = format!("  {name:<24} ");
    let found: Vec<_> = output
        .iter()
        .filter_map(|line| line.strip_prefix(&start))
        .collect();
    assert_eq!(found.len(), 1, "rows {name} in {output:#?}");
    found[0]
}

/// Megabytes that a rank sent per step: counted, and planned.
pub(crate) fn sent(output: &[String]) -> (f64, f64) {
    megabytes(output, "sent per rank and step")
}

/// Megabytes of a row: counted, and planned.
pub(crate) fn megabytes(output: &[String], name: &str) -> (f64, f64) {
    let row = row(output, name);
    let (counted, planned) = row.split_once(", planned ").unwrap();
    let number = |text: &str| text.strip_suffix(" MB").unwrap().parse().unwrap();
    (number(counted), number(planned))
}

/// The epochs that were trained, and the line of each.
pub(crate) fn epochs(output: &[String]) -> Vec<(&str, &str)> {
    output
        .iter()
        .filter_map(|line| line.split_once(": test accuracy "))
        .collect()
}

pub(crate) fn names(output: &[String]) -> Vec<&str> {
    epochs(output).into_iter().map(|(name, _)| name).collect()
}
