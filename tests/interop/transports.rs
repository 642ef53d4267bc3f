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
