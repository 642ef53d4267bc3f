//! A SLURM cluster of one node, whose daemons run on loopback during one test.
//!
//! Needs munged, slurmctld and slurmd, and a variable that turns it on.

use super::clusters::port;
use super::cores::{RECORD, expect_shared};
use super::process::{Run, command, installed};
use super::training::{Training, example};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The variable that turns these tests on.
const SLURM: &str = "BURN_DIST_SLURM";
/// SLURM looks at time limits and at requeued jobs every half a minute.
const LIMIT: Duration = Duration::from_secs(180);
const POLL_EVERY: Duration = Duration::from_millis(100);

/// A cluster of this machine alone.
struct Cluster {
    folder: TempDir,
    daemons: Vec<Child>,
}

impl Cluster {
    /// A cluster with a node that waits for jobs; `None` if the variable is not set.
    fn start() -> Option<Self> {
        if std::env::var_os(SLURM).is_none() {
            eprintln!("skipped: {SLURM} is not set");
            return None;
        }
        let mut cluster = Self {
            folder: tempfile::tempdir().unwrap(),
            daemons: Vec::new(),
        };
        cluster.configure();
        let at = |name: &str| cluster.file(name).display().to_string();
        let [key, socket, seed] = ["munge.key", "munge.sock", "munge.seed"].map(at);
        let [log, pid] = ["munge.log", "munge.pid"].map(at);
        let munge = [
            "--foreground".into(),
            // The folder of a test is in one that every user may write to.
            "--force".into(),
            format!("--key-file={key}"),
            format!("--socket={socket}"),
            format!("--seed-file={seed}"),
            format!("--log-file={log}"),
            format!("--pid-file={pid}"),
        ];
        cluster.daemon("munged", &munge);
        cluster.until("munged", |c| c.file("munge.sock").exists());
        cluster.daemon("slurmctld", &["-D".into(), "-c".into()]);
        cluster.daemon("slurmd", &["-D".into()]);
        cluster.until("an idle node", |c| c.ask("sinfo -h -o %T") == "idle");
        Some(cluster)
    }

