//! The command line of an example, with the configuration file that it names.

use super::config_file::{ConfigFile, is_number};
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, Parser};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt::Write;

/// Arguments that a configuration file does not hold: those of one start alone.
const OF_ONE_START: [&str; 6] = [
    "config",
    "log_to",
    "output_dir",
    "resume",
    "help",
    "version",
];

/// Arguments, and all of them as a configuration file from which the same run can be started again.
#[derive(Debug, Clone)]
pub struct CommandLine<A> {
    /// The arguments.
    pub args: A,
    /// What flags, configuration file and defaults amount to, as TOML.
    pub config: String,
}

/// The arguments of this process: its flags, then what `--config FILE` says, then defaults.
///
/// A flag is spelled with dashes or with underscores. On a mistake it prints what is wrong and ends the process with status 2, as
/// [`clap::Parser::parse`] does.
pub fn parse<A: Parser>() -> CommandLine<A> {
    parse_from(std::env::args_os()).unwrap_or_else(|error| error.exit())
}

/// As [`parse`], of any words, the first of which is the program's name.
///
/// # Errors
/// clap's, for flags; for a configuration file one that names the file, the line, and the flag whose name is nearest.
///
/// ```
/// use burn_dist_models::run::{BertArgs, parse_from};
///
/// let words = ["bert", "--per_gpu_batch=4", "--grad_acc", "2", "--setup", "1_2"];
/// let line = parse_from::<BertArgs>(words)?;
/// assert_eq!((line.args.run.per_gpu_batch, line.args.run.accumulate), (4, 2));
/// assert!(line.config.contains("per-gpu-batch = 4"));
/// # Ok::<(), clap::Error>(())
/// ```
pub fn parse_from<A: Parser>(
    words: impl IntoIterator<Item = impl Into<OsString>>,
) -> Result<CommandLine<A>, clap::Error> {
    let mut words: Vec<OsString> = words.into_iter().map(Into::into).collect();
    let mut command = command::<A>();
    let given = command.try_get_matches_from_mut(&words)?;
    let file = given.get_one::<std::path::PathBuf>("config");
    if let Some(path) = file {
        let refused = |e: String| command.clone().error(ErrorKind::InvalidValue, e);
        let file = ConfigFile::read(path).map_err(refused)?;
        let mut from_file = Vec::new();
        for entry in file.entries() {
            let argument = entry.argument(&command).map_err(refused)?;
            let id = argument.get_id().as_str();
            // A flag of the command line is over the file.
            if given.value_source(id) != Some(ValueSource::CommandLine) {
                from_file.extend(entry.words(argument, &command).map_err(refused)?);
            }
        }
        words.splice(1..1, from_file.into_iter().map(OsString::from));
    }
    let matches = command.try_get_matches_from_mut(&words)?;
    Ok(CommandLine {
        config: config(&command, &matches),
        args: A::from_arg_matches(&matches)?,
    })
}

/// The command of a program, whose flags may be spelled with underscores too.
fn command<A: Parser>() -> Command {
    let mut command = A::command().mut_args(|argument| {
        let names = argument
            .get_long_and_visible_aliases()
            .into_iter()
            .flatten();
        let known: Vec<String> = names
            .chain(argument.get_all_aliases().into_iter().flatten())
            .map(String::from)
            .collect();
        let underscored = known.iter().map(|name| name.replace('-', "_"));
        let new: BTreeSet<_> = underscored.filter(|name| !known.contains(name)).collect();
        argument.aliases(new)
    });
    // Fills in the name and what else follows from the parts.
    command.build();
    command
}

/// The values of all arguments, as lines of TOML.
fn config(command: &Command, matches: &ArgMatches) -> String {
    let mut text = String::from("# Start the same run again with --config THIS_FILE.\n");
    for argument in command.get_arguments() {
        let id = argument.get_id().as_str();
        let Some(long) = argument.get_long() else {
            continue;
        };
        if OF_ONE_START.contains(&id) {
            continue;
        }
        // A default of what goes with another flag is not said without that one.
        let needs_another = || {
            let alone = [
                "program".to_owned(),
                format!("--{long}={}", raw(matches, id)?),
            ];
            command.clone().try_get_matches_from(alone).err()
        };
        let is_default = matches.value_source(id) == Some(ValueSource::DefaultValue);
        if is_default && needs_another().is_some() {
            continue;
        }
        if let Some(value) = value(argument, matches, id) {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{long} = {value}");
        }
    }
    text
}

