//! An evaluation ends soon after SIGTERM, within a scheduler's grace period.

use super::process::Group;
use super::program::Instructions;
use burn::tensor::{Int, Tensor};
use burn_dist::data::{Batch, BatchInfo, Loader};
use burn_dist::{Result, World};
use burn_dist_models::data::Classified;
use burn_dist_models::run::evaluate;
use std::cell::Cell;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(18);

/// Batches of a rank.
const BATCHES: usize = 1000;

/// One sample of two classes.
struct One;

impl Classified for One {
    fn labels(&self) -> Tensor<1, Int> {
        Tensor::zeros([1], &burn::tensor::Device::flex())
    }

    fn weights(&self) -> Tensor<1> {
        Tensor::ones([1], &burn::tensor::Device::flex())
    }

    fn count(&self) -> usize {
        1
    }

    fn inner(self) -> Self {
        self
    }
}

/// The program of a rank: an evaluation that waits in its second batch for the test's file.
pub(super) fn run(instructions: &Instructions, world: &World) -> Result<()> {
    let (rank, size) = (world.rank(), world.size());
    let data: Vec<usize> = (0..BATCHES * size).collect();
    let collate = |_: Vec<usize>, _: &BatchInfo| One;
    let loader = Loader::new(world, data, Batch::per_rank(1), collate)?;
    let batches = Cell::new(0);
    let score = evaluate(world, &loader, 2, |_| {
        batches.set(batches.get() + 1);
        if batches.get() == 2 {
            instructions.announce("at", rank);
            instructions.wait_for("go");
        }
        Tensor::zeros([1, 2], &burn::tensor::Device::flex())
    })?;
    let what = match score {
        Some(score) => format!("scored-{}", score.samples),
        None => format!("stopped-after-{}", batches.get()),
    };
    instructions.announce(&what, rank);
    Ok(())
}

fn evaluation(name: &str) -> Group {
    let mut group = Group::new(name);
    group.set("FAULTS_ACT", "evaluate");
    group
}

#[test]
fn an_evaluation_ends_on_sigterm() {
    let mut group = evaluation("SIGTERM to one rank in an evaluation");
    group.world(2);
    for rank in 0..2 {
        group.until_file(&format!("at-{rank}"));
    }
    group.signal(1, "TERM");
    let since = Instant::now();
    group.make("go");
    group.ends(&[0, 1], since, LIMIT);
    (0..2).for_each(|rank| group.expect_code(rank, 0));
    // A signal needs a moment, but not as many batches as there are.
    let stopped = group.files("stopped-after-").len();
    group.check(stopped == 2, || format!("{:?}", group.files("")));
    group.gone();
}

#[test]
fn an_evaluation_counts_all_samples() {
    let mut group = evaluation("an evaluation");
    group.make("go");
    group.world(2);
    group.ends(&[0, 1], Instant::now(), LIMIT);
    let expected = ["scored-2000-0", "scored-2000-1"];
    group.check(group.files("scored-") == expected, || {
        "other samples".into()
    });
    group.gone();
}
