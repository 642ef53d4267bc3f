//! The records of a run: where they lie, and what is measured for them.

use super::meter::warm_up;
use super::peak::peak_flops;
use super::{LogArgs, Meter, RunArgs, Steps};
use burn_dist::{Error, Plan, Result, World};
use burn_dist_log::{Run, RunLog, Setup};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// The folder that this value of `--log-to` stands for: none.
const NONE: &str = "none";

/// Where the runs of the examples lie by default.
const RUNS: &str = "runs";

impl RunArgs {
    /// The progress and the records of a run of `model`, with the program's arguments and these as TOML; made before the
    /// model is sharded, as it measures memory. Collective.
    ///
    /// # Errors
    /// [`Error::Config`] for a `--setup` that is not that of the ranks; those of [`RunLog::create`].
    pub fn meter<A: Serialize>(
        &self,
        world: &World,
        model: &str,
        (arguments, config): (&A, &str),
        plan: &Plan,
    ) -> Result<Meter> {
        warm_up(world);
        let setup = Setup::of(world)?;
        self.log.check(setup)?;
        let run = Run::new(model, &self.strategy.to_string())
            .arguments(arguments)?
            .plan(plan, self.passes(world));
        let mut log = self.run_log(world, run, setup, config)?;
        if let Some(Steps { from, to }) = self.log.trace {
            log.trace(from..to);
        }
        let mut meter = Meter::new(world, plan, log);
        meter.lines_every(self.log.log_every);
        meter.results_in(format!("{}.txt", self.result_name(setup)));
        Ok(meter)
    }

    fn run_log(&self, world: &World, run: Run, setup: Setup, config: &str) -> Result<RunLog> {
        let folder = world.from_chief(|| self.folder(&run.model, setup))?;
        let peak = match self.log.peak_tflops {
            Some(tflops) => Some(1e12 * tflops),
            None if folder.is_some() => Some(peak_flops(world, self.precision)?),
            None => None,
        };
        let run = match peak {
            Some(peak) => run.peak_flops(peak),
            None => run,
        };
        let Some(folder) = folder else {
            if self.log.trace.is_some() {
                let expected = "a folder for the records, to which a trace is written";
                return Err(Error::config("--trace", expected, "--log-to none"));
            }
            return RunLog::unwritten(world, run);
        };
        // The same run again, after a failure or by --resume, in the folder that it was given.
        let goes_on = self.log.log_to.is_some() && (self.resume || world.restarts() > 0);
        let log = if goes_on {
            RunLog::resume(world, &folder, run)?
        } else {
            RunLog::create(world, &folder, run)?
        };
        log.write("config.toml", config)?;
        if world.is_chief() {
            log::info!("the records of this run are in {}", folder.display());
        }
        Ok(log)
    }

    /// The folder of this run's records.
    fn folder(&self, model: &str, setup: Setup) -> Result<Option<PathBuf>> {
        let log = &self.log;
        let (folder, name) = match (&log.log_to, &log.output_dir) {
            (Some(none), _) if none == Path::new(NONE) => return Ok(None),
            (Some(folder), _) => return Ok(Some(folder.clone())),
            (None, Some(folder)) => (folder.clone(), self.result_name(setup)),
            (None, None) => {
                let date = jiff::Zoned::now().strftime("%Y-%m-%d_%H-%M-%S");
                let strategy = self.strategy.to_string().replace(':', "-");
                let name = format!("{date}_{model}_{strategy}_{setup}");
                (PathBuf::from(RUNS), name)
            }
        };
        let name = match log.run {
            Some(run) => format!("{name}_run{run}"),
            None => name,
        };
        let numbered = (2..1000).map(|n| format!("{name}_{n}"));
        let mut names = std::iter::once(name.clone()).chain(numbered);
        let free = names.find(|name| !folder.join(name).exists());
        let free = free.ok_or_else(|| {
            let expected = format!("a folder without a thousand runs named {name}");
            Error::file(&folder, expected, "that many")
        })?;
        Ok(Some(folder.join(free)))
    }

    /// The set-up, the learning rate and the batch of a rank.
    pub(super) fn result_name(&self, setup: Setup) -> String {
        format!("{setup}_{:e}_{}", self.lr, self.per_gpu_batch)
    }
}

impl LogArgs {
    fn check(&self, there: Setup) -> Result<()> {
        match self.setup {
            Some(asked) if asked != there => Err(Error::config(
                "--setup",
                format!(
                    "{there}, as there are {} ranks in groups of {} on a host",
                    there.ranks(),
                    there.ranks_per_node
                ),
                format!("{asked}, which is {} ranks", asked.ranks()),
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::run::VitArgs;
    use clap::Parser;

    fn args(words: &str) -> RunArgs {
        let words = std::iter::once("vit").chain(words.split_whitespace());
        VitArgs::try_parse_from(words).unwrap().run
    }

    #[test]
    fn a_folder_is_never_taken_twice() {
        let runs = tempfile::tempdir().unwrap();
        let at = runs.path().display();
        let setup = "1_2".parse().unwrap();
        let run = args(&format!("--output-dir {at} --lr 2e-5 --per-gpu-batch 16"));
        let name = |run: &RunArgs| {
            let folder = run.folder("vit-tiny", setup).unwrap().unwrap();
            std::fs::create_dir(&folder).unwrap();
            folder.file_name().unwrap().to_str().unwrap().to_owned()
        };
        assert_eq!(name(&run), "1_2_2e-5_16");
        assert_eq!(name(&run), "1_2_2e-5_16_2");
        let third = args(&format!("--output-dir {at} --run 3 --lr 0.002"));
        assert_eq!(name(&third), "1_2_2e-3_32_run3");
        assert!(
            args("--log-to none")
                .folder("vit", setup)
                .unwrap()
                .is_none()
        );
        let given = args("--log-to here").folder("vit", setup).unwrap();
        assert_eq!(given, Some("here".into()));
        let own = args("--strategy hybrid:2").folder("vit", setup).unwrap();
        let own = own.unwrap().display().to_string();
        assert!(
            own.starts_with("runs/20") && own.ends_with("_vit_hybrid-2_1_2"),
            "{own}"
        );
    }

    #[test]
    fn a_set_up_that_is_not_there_names_both() {
        let check = |words: &str| args(words).log.check("1_2".parse().unwrap());
        check("--setup 1_2").unwrap();
        let error = check("--setup 2_2").unwrap_err().to_string();
        for part in ["--setup", "1_2", "2 ranks", "2_2", "4 ranks"] {
            assert!(error.contains(part), "{error}");
        }
        let unknown = VitArgs::try_parse_from(["vit", "--setup", "1x2"]).unwrap_err();
        assert!(unknown.to_string().contains("1_4 or 2_2"), "{unknown}");
    }
}
