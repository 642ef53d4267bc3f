//! One start: runs what is missing, and writes the report.

use crate::cli::Cli;
use crate::matrix::{Matrix, Program};
use crate::runner::{ELSEWHERE, Programs, Runner, State, Tally, commands, lacking, run_folder};
use crate::{Error, Result, files, report, results};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// The file with all commands.
const COMMANDS: &str = "commands.sh";

/// Seconds of a run, unless told otherwise.
const DEADLINE: u64 = 1800;

/// Does what the command line asks for; returns whether no run has failed.
///
/// # Errors
/// What is wrong with the command line, a folder or a program; [`Error::Interrupted`] after Ctrl-C. A run that fails is
/// none: it is told, and stands in the report.
pub fn run(cli: &Cli) -> Result<bool> {
    if let Some(out) = &cli.report_only {
        let matrix = Matrix::read(out)?;
        return write_report(out, &matrix).map(|()| true);
    }
    let matrix = cli.matrix()?;
    let out = std::path::absolute(cli.out())
        .map_err(|e| Error::file(&cli.out(), "the path of a folder", e))?;
    let shown = commands_text(cli, &matrix, &out);
    if cli.dry_run {
        print!("{shown}");
        return Ok(true);
    }
    let _locked = files::lock(&out)?;
    matrix.claim(&out)?;
    files::write(&out.join(COMMANDS), &shown)?;
    for left_out in &matrix.left_out {
        println!("left out: {left_out}");
    }
    let stop = stop_flag()?;
    let needed = needed(&matrix, &out)?;
    let programs = if needed.is_empty() {
        Programs::unchecked(&default_programs(cli))
    } else {
        programs(cli, &matrix, &needed)?
    };
    let runner = Runner {
        out: &out,
        programs,
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        threads: cli.threads,
        deadline: Duration::from_secs(cli.deadline.unwrap_or(match cli.full {
            full if full => u64::MAX,
            _ => DEADLINE,
        })),
        stop: &stop,
    };
    let ran = runner.run(&matrix, &mut |line| println!("{line}"));
    // What there is is worth a report also after Ctrl-C.
    write_report(&out, &matrix)?;
    let Tally {
        kept,
        finished,
        failed,
        elsewhere,
    } = ran?;
    println!(
        "{finished} finished, {kept} were there, {failed} failed, {elsewhere} need another machine; all commands are in {}",
        out.join(COMMANDS).display()
    );
    Ok(failed == 0)
}

fn write_report(out: &Path, matrix: &Matrix) -> Result<()> {
    let runs = results::read(out, matrix)?;
    let report = report::write(out, matrix, &runs)?;
    println!("report: {}", report.html.display());
    println!("        {}", report.markdown.display());
    Ok(())
}

/// The programs of experiments that are yet to run here.
fn needed(matrix: &Matrix, out: &Path) -> Result<Vec<Program>> {
    let mut needed = Vec::new();
    for one in &matrix.experiments {
        let program = one.model.program;
        let is_there = State::of(&run_folder(out, one))? == State::Complete;
        if !is_there && lacking(one).is_none() && !needed.contains(&program) {
            needed.push(program);
        }
    }
    Ok(needed)
}

fn programs(cli: &Cli, matrix: &Matrix, needed: &[Program]) -> Result<Programs> {
    match &cli.program_dir {
        Some(folder) => Programs::in_folder(folder, needed),
        None => {
            println!("building the examples; --program-dir takes those that are built");
            Programs::build(needed, &features(matrix))
        }
    }
}

/// The features of the programs that all runs need.
fn features(matrix: &Matrix) -> String {
    // They are those of data and device, which all runs have in common.
    let first = matrix.experiments.first();
    first.map(|one| one.recipe.features()).unwrap_or_default()
}

/// Where the programs are for who has not said it.
fn default_programs(cli: &Cli) -> std::path::PathBuf {
    let given = cli.program_dir.clone();
    given.unwrap_or_else(|| "target/release/examples".into())
}

/// All commands, each run's with its name.
fn commands_text(cli: &Cli, matrix: &Matrix, out: &Path) -> String {
    let programs = Programs::unchecked(&default_programs(cli));
    let mut text = format!(
        "# {}: {} runs. A run on several nodes is one command on each, at the same time; node0 stands for the first.\n\
         # cargo build --release --examples --features {}\n",
        matrix.name,
        matrix.experiments.len(),
        features(matrix)
    );
    for one in &matrix.experiments {
        text.push_str(&format!("\n# {}\n", one.name()));
        if let Some(why) = lacking(one) {
            text.push_str(&format!("# not on this machine: {why}\n"));
        }
        let program = programs.path(one.model.program);
        let folder = run_folder(out, one);
        for command in commands(one, &program, &folder, cli.threads, ELSEWHERE) {
            text.push_str(&format!("{command}\n"));
        }
    }
    text
}

/// Set by Ctrl-C and SIGTERM.
fn stop_flag() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(|e| Error::value("Ctrl-C", "a signal that can be caught", e.to_string()))?;
    }
    Ok(stop)
}
