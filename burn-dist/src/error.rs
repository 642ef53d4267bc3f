//! One error type for the whole library.
//!
//! Every rank of a failed group returns the same cause, so an error is `Clone` and carries plain
//! values instead of sources. Each message says who, what was expected, what was found, and what
//! to do.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The result of every fallible function of this library.
pub type Result<T> = std::result::Result<T, Error>;

/// The label of a collective, [`Label`](crate::comm::Label), as an error carries it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallLabel {
    /// The unit.
    pub unit: String,
    /// Further text that must be equal on all ranks.
    pub detail: String,
}

/// An error of a rank.
///
/// It can be sent to other ranks, hence the serialization; its form is not stable.
#[derive(Debug, Clone, PartialEq, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Error {
    /// A value a caller passed cannot be used.
    #[error("{what}: expected {expected}, found {found}")]
    Config {
        /// The option or argument.
        what: String,
        /// The values that are accepted.
        expected: String,
        /// The value that was given.
        found: String,
    },

    /// A file is missing, short or damaged.
    #[error("{path}: expected {expected}, found {found}")]
    File {
        /// The file or folder.
        path: String,
        /// The content that the caller needs.
        expected: String,
        /// The content that was there.
        found: String,
    },

    /// A model cannot be sharded, or is not what the call needs.
    #[error("{path}: {problem}; {remedy}")]
    Model {
        /// Paths of the parameters or modules concerned.
        path: String,
        /// The fault that they have.
        problem: String,
        /// A way to avoid it.
        remedy: String,
    },

    /// An optimizer would compute something else on shards than on whole tensors.
    #[error("this optimizer is wrong on shards: {problem}; {remedy}")]
    Optimizer {
        /// The observed fault.
        problem: String,
        /// An optimizer or option to use instead.
        remedy: String,
    },

    /// A sharded model computes something else than one plain device does.
    #[error(
        "step {step}: unit {unit} deviates from one plain device on rank {rank} in {phase}: {what} \
         is off by {found:.1e} of the largest element where {allowed:.1e} is allowed; everything \
         before it agrees, so look for what this unit does differently when its parameters are \
         sharded (does it read weight.shape() instead of weight.val()?)"
    )]
    Deviation {
        /// The step that was compared.
        step: usize,
        /// The first unit that deviates.
        unit: String,
        /// The first rank on which it does.
        rank: usize,
        /// Forward or backward.
        phase: String,
        /// The tensor that was compared.
        what: String,
        /// Its largest deviation.
        found: f64,
        /// The largest deviation that is allowed.
        allowed: f64,
    },

    /// Two ranks are not running the same program.
    #[error(
        "rank {peer} runs {theirs} where rank {rank} runs {ours}: every rank must issue the same \
         collectives in the same order (do the ranks share one config and one control flow?){}",
        branch_hint(.ours, .theirs)
    )]
    Mismatch {
        /// A rank that agrees with the majority.
        rank: usize,
        /// The call of that rank.
        ours: String,
        /// The first rank that deviates.
        peer: usize,
        /// The call of the deviating rank.
        theirs: String,
        /// The labels of both calls, where they are collectives: of `rank`, then of `peer`.
        labels: Option<Box<[CallLabel; 2]>>,
    },

    /// Ranks were given different values of what has to be alike.
    #[error(
        "{what} differs between ranks: {}{theirs} on rank {peer}, where rank {rank} has {ours}: \
         give every rank the same",
        if .field.is_empty() { String::new() } else { format!("{field} is ") }
    )]
    Disagreement {
        /// The name of the compared value.
        what: String,
        /// The first field of it that differs.
        field: String,
        /// A rank that has the value of the majority.
        rank: usize,
        /// The value on that rank.
        ours: String,
        /// The first rank with another value.
        peer: usize,
        /// The value on `peer`.
        theirs: String,
    },

    /// Ranks that should store the same parameters do not.
    #[error(
        "replicas have parted: {parameter} is not the same on ranks {others:?} as on ranks {ranks:?}, \
         which should store the same bits: were they stepped with different options (see \
         world.agree), or changed by hand? go on from the last save"
    )]
    Replicas {
        /// The first parameter that differs.
        parameter: String,
        /// Ranks that agree with one another.
        ranks: Vec<usize>,
        /// Ranks whose bits differ from those.
        others: Vec<usize>,
    },

    /// One rank has a gradient for a parameter, another has none.
    #[error(
        "parameter {parameter} got a gradient on rank {with} but none on rank {without}: every \
         rank's loss must reach the same parameters (multiply a branch by zero instead of leaving \
         it out, or name its unit in Strategy::absent)"
    )]
    GradientSet {
        /// Path of the parameter.
        parameter: String,
        /// A rank that has the gradient.
        with: usize,
        /// A rank that does not.
        without: usize,
    },

    /// Some ranks did not call a collective before its deadline.
    #[error(
        "rank {rank} waited {waited:?} in {call} for rank(s) {missing:?}: call it on every rank, \
         or raise the deadline if they are only slow"
    )]
    Timeout {
        /// The rank that gave up.
        rank: usize,
        /// The collective it waited in.
        call: String,
        /// The time that it waited.
        waited: Duration,
        /// The ranks that had not called it.
        missing: Vec<usize>,
    },

    /// A rank returned while others needed it in a collective.
    #[error(
        "rank {peer} has returned, but rank {rank} needs it in {call}: every rank must run the \
         same number of steps"
    )]
    PeerLeft {
        /// The rank that waited.
        rank: usize,
        /// The rank that is gone.
        peer: usize,
        /// The collective that needs it.
        call: String,
    },

    /// A rank failed; this is its cause, as every other rank reports it.
    #[error("rank {peer} failed: {cause}")]
    PeerFailed {
        /// The rank that failed first.
        peer: usize,
        /// Its own error, and where the rank that reports it was, if in a collective.
        cause: String,
    },

    /// A rank's process ended without reporting an error, or stopped sending heartbeats.
    #[error(
        "rank {peer} is lost: {why}{}{waiting}: look at the output of rank {peer} and at its host",
        if .waiting.is_empty() { "" } else { "; " }
    )]
    PeerLost {
        /// The rank that is gone.
        peer: usize,
        /// How its end was noticed, and its last known activity.
        why: String,
        /// The collective in which the reporting rank waited; empty if it was in none.
        waiting: String,
    },

    /// Data of a peer arrived damaged.
    #[error(
        "rank {rank} received damaged data from rank {peer} in {call}: {problem}: the network or \
         the memory of one of their hosts is faulty"
    )]
    Corrupt {
        /// The rank that noticed.
        rank: usize,
        /// The rank that sent.
        peer: usize,
        /// The collective it belonged to.
        call: String,
        /// The damage.
        problem: String,
    },

    /// The rendezvous could not be reached, or refused this rank.
    #[error("rank {rank} could not join its world at {address}: {problem}; {remedy}")]
    Join {
        /// The rank.
        rank: usize,
        /// The address on which rank 0 should be listening.
        address: String,
        /// The failure.
        problem: String,
        /// A check to make.
        remedy: String,
    },

    /// A process that was started for a rank failed.
    #[error("rank {rank} on {host} {status}{}{message}", if .message.is_empty() { "" } else { ": " })]
    Child {
        /// The rank.
        rank: usize,
        /// The host it ran on.
        host: String,
        /// Its exit code or signal, in words.
        status: String,
        /// The status as a shell reports it: the exit code, or 128 plus the signal's number.
        code: u8,
        /// The error that it reported; empty if it reported none.
        message: String,
    },

    /// Ranks or hosts are lost for good, and too few are left to go on.
    #[error(
        "the world cannot go on: {lost}; {left} left, and {least} needed (MIN of --nnodes and \
         --nproc-per-node MIN:MAX); start it again when what is lost is back"
    )]
    TooFew {
        /// What is lost, and why.
        lost: String,
        /// How many are left, with the verb.
        left: String,
        /// The minimum that was given, with the verb.
        least: String,
    },

    /// A rank panicked.
    #[error("rank {rank} panicked: {message}")]
    Panicked {
        /// The rank.
        rank: usize,
        /// The panic's message.
        message: String,
    },

    /// The gradients hold an infinity or a NaN; nothing was changed.
    #[error(
        "the global gradient norm is {norm}: {place}; {loss}; nothing was changed: skip this step, \
         or lower the learning rate or the loss scale"
    )]
    NotFinite {
        /// The norm found.
        norm: f64,
        /// The first parameter that is not finite, its unit, and the rank that stores it.
        place: String,
        /// A statement whether the losses were finite, and the first rank on which one was not.
        loss: String,
    },

    /// Gradients in half precision are not finite at any loss scale.
    #[error(
        "gradients were not finite in {skips} step(s) in a row, down to a loss scale of {scale}: \
         {place}; {loss}; a smaller scale will not help: look for the first step that was skipped \
         and what it computed, or train in bf16"
    )]
    LossScale {
        /// The loss scale of the last skipped step.
        scale: f64,
        /// The number of skipped steps in a row.
        skips: u32,
        /// The first parameter that is not finite, its unit, and the rank that stores it.
        place: String,
        /// A statement whether the losses were finite, and the first rank on which one was not.
        loss: String,
    },

    /// An error of the user's own program, passed through.
    #[error("{0}")]
    User(String),
}

