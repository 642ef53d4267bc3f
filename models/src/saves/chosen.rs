//! A save as the command line names it.

use burn_dist::checkpoint::{SaveContents, Which};
use burn_dist::{Error, Result};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// A save: `RUN` is the latest one of a run's folder, `RUN@best` the best one, `RUN@STEP` the one of a step.
///
/// What follows the last `@` is read so only if it is `best`, `latest` or a number; any other `@` belongs to the path.
///
/// ```
/// use burn_dist::checkpoint::Which;
/// use burn_dist_models::saves::ChosenSave;
///
/// let save: ChosenSave = "runs/a@300".parse()?;
/// assert_eq!((save.run.to_str(), save.which), (Some("runs/a"), Which::Step(300)));
/// let save: ChosenSave = "runs/me@home".parse()?;
/// assert_eq!((save.run.to_str(), save.which), (Some("runs/me@home"), Which::Latest));
/// # Ok::<(), burn_dist::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChosenSave {
    /// The folder of the run.
    pub run: PathBuf,
    /// Which one of its saves.
    pub which: Which,
}

impl FromStr for ChosenSave {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parted = text.rsplit_once('@').and_then(|(run, which)| {
            let which = match which {
                "best" => Which::Best,
                "latest" => Which::Latest,
                step => Which::Step(step.parse().ok()?),
            };
            Some((run, which))
        });
        let (run, which) = parted.unwrap_or((text, Which::Latest));
        if run.is_empty() {
            let expected =
                "the folder of a run, and @best or @STEP for another save than its latest";
            return Err(Error::config("a save", expected, format!("{text:?}")));
        }
        let run = PathBuf::from(run);
        Ok(Self { run, which })
    }
}

impl fmt::Display for ChosenSave {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.run.display())?;
        match self.which {
            Which::Latest => Ok(()),
            Which::Best => f.write_str("@best"),
            Which::Step(step) => write!(f, "@{step}"),
        }
    }
}

impl ChosenSave {
    /// Reads its manifest.
    ///
    /// # Errors
    /// As [`SaveContents::open`].
    pub fn open(&self) -> Result<SaveContents> {
        SaveContents::open(&self.run, self.which)
    }
}
