//! A process of a test: two ranks that train and save at every step, one save in two in the background.

use crate::model::{Run, load, ranks, start, train};
use burn_dist::checkpoint::{Keep, Save};
use burn_dist::{Error, Result, Strategy};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Steps of its run.
pub const STEPS: usize = 40;

/// Where it saves.
const FOLDER: &str = "RESHARDING_FOLDER";
/// At which step it ends, if before the last.
const UNTIL: &str = "RESHARDING_UNTIL";

pub fn part<'a>(run: &'a Run, step: &'a usize) -> Save<'a> {
    let save = Save::new(*step as u64).model("model", &run.0, &run.1);
    save.state("state", step)
}

/// Goes on from the latest save of the folder, up to a step.
pub fn run(folder: &Path, until: usize, keep: &Keep) -> Result<Vec<()>> {
    ranks(2).run(|world| {
        let mut saves = world.checkpointer(folder)?.keep(keep.clone());
        let (mut run, mut step) = (start(&world, &Strategy::fsdp())?, 0);
        if world.has_save(folder)? {
            (run, step) = load(&world, folder, run)?;
        }
        while step < until {
            run = train(&world, run, step..step + 1)?;
            step += 1;
            if step % 2 == 1 {
                saves.save_in_background(part(&run, &step))?;
            } else {
                saves.save(part(&run, &step))?;
            }
        }
        Ok(())
    })
}

/// The command of such a process.
pub fn command(folder: &Path, until: usize) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["program::main", "--exact", "--ignored", "--nocapture"])
        .env(FOLDER, folder)
        .env(UNTIL, until.to_string())
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

/// Has another program start this one: it follows that one's arguments.
pub fn under(mut outer: Command, program: &Command) -> Command {
    let variables = program.get_envs();
    outer
        .arg(program.get_program())
        .args(program.get_args())
        .envs(variables.filter_map(|(name, value)| Some((name, value?))));
    outer
}

/// Not a test: the process.
#[test]
#[ignore = "a process of other tests"]
fn main() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else {
        return;
    };
    std::thread::spawn(|| {
        std::thread::sleep(std::time::Duration::from_secs(120));
        std::process::exit(98);
    });
    let until = std::env::var(UNTIL).map_or(STEPS, |text| text.parse().unwrap());
    let ended: Result<Vec<()>> = Keep::last(2).and_then(|keep| run(&folder, until, &keep));
    if let Err(error) = ended {
        let _: &Error = &error;
        eprintln!("{error}");
        std::process::exit(7);
    }
}