/// A value as it was spelled.
fn raw(matches: &ArgMatches, id: &str) -> Option<String> {
    let value = matches.get_raw(id)?.next()?;
    Some(value.to_string_lossy().into_owned())
}

fn value(argument: &Arg, matches: &ArgMatches, id: &str) -> Option<String> {
    let raw = raw(matches, id)?;
    let plain = match argument.get_action() {
        ArgAction::SetTrue => return matches.get_flag(id).then(|| "true".into()),
        _ => is_number(argument) || raw == "true" || raw == "false",
    };
    // TOML's spelling of numbers is narrower than Rust's.
    let is_toml = format!("x = {raw}").parse::<toml::Table>().is_ok();
    if plain && is_toml {
        Some(raw)
    } else {
        Some(toml::Value::String(raw).to_string())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::run::{BertArgs, VitArgs};

    fn vit(words: &str) -> Result<CommandLine<VitArgs>, String> {
        let words = std::iter::once("vit").chain(words.split_whitespace());
        parse_from(words).map_err(|e| e.to_string())
    }

    #[test]
    fn every_flag_has_both_spellings() {
        let command = command::<BertArgs>();
        for argument in command.get_arguments() {
            let aliases = argument.get_all_aliases().unwrap_or_default();
            for name in argument.get_long().into_iter().chain(aliases.clone()) {
                let other = name.replace('-', "_");
                assert!(other == name || aliases.contains(&&*other), "{name}");
            }
        }
    }

    #[test]
    fn flags_are_over_the_file_and_the_file_over_defaults() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.toml");
        std::fs::write(
            &path,
            "# of a study\nlr = 1e-4\nper_gpu_batch = 48\nstrategy = \"ddp\"\nrecompute = true\n",
        )
        .unwrap();
        let found = vit(&format!("--lr 0.0003 --config {}", path.display())).unwrap();
        let run = &found.args.run;
        assert_eq!((run.lr, run.per_gpu_batch, run.recompute), (3e-4, 48, true));
        assert_eq!(run.strategy.to_string(), "ddp");
        // What was merged says the same again.
        std::fs::write(&path, &found.config).unwrap();
        let again = vit(&format!("--config {}", path.display())).unwrap();
        assert_eq!(again.config, found.config);
        assert_eq!(format!("{:?}", again.args.run.lr), "0.0003");
    }

    #[test]
    fn a_mistake_in_the_file_is_named_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.toml");
        for (text, expected) in [
            (
                "lr = 1e-4\nper_gpu_bach = 4\n",
                &["run.toml:2", "per_gpu_bach", "per-gpu-batch"][..],
            ),
            (
                "\n\nlr = \"fast\"\n",
                &["run.toml:3", "lr", "a number", "\"fast\""],
            ),
            (
                "recompute = 1\n",
                &["run.toml:1", "recompute", "true or false", "1"],
            ),
            ("strategy = \"fdsp\"\n", &["run.toml:1", "strategy", "fdsp"]),
            ("clip = -1.0\n", &["run.toml:1", "clip", "above 0"]),
            ("epochs = 1.5\n", &["run.toml:1", "epochs", "1.5"]),
            ("lr = [1, 2]\n", &["run.toml:1", "lr", "[1, 2]"]),
            ("lr = \n", &["run.toml:1"]),
            ("resume = true\n", &["run.toml:1", "resume", "command line"]),
            ("[optimizer]\nlr = 1\n", &["run.toml:1", "optimizer"]),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = vit(&format!("--config {}", path.display())).unwrap_err();
            for part in expected {
                assert!(error.contains(part), "{text:?} without {part:?}: {error}");
            }
        }
        let error = vit("--config /no/such/file.toml").unwrap_err();
        assert!(error.contains("/no/such/file.toml"), "{error}");
    }
}
