//! Every transport gives the same results.

use super::process::{Run, command};
use super::training::{Training, example};

#[test]
fn every_transport_gives_the_same_bits() {
    let training = Training::new();
    for ranks in [2, 3] {
        let threads = training.of_threads(ranks);
        for transport in ["auto", "tcp", "shm", "ring"] {
            let save = format!("{transport}-{ranks}");
            let mut run = command(example(), "");
            run.args(["--standalone", "--nproc-per-node", &ranks.to_string()]);
            run.args(["--transport", transport]);
            let run = Run::start(run.args(training.args(&save)));
            training.outcome(&save, vec![run]).expect(&threads, &save);
        }
    }
}

#[test]
fn owners_that_are_processes_step_to_the_same_bits() {
    for more in [
        "--optimizer muon",
        "--optimizer lamb --layer-decay 0.75",
        "--optimizer adafactor --strategy fsdp --accumulate 2",
    ] {
        let training = Training::new().with(more);
        for (ranks, transports) in [(2, &["shm"][..]), (3, &["auto", "tcp"])] {
            let threads = training.of_threads(ranks);
            for transport in transports {
                let save = format!("{transport}-{ranks}");
                let mut run = command(example(), "");
                run.args(["--standalone", "--nproc-per-node", &ranks.to_string()]);
                run.args(["--transport", transport]);
                let run = Run::start(run.args(training.args(&save)));
                training.outcome(&save, vec![run]).expect(&threads, more);
            }
        }
    }
}