impl Error {
    /// Wraps an error of the user's own program, so that `?` can carry it out of a rank.
    ///
    /// ```
    /// use burn_dist::Error;
    /// assert_eq!(Error::user("no more disk").to_string(), "no more disk");
    /// ```
    pub fn user(error: impl std::fmt::Display) -> Self {
        Self::User(bounded(error.to_string()))
    }

    /// The [`Error::PeerFailed`] that the other ranks get when `peer` fails with `error`.
    pub fn peer_failed(peer: usize, error: &Self) -> Self {
        Self::PeerFailed {
            peer,
            cause: error.to_string(),
        }
    }

    /// An [`Error::Config`].
    pub fn config(
        what: impl Into<String>,
        expected: impl Into<String>,
        found: impl std::fmt::Display,
    ) -> Self {
        Self::Config {
            what: bounded(what.into()),
            expected: bounded(expected.into()),
            found: bounded(found.to_string()),
        }
    }

    /// An [`Error::File`].
    ///
    /// ```
    /// use burn_dist::Error;
    /// use std::path::Path;
    ///
    /// let error = Error::file(Path::new("data/train.csv"), "3 columns", 2);
    /// assert_eq!(error.to_string(), "data/train.csv: expected 3 columns, found 2");
    /// ```
    pub fn file(
        path: &std::path::Path,
        expected: impl Into<String>,
        found: impl std::fmt::Display,
    ) -> Self {
        Self::File {
            path: bounded(path.display().to_string()),
            expected: bounded(expected.into()),
            found: bounded(found.to_string()),
        }
    }

