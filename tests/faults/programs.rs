//! Ranks that run another program than the others, or fail.

use super::process::Group;
use std::time::{Duration, Instant};

/// From the first end to the last, below the heartbeat, so that it is not what ends them.
const LIMIT: Duration = Duration::from_secs(12);

/// What one rank does, and the error of all others.
struct Case {
    act: &'static str,
    /// Of the faulty rank, `RANK` for its number.
    words: &'static [&'static str],
    /// The error of the rank itself: the same, another one, or none.
    own: Own,
}

enum Own {
    Same,
    Error(&'static str),
    Code(Option<i32>),
}

const MISMATCH: &str = "every rank must issue the same collectives";

/// The usual program, from which one rank deviates.
const METRIC: &str = "runs all_reduce(Sum) of metric #";

const CASES: [Case; 12] = [
    Case {
        act: "other",
        words: &[
            "rank RANK runs barrier of metric #",
            METRIC,
            MISMATCH,
            ", step 3",
        ],
        own: Own::Same,
    },
    Case {
        act: "length",
        words: &[
            "rank RANK runs all_reduce",
            "(9 f32)",
            "(8 f32)",
            METRIC,
            MISMATCH,
            ", step 3",
        ],
        own: Own::Same,
    },
    Case {
        act: "dtype",
        words: &[
            "rank RANK runs all_reduce",
            "(8 u32)",
            "(8 f32)",
            METRIC,
            MISMATCH,
            ", step 3",
        ],
        own: Own::Same,
    },
    Case {
        act: "skip",
        words: &[
            "rank RANK runs all_gather of blocks.0 #",
            METRIC,
            MISMATCH,
            ", step 3",
        ],
        own: Own::Same,
    },
    Case {
        act: "extra",
        words: &[
            "rank RANK runs all_reduce",
            "runs all_gather of blocks.0 #",
            MISMATCH,
            ", step 3",
        ],
        own: Own::Same,
    },
    Case {
        act: "early",
        words: &[
            "rank RANK runs all_gather of blocks.0",
            METRIC,
            MISMATCH,
            ", step 3",
        ],
        own: Own::Same,
    },
    Case {
        act: "leave",
        words: &[
            "rank RANK has returned, but rank ",
            "needs it in all_reduce(Sum) of metric #",
            ", step 3",
        ],
        own: Own::Same,
    },
    Case {
        act: "model",
        words: &[
            "blocks.3.weight: ",
            "rank RANK runs another model",
            "first difference",
        ],
        own: Own::Same,
    },
    Case {
        act: "panic",
        words: &[
            "rank RANK failed: rank RANK panicked: a bug of rank RANK",
            "all_gather of blocks.3 #",
            ", step 2",
        ],
        own: Own::Error("rank RANK panicked: a bug of rank RANK"),
    },
    Case {
        act: "error",
        words: &[
            "rank RANK failed: no more disk",
            "all_reduce(Sum) of metric #",
            ", step 3",
        ],
        own: Own::Error("no more disk"),
    },
    Case {
        act: "code",
        words: &[
            "rank RANK is lost: its process closed the connection",
            "all_gather of blocks.3 #",
            ", step 2",
        ],
        own: Own::Code(Some(3)),
    },
    Case {
        act: "abort",
        words: &[
            "rank RANK is lost: its process closed the connection",
            "all_gather of blocks.3 #",
            ", step 2",
        ],
        own: Own::Code(None),
    },
];

impl Case {
    fn run(&self, faulty: usize, transport: &str) {
        let mut group = Group::new(format!("{} of rank {faulty}, {transport}", self.act));
        group.set("BURN_DIST_TRANSPORT", transport);
        group.set("BURN_DIST_HEARTBEAT", 20);
        group.set("FAULTS_ACT", self.act);
        group.set("FAULTS_FAULTY", faulty);
        group.world(3);
        group.until("a first end", |group| {
            group.all.iter_mut().any(|p| p.look())
        });
        let first = group.all.iter().filter_map(|p| p.end).map(|(_, at)| at);
        let first = first.min().unwrap_or_else(Instant::now);
        let took = group.ends(&[0, 1, 2], first, LIMIT);
        group.say(took);
        let number = |text: &str| text.replace("RANK", &faulty.to_string());
        for rank in (0..3).filter(|r| *r != faulty) {
            self.expect(&group, rank, &number);
        }
        match self.own {
            Own::Same => self.expect(&group, faulty, &number),
            Own::Error(words) => {
                group.expect_code(faulty, 1);
                group.expect(&group.error(faulty), &[&number(words)]);
            }
            Own::Code(code) => {
                let found = group.code(faulty);
                group.check(found == code, || format!("it ended with {found:?}"));
            }
        }
        group.gone();
    }

    fn expect(&self, group: &Group, rank: usize, number: &impl Fn(&str) -> String) {
        group.expect_code(rank, 1);
        let error = group.error(rank);
        for words in self.words {
            group.expect(&error, &[&number(words)]);
        }
    }
}

fn all(faulty: usize, transport: &str, acts: &[&str]) {
    let chosen = CASES
        .iter()
        .filter(|c| acts.is_empty() || acts.contains(&c.act));
    chosen.for_each(|case| case.run(faulty, transport));
}

#[test]
fn a_rank_that_deviates_over_tcp() {
    all(
        1,
        "tcp",
        &[
            "other", "length", "dtype", "skip", "extra", "early", "leave", "model",
        ],
    );
}

#[test]
fn a_rank_that_deviates_over_shared_memory() {
    all(
        2,
        "shm",
        &[
            "other", "length", "dtype", "skip", "extra", "early", "leave", "model",
        ],
    );
}

#[test]
fn a_rank_that_fails_over_tcp() {
    all(1, "tcp", &["panic", "error", "code", "abort"]);
}

#[test]
fn a_rank_that_fails_over_shared_memory() {
    all(2, "shm", &["panic", "error", "code", "abort"]);
}

#[test]
fn faults_of_rank_0() {
    all(
        0,
        "auto",
        &[
            "length", "early", "leave", "panic", "error", "code", "abort",
        ],
    );
}
