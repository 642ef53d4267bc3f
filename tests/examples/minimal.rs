//! The smallest example.

use super::run::{Ended, Running};

fn run(args: &str) -> Ended {
    Running::start("minimal", args, &[]).end()
}

#[test]
fn the_loss_falls_on_1_2_and_3_ranks() {
    for ranks in 1..=3 {
        let output = run(&ranks.to_string()).succeeded();
        let [line] = &output[..] else {
            panic!("{output:?}")
        };
        let numbers = line.split(|c: char| !c.is_ascii_digit() && c != '.');
        let losses: Vec<f64> = numbers.filter_map(|number| number.parse().ok()).collect();
        assert_eq!(losses.len(), 2 * ranks, "{line}");
        for rank in losses.chunks(2) {
            assert!(rank[1] < 0.5 * rank[0], "{line}");
        }
    }
}

#[test]
fn an_invalid_number_of_ranks_is_an_error() {
    let ended = run("two");
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("invalid digit"), "{}", ended.stderr);
}
