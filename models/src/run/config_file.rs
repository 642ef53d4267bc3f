//! A configuration file: flags and their values, in TOML.

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, Command};
use std::any::TypeId;
use std::path::{Path, PathBuf};
use toml::Value;

/// Flags that only the command line may have.
const OF_ONE_START: [&str; 4] = ["config", "resume", "help", "version"];

/// The entries of a file, in order of their names.
#[derive(Debug)]
pub(super) struct ConfigFile {
    path: PathBuf,
    text: String,
    table: toml::Table,
}

/// One line of it.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    file: &'a ConfigFile,
    key: &'a str,
    value: &'a Value,
}

impl ConfigFile {
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let at = path.display();
        let text = std::fs::read_to_string(path)
            .map_err(|e| format!("--config: cannot read {at}: {e}"))?;
        let table = text.parse::<toml::Table>().map_err(|e| {
            let line = e.span().map_or(1, |span| line_of(&text, span.start));
            format!("{at}:{line}: not TOML: {}", e.message())
        })?;
        Ok(Self {
            path: path.into(),
            text,
            table,
        })
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        self.table.iter().map(|(key, value)| Entry {
            file: self,
            key,
            value,
        })
    }
}

/// The number of the line, from 1, in which a byte is.
fn line_of(text: &str, byte: usize) -> usize {
    1 + text
        .bytes()
        .take(byte)
        .filter(|byte| *byte == b'\n')
        .count()
}

impl Entry<'_> {
    /// The argument that it is for.
    pub(super) fn argument<'c>(&self, command: &'c Command) -> Result<&'c Arg, String> {
        let wanted = self.key.replace('_', "-");
        let names = |argument: &Arg| -> Vec<String> {
            let aliases = argument.get_all_aliases().unwrap_or_default();
            let all = argument.get_long().into_iter().chain(aliases);
            all.map(|name| name.replace('_', "-")).collect()
        };
        let found = command
            .get_arguments()
            .find(|argument| names(argument).contains(&wanted));
        match found {
            Some(argument) if OF_ONE_START.contains(&argument.get_id().as_str()) => {
                Err(self.wrong("belongs to the command line"))
            }
            Some(argument) => Ok(argument),
            None => {
                let all = command.get_arguments().flat_map(names);
                let near = |name: &String| strsim::jaro(name, &wanted);
                let nearest = all.max_by(|a, b| near(a).total_cmp(&near(b)));
                let nearest = nearest.map_or(String::new(), |n| format!("; did you mean {n}?"));
                Err(self.wrong(&format!("is no flag of this program{nearest}")))
            }
        }
    }

    /// The words of the command line that say the same.
    pub(super) fn words(
        &self,
        argument: &Arg,
        command: &Command,
    ) -> Result<Option<String>, String> {
        let long = argument.get_long().unwrap_or_default();
        let is_flag = matches!(argument.get_action(), ArgAction::SetTrue);
        let value = match (self.value, is_flag) {
            (Value::Boolean(on), true) => return Ok(on.then(|| format!("--{long}"))),
            (_, true) => return Err(self.unexpected("true or false")),
            (Value::String(_), _) if is_number(argument) => {
                return Err(self.unexpected("a number"));
            }
            (Value::String(text), _) => text.clone(),
            (Value::Integer(_) | Value::Float(_) | Value::Boolean(_), _) => self.value.to_string(),
            _ => return Err(self.unexpected("one value")),
        };
        let word = format!("--{long}={value}");
        let alone = command.clone().try_get_matches_from(["program", &word]);
        let about_value = |e: &clap::Error| {
            matches!(
                e.kind(),
                ErrorKind::InvalidValue | ErrorKind::ValueValidation
            )
        };
        match alone {
            Err(error) if about_value(&error) => {
                let text = error.to_string();
                let first = text.lines().next().unwrap_or_default();
                let first = first.trim_start_matches("error: ");
                Err(self.wrong(&format!("cannot be {}: {first}", self.value)))
            }
            // Whatever it needs beside it is checked with all flags together.
            _ => Ok(Some(word)),
        }
    }

    fn unexpected(&self, expected: &str) -> String {
        self.wrong(&format!("is {expected}, found {}", self.value))
    }

    fn wrong(&self, what: &str) -> String {
        let Self { file, key, .. } = self;
        format!("{}:{}: {key} {what}", file.path.display(), self.line())
    }

    /// The line that begins with the key, or with the name of its table.
    fn line(&self) -> usize {
        let starts = |line: &str| {
            let line = line.trim_start().trim_start_matches(['[', '"', '\'']);
            let rest = line.strip_prefix(self.key);
            rest.is_some_and(|rest| {
                !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_' || c == '-')
            })
        };
        let lines = self.file.text.lines();
        1 + lines.take_while(|line| !starts(line)).count()
    }
}

/// Whether an argument's value is a number.
pub(super) fn is_number(argument: &Arg) -> bool {
    let of = argument.get_value_parser().type_id();
    [
        TypeId::of::<f64>(),
        TypeId::of::<usize>(),
        TypeId::of::<u64>(),
        TypeId::of::<u32>(),
        TypeId::of::<u16>(),
    ]
    .iter()
    .any(|number| of == *number)
}
