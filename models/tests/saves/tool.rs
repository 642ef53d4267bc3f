//! Runs of `burn-dist-save`.

use std::path::Path;
use std::process::Command;

/// How a run ended and what it printed.
pub(crate) struct Ended {
    code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs the program with these words and, behind them, paths.
pub(crate) fn tool(words: &[&str], paths: &[&Path]) -> Ended {
    let mut command = Command::new(env!("CARGO_BIN_EXE_burn-dist-save"));
    command.args(words).args(paths).env("RUST_BACKTRACE", "1");
    let ended = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let ended = Ended {
        code: ended.status.code(),
        stdout: text(ended.stdout),
        stderr: text(ended.stderr),
    };
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
    ended
}

impl Ended {
    /// What it printed, if all was well.
    #[track_caller]
    pub(crate) fn succeeds(self) -> String {
        assert_eq!(self.code, Some(0), "{}{}", self.stdout, self.stderr);
        // A progress bar is for terminals alone.
        assert_eq!(self.stderr, "");
        self.stdout
    }

    /// Fails if it did not exit with this code, or the one or the other text lacks one of the words.
    #[track_caller]
    pub(crate) fn fails(self, code: i32, words: &[&str]) -> Self {
        let all = format!("{}{}", self.stdout, self.stderr);
        assert_eq!(self.code, Some(code), "{all}");
        for word in words {
            assert!(all.contains(word), "no {word:?} in {all}");
        }
        self
    }
}
