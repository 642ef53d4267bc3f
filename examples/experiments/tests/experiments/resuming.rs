//! Which runs are made, kept and made again, with a program that stands in for the examples.

use crate::generated::{cli, matrix, write_records};
use experiments::matrix::Matrix;
use experiments::runner::{Programs, Runner, State, Tally, run_folder};
use experiments::{Error, results, session};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Leaves the records that lie beside it, as rank 0 does; fails or hangs on the set-ups that files beside it name.
const PROGRAM: &str = r#"#!/bin/sh
here=$(dirname "$0")
node=0
while [ $# -gt 0 ]; do
    case $1 in
    --log-to) to=$2 ;;
    --node-rank) node=$2 ;;
    --setup) setup=$2 ;;
    esac
    shift
done
echo "node $node of $setup in $to" | tee -a "$here/started"
if [ -e "$here/fails-$setup" ]; then
    echo "no memory left" >&2
    exit 3
fi
if [ -e "$here/hangs-$setup" ]; then
    echo $$ >> "$here/hanging"
    exec sleep 600
fi
[ "$node" = 0 ] || exit 0
cp "$here"/records/* "$to/"
"#;

struct Place {
    folder: tempfile::TempDir,
    matrix: Matrix,
}

impl Place {
    fn new(arguments: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let matrix = matrix(arguments);
        let programs = folder.path().join("programs");
        write_records(&programs.join("records"), &matrix.experiments[0]);
        let program = programs.join("vit_fsdp");
        fs::write(&program, PROGRAM).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let place = Self { folder, matrix };
        place.matrix.claim(&place.out()).unwrap();
        place
    }

    fn out(&self) -> PathBuf {
        self.folder.path().join("out")
    }

    fn beside(&self, name: &str) -> PathBuf {
        self.folder.path().join("programs").join(name)
    }

    /// Makes what is missing; returns what was said too.
    fn run(&self, deadline: f64, stop: &AtomicBool) -> (Result<Tally, Error>, Vec<String>) {
        let mut said = Vec::new();
        let out = self.out();
        let programs = self.folder.path().join("programs");
        let runner = Runner {
            out: &out,
            programs: Programs::in_folder(&programs, &[]).unwrap(),
            cores: 2,
            threads: 1,
            deadline: Duration::from_secs_f64(deadline),
            stop,
        };
        let tally = runner.run(&self.matrix, &mut |line| said.push(line.to_owned()));
        (tally, said)
    }

    fn folder_of(&self, number: usize) -> PathBuf {
        run_folder(&self.out(), &self.matrix.experiments[number])
    }
}

fn tally(kept: usize, finished: usize, failed: usize) -> Tally {
    Tally {
        kept,
        finished,
        failed,
        elsewhere: 0,
    }
}

static NEVER: AtomicBool = AtomicBool::new(false);

#[test]
fn what_is_complete_is_kept_and_what_is_not_is_made_again() {
    let place = Place::new("--strategies ddp --setups 1_1,1_2,2_1");
    fs::write(place.beside("fails-1_2"), "").unwrap();
    let (first, said) = place.run(60.0, &NEVER);
    // One fails, and the one behind it is made all the same.
    assert_eq!(first.unwrap(), tally(0, 2, 1));
    let said = said.join("\n");
    for part in ["FAILED", "no memory left", "exit status: 3", "run.log"] {
        assert!(said.contains(part), "{part} in {said}");
    }
    // Two nodes are two processes, with one log.
    let log = fs::read_to_string(place.folder_of(2).join("run.log")).unwrap();
    assert!(
        log.contains("node 0 of 2_1") && log.contains("node 1 of 2_1"),
        "{log}"
    );

    fs::remove_file(place.beside("fails-1_2")).unwrap();
    let started = fs::read_to_string(place.beside("started"))
        .unwrap()
        .lines()
        .count();
    let (second, said) = place.run(60.0, &NEVER);
    assert_eq!(second.unwrap(), tally(2, 1, 0));
    let again = fs::read_to_string(place.beside("started"))
        .unwrap()
        .lines()
        .count();
    assert_eq!(again, started + 1, "{said:?}");
    // What the failed run left is there still.
    let aside = PathBuf::from(format!("{}.incomplete-1", place.folder_of(1).display()));
    assert!(
        fs::read_to_string(aside.join("run.log"))
            .unwrap()
            .contains("no memory left")
    );
    let (third, _) = place.run(60.0, &NEVER);
    assert_eq!(third.unwrap(), tally(3, 0, 0));
}

#[test]
fn a_run_without_a_summary_of_success_has_failed() {
    let place = Place::new("--strategies ddp --setups 1_1");
    let path = place.beside("records/summary.json");
    let text = fs::read_to_string(&path).unwrap();
    let stopped = text.replace("\"finished\"", "\"stopped\"");
    assert_ne!(stopped, text);
    fs::write(&path, stopped).unwrap();
    let (tally_, said) = place.run(60.0, &NEVER);
    assert_eq!(tally_.unwrap(), tally(0, 0, 1));
    assert!(
        said.join("\n").contains("no summary of a finished run"),
        "{said:?}"
    );
    assert_eq!(State::of(&place.folder_of(0)).unwrap(), State::Incomplete);
    let runs = results::read(&place.out(), &place.matrix).unwrap();
    assert!(
        runs[0].summary.is_none(),
        "records of a failed run are not shown"
    );
}

/// Whether a process is there.
fn is_alive(pid: &str) -> bool {
    // One that has ended and was not waited for is dead too.
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

fn hanging(place: &Place) -> Vec<String> {
    let text = fs::read_to_string(place.beside("hanging")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn a_run_that_takes_too_long_is_ended() {
    let place = Place::new("--strategies ddp --setups 2_1,1_1");
    fs::write(place.beside("hangs-2_1"), "").unwrap();
    let began = Instant::now();
    let (found, said) = place.run(1.5, &NEVER);
    assert_eq!(found.unwrap(), tally(0, 1, 1));
    assert!(said.join("\n").contains("--deadline"), "{said:?}");
    assert!(began.elapsed() < Duration::from_secs(15));
    let pids = hanging(&place);
    assert_eq!(pids.len(), 2);
    assert!(!pids.iter().any(|pid| is_alive(pid)), "{pids:?}");
}

#[test]
fn an_interrupt_ends_the_processes_and_the_rest_is_left_for_later() {
    let place = Place::new("--strategies ddp --setups 1_1,1_2");
    fs::write(place.beside("hangs-1_1"), "").unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let (setter, waiting) = (Arc::clone(&stop), place.beside("hanging"));
    let interrupts = std::thread::spawn(move || {
        let until = Instant::now() + Duration::from_secs(30);
        while !waiting.exists() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
        setter.store(true, Ordering::Relaxed);
    });
    let (found, _) = place.run(60.0, &stop);
    interrupts.join().unwrap();
    assert!(matches!(found, Err(Error::Interrupted)), "{found:?}");
    assert!(!hanging(&place).iter().any(|pid| is_alive(pid)));
    assert_eq!(State::of(&place.folder_of(1)).unwrap(), State::Missing);
}

#[test]
fn a_whole_start_ends_in_a_report_and_tells_of_failures() {
    let place = Place::new("--strategies ddp --setups 1_1,1_2");
    fs::write(place.beside("fails-1_2"), "").unwrap();
    let programs = place.folder.path().join("programs");
    let arguments = |out: &Path| {
        format!(
            "--strategies ddp --setups 1_1,1_2 --program-dir {} --out {}",
            programs.display(),
            out.display()
        )
    };
    let success = session::run(&cli(&arguments(&place.out()))).unwrap();
    assert!(!success, "a run has failed");
    let page = fs::read_to_string(place.out().join("report.html")).unwrap();
    assert!(page.contains("no memory left"));
    let commands = fs::read_to_string(place.out().join("commands.sh")).unwrap();
    assert_eq!(
        commands.matches("vit_fsdp --standalone").count(),
        2,
        "{commands}"
    );
    fs::remove_file(place.out().join("report.md")).unwrap();
    session::run(&cli(&format!("--report-only {}", place.out().display()))).unwrap();
    assert!(place.out().join("report.md").exists());
}

#[test]
fn a_dry_run_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    assert!(
        session::run(&cli(&format!(
            "--study b --full --dry-run --out {}",
            out.display()
        )))
        .unwrap()
    );
    assert!(!out.exists());
}