    fn configure(&self) {
        let key: Vec<u8> = (0..128).map(|_| rand_byte()).collect();
        std::fs::write(self.file("munge.key"), key).unwrap();
        set_private(&self.file("munge.key"));
        let user = output(Command::new("id").arg("-un"));
        // As it sees this machine: `NodeName=.. CPUs=.. ..`, and a second line.
        let node = output(Command::new(daemon("slurmd")).arg("-C"));
        let node = node.lines().next().unwrap();
        let name = node.split(['=', ' ']).nth(1).unwrap();
        let [daemons, first] = [port(30_000..=32_000), port(15_000..=24_000)];
        // The port of a run follows from the number of its job.
        let job = 70_000 + u32::from(first) - 15_000;
        let folder = self.folder.path().display();
        let (control, worker) = (daemons, daemons + 1);
        let lines = format!(
            "ClusterName=test\n\
             SlurmctldHost={name}(127.0.0.1)\n\
             SlurmUser={user}\n\
             SlurmdUser={user}\n\
             AuthType=auth/munge\n\
             AuthInfo=socket={folder}/munge.sock,cred_expire=5\n\
             CredType=cred/munge\n\
             FirstJobId={job}\n\
             SlurmctldPort={control}\n\
             SlurmdPort={worker}\n\
             StateSaveLocation={folder}\n\
             SlurmdSpoolDir={folder}/spool\n\
             SlurmctldPidFile={folder}/slurmctld.pid\n\
             SlurmdPidFile={folder}/slurmd.pid\n\
             SlurmctldLogFile={folder}/slurmctld.log\n\
             SlurmdLogFile={folder}/slurmd.log\n\
             ProctrackType=proctrack/linuxproc\n\
             TaskPlugin=task/affinity\n\
             JobAcctGatherType=jobacct_gather/none\n\
             AccountingStorageType=accounting_storage/none\n\
             SelectType=select/cons_tres\n\
             SelectTypeParameters=CR_Core\n\
             SchedulerParameters=bf_interval=1,sched_interval=1\n\
             MpiDefault=none\n\
             ReturnToService=2\n\
             {node} NodeAddr=127.0.0.1 State=UNKNOWN\n\
             PartitionName=all Nodes={name} Default=YES MaxTime=INFINITE State=UP\n"
        );
        std::fs::write(self.file("slurm.conf"), lines).unwrap();
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn conf(&self) -> String {
        format!("SLURM_CONF={}", self.file("slurm.conf").display())
    }

    fn daemon(&mut self, name: &str, args: &[String]) {
        let mut command = command(daemon(name), &self.conf());
        let null = || Stdio::null();
        command
            .args(args)
            .stdin(null())
            .stdout(null())
            .stderr(null());
        self.daemons.push(command.spawn().unwrap());
    }

    /// One of SLURM's commands, with these variables.
    fn command(&self, line: &str, variables: &str) -> Command {
        let mut words = line.split_whitespace();
        let program = words.next().unwrap();
        let program = installed(program).unwrap_or_else(|| panic!("{program} is not installed"));
        let mut command = command(program, &format!("{} {variables}", self.conf()));
        command.args(words);
        command
    }

    fn ask(&self, line: &str) -> String {
        let asked = self.command(line, "").output().unwrap();
        String::from_utf8_lossy(&asked.stdout).trim().to_owned()
    }

    fn until(&self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let until = Instant::now() + LIMIT;
        while !done(self) {
            if Instant::now() > until {
                let log = |name| std::fs::read_to_string(self.file(name)).unwrap_or_default();
                let logs = ["munge.log", "slurmctld.log", "slurmd.log"].map(log);
                panic!("waited too long for {what}\n{}", logs.join("\n"));
            }
            std::thread::sleep(POLL_EVERY);
        }
    }

    /// The same for a script that runs a program as a step of two tasks.
    fn submit(&self, options: &str, program: &[String]) -> (String, PathBuf) {
        let lines = format!("srun {}\necho ended with $?", program.join(" "));
        self.submit_lines(options, &lines)
    }

    /// Submits a script of two tasks, and returns the number of the job and its output file.
    fn submit_lines(&self, options: &str, lines: &str) -> (String, PathBuf) {
        let out = self.file("job.txt");
        std::fs::write(self.file("job.sh"), format!("#!/bin/sh\n{lines}\n")).unwrap();
        let line = format!("sbatch --parsable --ntasks=2 --open-mode=append {options}");
        let mut command = self.command(&line, "");
        command.arg("--output").arg(&out).arg(self.file("job.sh"));
        let asked = command.output().unwrap();
        assert!(asked.status.success(), "{asked:?}");
        (String::from_utf8(asked.stdout).unwrap().trim().into(), out)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Daemons, and what they have started for jobs: all of this cluster, and of no other.
        let conf = self.conf();
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        for pid in processes.filter_map(|p| p.file_name().to_str()?.parse::<u32>().ok()) {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let ours = environment.split(|b| *b == 0).any(|v| v == conf.as_bytes());
            if ours {
                let kill = ["-KILL", &pid.to_string()].map(str::to_owned);
                let _ = Command::new("kill")
                    .args(kill)
                    .stderr(Stdio::null())
                    .status();
            }
        }
        for daemon in &mut self.daemons {
            let _ = daemon.wait();
        }
    }
}

/// Daemons may be outside of `PATH`.
fn daemon(name: &str) -> PathBuf {
    let path = installed(name).unwrap_or_else(|| format!("/usr/sbin/{name}").into());
    assert!(path.is_file(), "{name} is not installed");
    path
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A key for munge, which protects nothing here.
fn rand_byte() -> u8 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0) as u8
}

fn set_private(path: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// A program with its arguments, quoted for a script.
fn words(args: impl IntoIterator<Item = String>) -> Vec<String> {
    let program = example().display().to_string();
    std::iter::once(program).chain(args).collect()
}

fn text(path: &PathBuf) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

#[test]
fn srun_starts_ranks_on_their_own_cores_and_on_shared_ones() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    for (name, options) in [("srun", ""), ("pmi2", "--mpi=pmi2")] {
        let mut command = cluster.command(&format!("srun -n 2 {options}"), "");
        command.arg(example());
        Training::new().expect_of_threads(2, name, vec![command]);
    }
    // A task whose program is a shell is still a task.
    let mut command = cluster.command("srun -n 2 bash -c", "");
    command.args(["\"$0\" \"$@\"; exit $?"]).arg(example());
    Training::new().expect_of_threads(2, "bash", vec![command]);
    for (bind, sharing) in [("cores", 1), ("none", 2)] {
        let line = format!("srun -n 2 --exclusive --cpu-bind={bind}");
        let mut command = cluster.command(&line, RECORD);
        command.arg(example());
        expect_shared(command, sharing);
    }
}

