//! The example programs: built once, or taken from a folder.

use crate::matrix::Program;
use crate::{Error, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where the programs are that runs start.
#[derive(Debug, Clone)]
pub struct Programs {
    paths: BTreeMap<Program, PathBuf>,
}

/// One line of what cargo says about a build.
#[derive(Debug, Deserialize)]
struct Message {
    target: Option<Target>,
    executable: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
struct Target {
    name: String,
}

impl Programs {
    /// The names they have where nothing is run.
    pub fn unchecked(folder: &Path) -> Self {
        let all = [Program::Vit, Program::Bert];
        Self {
            paths: all.map(|p| (p, folder.join(p.example()))).into(),
        }
    }

    /// Those that are in a folder.
    ///
    /// # Errors
    /// [`Error::Program`] if one of them is not.
    pub fn in_folder(folder: &Path, needed: &[Program]) -> Result<Self> {
        // The path is told to a shell elsewhere, so it may not depend on where this process is.
        let folder = std::path::absolute(folder)
            .map_err(|e| Error::file(folder, "a folder with the example programs", e))?;
        let all = Self::unchecked(&folder);
        for program in needed {
            let path = all.path(*program);
            if !path.is_file() {
                return Err(Error::Program {
                    program: path.display().to_string(),
                    found: "there is no such file".into(),
                    advice: "give --program-dir the folder of the examples, such as target/release/examples, \
                             or leave it out to have them built"
                        .into(),
                });
            }
        }
        Ok(all)
    }

    /// Builds them with cargo and these features, in the workspace that this package is of.
    ///
    /// # Errors
    /// [`Error::Program`] if cargo is not there, or fails.
    pub fn build(needed: &[Program], features: &str) -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(&cargo);
        command.current_dir(&root).args([
            "build",
            "--release",
            "--message-format",
            "json-render-diagnostics",
        ]);
        for program in needed {
            command.args(["--example", program.example()]);
        }
        command.args(["--features", features]);
        let failed = |found: String| Error::Program {
            program: "cargo build".into(),
            found,
            advice: "build the examples yourself and give --program-dir their folder".into(),
        };
        let output = command
            .stderr(Stdio::inherit())
            .output()
            .map_err(|e| failed(e.to_string()))?;
        if !output.status.success() {
            return Err(failed(format!("it failed with {}", output.status)));
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let messages = text
            .lines()
            .filter_map(|line| serde_json::from_str::<Message>(line).ok());
        let built: BTreeMap<_, _> = messages
            .filter_map(|message| Some((message.target?.name, message.executable?)))
            .collect();
        let path = |program: &Program| {
            let path = built.get(program.example());
            let path = path.ok_or_else(|| failed(format!("it built no {}", program.example())))?;
            Ok((*program, path.clone()))
        };
        Ok(Self {
            paths: needed.iter().map(path).collect::<Result<_>>()?,
        })
    }

    /// The path of a program.
    pub fn path(&self, program: Program) -> PathBuf {
        let path = self.paths.get(&program).cloned();
        path.unwrap_or_else(|| program.example().into())
    }
}