    /// Whether another rank failed, and this one because of that.
    pub(crate) fn is_of_a_peer(&self) -> bool {
        matches!(
            self,
            Self::PeerFailed { .. }
                | Self::PeerLost { .. }
                | Self::PeerLeft { .. }
                | Self::Timeout { .. }
                | Self::Mismatch { .. }
                | Self::Corrupt { .. }
                | Self::GradientSet { .. }
        )
    }

    pub(crate) fn model(
        path: impl Into<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::Model {
            path: bounded(path.into()),
            problem: bounded(problem.into()),
            remedy: bounded(remedy.into()),
        }
    }
}

/// What to do about a unit that only some ranks run, if that may be what two calls show.
fn branch_hint(ours: &str, theirs: &str) -> &'static str {
    if [ours, theirs]
        .iter()
        .any(|call| call.starts_with("all_gather"))
    {
        "; a unit that only some ranks run cannot be gathered: make the module that branches one unit, which every rank \
         runs (Strategy::units), and let its gradients be absent (Strategy::absent)"
    } else {
        ""
    }
}

/// Characters of one part of a message; the rest is cut.
const MAX_PART_CHARS: usize = 2000;

/// Cuts a part of a message that comes from a file, a peer or a caller.
///
/// A field of a damaged file may have megabytes, and every rank would print them.
pub(crate) fn bounded(text: String) -> String {
    match text.char_indices().nth(MAX_PART_CHARS) {
        None => text,
        Some((end, _)) => format!("{}... ({} bytes in all)", &text[..end], text.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_holds_does_not_make_a_long_message() {
        let huge = "\u{e4}".repeat(30 << 20);
        let path = std::path::Path::new("config.json");
        for error in [
            Error::file(path, "a number", &huge),
            Error::config("width", huge.clone(), "x"),
            Error::model(huge.clone(), "p", "r"),
            Error::user(&huge),
        ] {
            let text = error.to_string();
            assert!(text.len() < 3 * MAX_PART_CHARS, "{}", text.len());
            assert!(text.contains("(62914560 bytes in all)"), "{text}");
        }
    }
}