#[test]
fn steps_from_within_a_shell_are_ranks() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let Some(script) = installed("script") else {
        return eprintln!("skipped: script is not installed, so there is no terminal");
    };
    let inner = format!("srun --overlap -n 2 \"{}\"", example().display());
    for (name, outer) in [
        ("salloc", "salloc -Q -n 2 bash -c"),
        ("pty", "srun -n 2 --pty bash -c"),
    ] {
        let training = Training::new();
        // Only the first task has the terminal; the others are shells whose input has ended.
        let args = training.args(name).join(" ");
        let first = format!("test 0 != ${{SLURM_PROCID:-0}} || {inner} {args}");
        let line = format!("{outer} '{first}'");
        let mut run = command(&script, &cluster.conf());
        run.args(["-qec", &line, "/dev/null"]);
        let found = training.outcome(name, vec![Run::start(&mut run)]);
        found.expect(&training.of_threads(2), name);
    }
}

#[test]
fn steps_of_one_job_run_side_by_side() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let training = Training::new();
    let step = |save| words(training.args(save)).join(" ");
    let (one, two) = (step("one"), step("two"));
    let line = format!("srun --overlap -n 2 {one} & srun --overlap -n 2 {two}; ended=$?; wait $!");
    let (_, out) = cluster.submit_lines("", &format!("{line}; echo ended with $? and $ended"));
    cluster.until("the end of the job", |_| text(&out).contains("ended with"));
    let out = text(&out);
    assert!(out.contains("ended with 0 and 0"), "{out}");
    assert_eq!(out.matches("fsdp over 2 rank(s)").count(), 2, "{out}");
}

#[test]
fn under_srun_a_failed_rank_is_reported_and_no_rank_is_left() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let training = Training::new();
    let mut command = cluster.command("srun -n 2", "");
    // Another folder may differ between ranks, other arguments may not.
    let script =
        "test $SLURM_PROCID = 0 || { shift 2; set -- --data /nowhere \"$@\"; }; exec \"$0\" \"$@\"";
    command.args(["sh", "-c", script]).arg(example());
    let ended = Run::start(command.args(training.endless())).end();
    assert_eq!(ended.code, Some(1), "{ended:#?}");
    let why = "/nowhere: expected the folder cifar-10-batches-bin";
    assert_eq!(ended.err.matches(why).count(), 2, "{ended:#?}");
}

#[test]
fn a_job_saves_before_its_time_limit() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let training = Training::new();
    let mut args = training.endless();
    let save = cluster.file("save");
    args.extend(["--save".into(), save.display().to_string()]);
    let (_, out) = cluster.submit("--time=1 --signal=TERM@45", &words(args));
    cluster.until("the end of the job", |_| text(&out).contains("ended with"));
    let out = text(&out);
    assert!(out.contains("told to end: saved step "), "{out}");
    assert!(out.contains("ended with 0"), "{out}");
}

#[test]
fn a_requeued_job_goes_on_from_its_save() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let training = Training::new();
    let mut args = training.endless();
    let save = cluster.file("save");
    args.extend(["--save".into(), save.display().to_string()]);
    let (job, out) = cluster.submit("--requeue", &words(args));
    cluster.until("some epochs", |_| text(&out).contains("epoch 3: "));
    let requeue = cluster.ask(&format!("scontrol requeue {job}"));
    assert_eq!(requeue, "");
    // It has saved on SIGTERM, and started again with the same arguments it resumes.
    cluster.until("a second start", |_| {
        text(&out).matches("fsdp over 2 rank(s)").count() == 2
    });
    let before = text(&out);
    let (_, saved) = before.split_once("told to end: saved step ").unwrap();
    let saved = saved.split(' ').next().unwrap();
    let again = format!("going on from step {saved}, saved in");
    cluster.until("words of the second run", |_| text(&out).contains(&again));
    cluster.ask(&format!("scancel {job}"));
    cluster.until("no job", |c| c.ask("squeue -h").is_empty());
}
